"""What every target promises, as `targets/base.py` says it: one suite for the fake and for the real ones.

A target joins by a line in `PLACES`: a function that makes it, with releases that it can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from windlass import errors, plugins
from windlass.targets import base, memory
from windlass.types import deployment


class Place(NamedTuple):
    """A target under test: three releases that it can run, one that it cannot, and how to send it requests."""

    target: base.Target
    releases: tuple[deployment.Release, deployment.Release, deployment.Release]
    broken: deployment.Release
    ask: Callable[[str, int], None]


def in_memory(_folder: Path) -> Iterator[Place]:
    now = [0.0]
    target = memory.Memory(lambda: now[0])
    target.refused["9"] = "its golden outputs differ"

    def ask(name: str, requests: int) -> None:
        now[0] += 1
        shares = target.observe(name).shares
        counts = {arm: round(requests * share / 100) for arm, share in shares.items() if share}
        target.count(name, {arm: deployment.Counts(admitted=n, ok=n) for arm, n in counts.items()})
        for number in range(requests):
            arm = max(counts, key=lambda one: counts[one])
            target.expose(name, memory.Exposure(now[0], f"r{now[0]:g}-{number}", arm))

    first, second, third, broken = (release(version) for version in (1, 2, 3, 9))
    yield Place(target, (first, second, third), broken, ask)


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


PLACES: dict[str, Callable[[Path], Iterator[Place]]] = {"memory": in_memory}
# What takes a server is a fixture, which all tests share.
SHARED = {"local": "in_local"}


@pytest.fixture(params=sorted({*PLACES, *SHARED}))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param in PLACES:
        yield from PLACES[request.param](tmp_path)
    else:
        target, releases, ask = request.getfixturevalue(SHARED[request.param])
        yield Place(target, releases[:3], releases[3], ask)


def wanted(
    *arms: tuple[deployment.Release, float], name: str = "m", mirror: deployment.Release | None = None
) -> deployment.Wanted:
    return deployment.Wanted(
        name=name,
        arms=tuple(deployment.Arm(one, share) for one, share in arms),
        mirror=deployment.Mirror(mirror) if mirror else None,
        salt="s",
        epoch=1,
    )


def admitted(seen: deployment.Observed, arm: str) -> int:
    return sum(one.counts[arm].admitted for one in seen.segments if arm in one.counts)


def test_the_catalogue_knows_the_targets_under_test() -> None:
    assert {*PLACES, *SHARED} == set(plugins.catalog()["targets"])


def test_what_was_never_applied_is_not_there(place: Place) -> None:
    seen = place.target.observe("nobody")
    assert (seen.arms, seen.shares) == ({}, {})
    place.target.remove("nobody")
    assert list(place.target.exposures("nobody", 0.0)) == []


def test_what_is_applied_is_in_force_when_it_returns(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 100)))
    seen = place.target.observe("m")
    assert seen.shares == {old.arm: 100}
    assert seen.arms[old.arm].state == "READY"
    place.target.apply(wanted((old, 100), (new, 0)))
    seen = place.target.observe("m")
    assert seen.shares == {old.arm: 100, new.arm: 0}
    assert {arm: one.state for arm, one in seen.arms.items()} == {old.arm: "READY", new.arm: "READY"}
    place.target.apply(wanted((old, 0), (new, 100)))
    assert place.target.observe("m").shares == {old.arm: 0, new.arm: 100}
    place.target.apply(wanted((new, 100)))
    seen = place.target.observe("m")
    assert seen.shares == {new.arm: 100}
    assert set(seen.arms) == {new.arm}


def test_applying_twice_changes_nothing(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 90), (new, 10)))
    before = place.target.observe("m")
    place.target.apply(wanted((old, 90), (new, 10)))
    after = place.target.observe("m")
    assert (after.generation, after.shares, after.arms) == (before.generation, before.shares, before.arms)


def test_other_shares_are_another_generation_with_counts_of_its_own(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 100), (new, 0)))
    place.ask("m", 20)
    first = place.target.observe("m")
    assert admitted(first, old.arm) == 20
    assert admitted(first, new.arm) == 0
    place.target.apply(wanted((old, 50), (new, 50)))
    place.ask("m", 40)
    seen = place.target.observe("m")
    assert seen.measured
    assert seen.generation > first.generation
    generations = [one.generation for one in seen.segments]
    assert generations == sorted(set(generations))
    latest = seen.segments[-1]
    assert (latest.generation, latest.shares) == (seen.generation, {old.arm: 50, new.arm: 50})
    assert sum(counts.admitted for counts in latest.counts.values()) == 40
    assert admitted(seen, old.arm) + admitted(seen, new.arm) == 60


def test_another_threshold_of_slow_answers_is_another_generation(place: Place) -> None:
    old, new, _ = place.releases
    before = wanted((old, 50), (new, 50))
    place.target.apply(before)
    first = place.target.observe("m").generation
    place.target.apply(msgspec.structs.replace(before, slow_ms=5.0))
    assert place.target.observe("m").generation > first


@pytest.mark.promise("P-39")
def test_a_release_that_cannot_be_loaded_is_refused_and_what_served_serves_on(place: Place) -> None:
    old, *_ = place.releases
    place.target.apply(wanted((old, 100)))
    before = place.target.observe("m")
    with pytest.raises((errors.GateRefused, errors.CorruptPackage)):
        place.target.apply(wanted((old, 100), (place.broken, 0)))
    seen = place.target.observe("m")
    assert (seen.shares, seen.generation) == (before.shares, before.generation)
    assert seen.arms[old.arm].state == "READY"
    assert seen.arms.get(place.broken.arm, deployment.ArmState("ABSENT")).state in ("ABSENT", "FAILED")
    place.ask("m", 5)
    assert admitted(place.target.observe("m"), old.arm) == 5


def test_a_mirror_has_a_state_and_no_share(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 100), mirror=new))
    seen = place.target.observe("m")
    assert seen.shares == {old.arm: 100}
    assert seen.arms[new.arm].state == "READY"
    assert seen.mirrored is not None


def test_three_releases_answer_side_by_side(place: Place) -> None:
    one, two, three = place.releases
    place.target.apply(wanted((one, 40), (two, 30), (three, 30)))
    assert place.target.observe("m").shares == {one.arm: 40, two.arm: 30, three.arm: 30}


def test_deployments_know_nothing_of_each_other(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 100)))
    place.target.apply(wanted((new, 100), name="other"))
    place.ask("m", 5)
    assert place.target.observe("m").shares == {old.arm: 100}
    assert admitted(place.target.observe("other"), new.arm) == 0
    place.target.remove("other")
    assert place.target.observe("other").shares == {}
    assert place.target.observe("m").shares == {old.arm: 100}


def test_what_was_removed_runs_no_more_and_may_come_back(place: Place) -> None:
    old, new, _ = place.releases
    place.target.apply(wanted((old, 100)))
    before = place.target.observe("m").generation
    place.target.remove("m")
    place.target.remove("m")
    seen = place.target.observe("m")
    assert (seen.arms, seen.shares) == ({}, {})
    place.target.apply(wanted((new, 100)))
    seen = place.target.observe("m")
    assert seen.shares == {new.arm: 100}
    assert seen.generation > before, "what was counted before is not mixed with what comes"


@pytest.mark.parametrize("shares", [(60.0, 30.0), (110.0, -10.0), (0.0, 0.0)], ids=["too little", "negative", "nobody"])
def test_shares_that_do_not_sum_to_100_are_refused(place: Place, shares: tuple[float, float]) -> None:
    old, new, _ = place.releases
    with pytest.raises(errors.WindlassError):
        place.target.apply(wanted((old, shares[0]), (new, shares[1])))
    assert place.target.observe("m").shares == {}
