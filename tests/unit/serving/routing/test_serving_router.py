"""The draw: its probabilities, its stickiness, what a caller may choose, and what is noted of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.routing import router
from windlass.types import contract, directory, manifest, signature, spec

X = signature.TensorSpec("x", "FP32", ("batch", 2))
SIGNATURE = signature.Signature((X,), (msgspec.structs.replace(X, name="y"),))
BASE = directory.ModelView(
    name="m",
    version="1",
    versions=("1",),
    platform="",
    signature=SIGNATURE,
    contract=contract.Contract(SIGNATURE, max_rows=1, max_elements=8),
    limits=manifest.Limits(),
    transformer=None,  # type: ignore[arg-type]
    labels=(),
    infer=lambda _call: None,
    lease=directory.Lease(),
)


def endpoint(*shares: float, **routing: Any) -> spec.Endpoint:
    """An endpoint with arms `a0`, `a1` ... of these shares."""
    return spec.Endpoint(
        "m", tuple(spec.Arm(f"d{i}", str(i), id=f"a{i}", share=share) for i, share in enumerate(shares)), **routing
    )


def routed(told: spec.Endpoint, uniform: Callable[[], float] = random.random) -> tuple[router.Router, list[Any]]:
    """A router over views that are not loaded, and the list of what it notes."""
    router.check(told)
    noted: list[Any] = []
    drawn = [msgspec.structs.replace(BASE, arm=arm.name, version=arm.version, generation=7) for arm in told.arms]
    chosen = {view.arm: msgspec.structs.replace(view, generation=0) for view in drawn}
    return router.Router(told, drawn, chosen, lambda *line: noted.append(line), uniform), noted


shares = st.lists(st.integers(0, 100), min_size=1, max_size=7).filter(any)


@given(shares)
def test_the_layout_has_the_shares_as_lengths(parts: list[int]) -> None:
    order, ends = router.layout(parts)
    assert ends[-1] == 1.0
    assert sorted(order) == [index for index, part in enumerate(parts) if part]
    starts = [0.0, *ends[:-1]]
    for index, start, end in zip(order, starts, ends, strict=True):
        assert end - start == pytest.approx(parts[index] / sum(parts), abs=1e-12)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.lists(st.binary(min_size=1), max_size=30))
def test_a_growing_share_moves_keys_from_the_baseline_only(
    grown: int, before: int, other: int, keys: list[bytes]
) -> None:
    """Two arms beside the baseline, either of which grows: a key stays or goes from the baseline to that arm."""
    small, large = sorted((grown, before))
    if large + other > 100:
        other = 100 - large
    for grows in (1, 2):
        first, second = ([100 - s - other, s, other] for s in (small, large))
        if grows == 2:
            first, second = ([a, c, b] for a, b, c in (first, second))
        one, _ = routed(endpoint(*first, sticky="header:user", salt="s"))
        two, _ = routed(endpoint(*second, sticky="header:user", salt="s"))
        for key in keys:
            was, now = (r.route({b"user": key}, "local", "r").arm for r in (one, two))
            assert was == now or (was, now) == ("a0", f"a{grows}")


@pytest.mark.parametrize("sticky", ["", "header:user"])
def test_the_draw_follows_the_shares(sticky: str) -> None:
    """Chi-square over 20,000 draws; the critical value at 0.001 with two degrees of freedom is 13.8."""
    wanted = (70.0, 20.0, 10.0)
    told = endpoint(*wanted, sticky=sticky, salt="s" if sticky else "")
    found, noted = routed(told, random.Random(7).random)
    counts = dict.fromkeys(("a0", "a1", "a2"), 0)
    for i in range(20_000):
        counts[found.route({b"user": b"%d" % i}, "local", "r").arm] += 1
    expected = [20_000 * share / 100 for share in wanted]
    assert sum((n - e) ** 2 / e for n, e in zip(counts.values(), expected, strict=True)) < 13.8
    assert {(line[1], line[2]) for line in noted} == {("a0", 0.7), ("a1", 0.2), ("a2", 0.1)}
    assert {line[4] for line in noted} == {"sticky" if sticky else "draw"}


def test_an_arm_without_a_share_is_never_drawn_and_may_be_named() -> None:
    places = iter((0.0, 0.5, 1 - 2**-53))
    found, noted = routed(endpoint(100.0, 0.0, override=True), lambda: next(places))
    assert [found.route({}, "local", "r").arm for _ in range(3)] == ["a0"] * 3
    view = found.route({b"x-windlass-arm": b"a1"}, "key1", "r9")
    assert (view.arm, view.generation) == ("a1", 0)
    assert noted[-1] == ("r9", "a1", 1.0, 0, "override", "", "key1")


def test_a_pin_goes_before_the_override_and_both_before_the_draw() -> None:
    pins = (spec.Pin("X-Tenant", "acme", "a1"),)
    found, noted = routed(endpoint(100.0, 0.0, pins=pins, override=True))
    headers = {b"x-tenant": b"acme", b"x-windlass-arm": b"a0"}
    assert found.route(headers, "local", "r").arm == "a1"
    assert noted[-1][4] == "pin"
    assert found.route(headers | {b"x-tenant": b"other"}, "local", "r").arm == "a0"
    assert noted[-1][4] == "override"
    with pytest.raises(errors.InvalidInput, match="'a0', 'a1'"):
        found.route({b"x-windlass-arm": b"nothing"}, "local", "r")
    # Who may not choose is not heard.
    found, noted = routed(endpoint(100.0, 0.0))
    assert found.route({b"x-windlass-arm": b"a1"}, "local", "r").arm == "a0"
    assert noted[-1][4] == "draw"


def test_a_version_that_is_asked_for_is_noted_and_no_evidence() -> None:
    found, noted = routed(endpoint(100.0, 0.0))
    view = found.chooser("a1")({}, "key1", "r1")
    assert (view.version, view.generation) == ("1", 0)
    assert noted == [("r1", "a1", 1.0, 0, "version", "", "key1")]


@given(st.binary(min_size=1, max_size=64))
def test_a_sticky_key_stays_and_is_not_written_down(key: bytes) -> None:
    told = endpoint(50.0, 50.0, sticky="header:X-User", salt="pepper")
    found, noted = routed(told)
    first = found.route({b"x-user": key}, "local", "r1")
    assert found.route({b"x-user": key}, "local", "r2") is first
    assert noted[0][5] == noted[1][5] != ""
    assert len(noted[0][5]) == 32
    if len(key) > 3:
        assert key.hex() not in noted[0][5]
    other, again = routed(msgspec.structs.replace(told, salt="salt"))
    other.route({b"x-user": key}, "local", "r1")
    assert again[0][5] != noted[0][5]


def test_without_its_sticky_key_a_request_is_drawn_at_random() -> None:
    by_header, noted = routed(endpoint(50.0, 50.0, sticky="header:user", salt="s"), lambda: 0.0)
    by_header.route({}, "key1", "r")
    by_header.route({b"user": b""}, "key1", "r")
    by_caller, of_callers = routed(endpoint(50.0, 50.0, sticky="caller", salt="s"), lambda: 0.0)
    by_caller.route({}, "local", "r")
    assert [(line[4], line[5]) for line in (*noted, *of_callers)] == [("draw", "")] * 3
    by_caller.route({}, "key1", "r")
    assert of_callers[-1][4] == "sticky"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (spec.Endpoint("m", ()), "no arm"),
        (endpoint(50.0, 49.0), "sum to 99"),
        (endpoint(150.0, -50.0), "from 0 to 100"),
        (endpoint(float("nan"), 100.0), "from 0 to 100"),
        (spec.Endpoint("m", (spec.Arm("d", "1", share=50), spec.Arm("e", "1", share=50))), "two arms of one name"),
        (endpoint(50.0, 50.0, pins=(spec.Pin("h", "v", "a9"),)), "'a0', 'a1'"),
        (endpoint(50.0, 50.0, sticky="cookie", salt="s"), "header:NAME"),
        (endpoint(50.0, 50.0, sticky="header:", salt="s"), "header:NAME"),
        (endpoint(50.0, 50.0, sticky="caller"), "no salt"),
        (endpoint(100.0, shadow=spec.Shadow(spec.Arm("e", "2", id="a0"))), "two arms of one name"),
        (endpoint(100.0, shadow=spec.Shadow(spec.Arm("e", "2"), share=101)), "out of range"),
        (endpoint(100.0, shadow=spec.Shadow(spec.Arm("e", "2"), atol=-1)), "out of range"),
    ],
)
def test_an_endpoint_that_cannot_be_routed_is_refused(told: spec.Endpoint, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why):
        router.check(told)


def test_one_arm_may_have_any_share() -> None:
    router.check(endpoint(30.0))
    found, _ = routed(endpoint(30.0))
    assert found.route({}, "local", "r").arm == "a0"
