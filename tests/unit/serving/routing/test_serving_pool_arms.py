"""Pools whose endpoints have several arms: what a change loads, keeps and refuses, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import types
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from windlass import errors
from windlass.serving.routing import arms, pool
from windlass.types import manifest, signature, spec


def _spec(generation: int, *arms: spec.Arm, **routing: Any) -> spec.Spec:
    return spec.Spec((spec.Endpoint("m", arms, threads=1, **routing),), generation=generation)


def test_shares_change_at_once_and_load_nothing(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(_spec(1, packages.arm("1", 90), packages.arm("2", 10)))
        assert (packages.loads, packages.open) == (2, ["m@1", "m@2"])
        first = models.find("m")
        assert first.route is not None
        assert first.versions == ("1", "2")
        started = time.perf_counter()
        await models.apply(_spec(2, packages.arm("1", 0), packages.arm("2", 100)))
        assert time.perf_counter() - started < 0.05
        assert packages.loads == 2
        found = models.find("m")
        assert found.route is not None
        drawn = [found.route({}, "local", "r") for _ in range(50)]
        assert {(view.version, view.arm, view.generation) for view in drawn} == {("2", "2", 2)}
        # The old state still answers those who hold it.
        assert first.route({}, "local", "r").generation == 1

    drive(drill)


@pytest.mark.promise("P-37")
def test_an_arm_goes_when_no_state_that_is_held_has_it(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(_spec(1, packages.arm("1", 50), packages.arm("2", 50)))
        held = models.find("m")
        held.lease.hold()
        await models.apply(_spec(2, packages.arm("1")))
        assert packages.open == ["m@1", "m@2"]
        assert models.find("m").route is None
        held.lease.release()
        assert packages.open == ["m@1"]
        await models.apply(_spec(3, packages.arm("2")))
        assert packages.open == ["m@2"]
        assert packages.loads == 3

    drive(drill)


def test_one_version_may_be_two_arms(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        arms = [packages.arm("1", 50, "a"), packages.arm("1", 50, "b")]
        await models.apply(_spec(1, *arms))
        assert packages.loads == 1
        found = models.find("m")
        assert found.route is not None
        assert {found.route({}, "local", "r").arm for _ in range(100)} == {"a", "b"}
        await models.apply(_spec(2, arms[0]))
        assert packages.open == ["m@1"]
        await models.apply(spec.Spec((), generation=3))
        assert packages.open == []

    drive(drill)


@pytest.mark.promise("P-39")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"datatype": "FP64"}, "input 'x' is FP32 of rank 2 in '1', FP64 of rank 2 in '2'"),
        ({"output": "z"}, "output 'y' is present in '1', absent in '2'"),
    ],
)
@pytest.mark.parametrize("shadowed", [False, True])
def test_arms_that_take_other_requests_are_refused(
    packages: Any, drive: Callable[..., None], kind: dict[str, Any], why: str, shadowed: bool
) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(_spec(1, packages.arm("1")))
        before = models.find("m")
        other = packages.arm("2", 50, **kind)
        wanted = _spec(2, packages.arm("1", 50), other)
        if shadowed:
            wanted = _spec(2, packages.arm("1"), shadow=spec.Shadow(other))
        with pytest.raises(errors.UsageError, match=why):
            await models.apply(wanted)
        assert models.find("m") is before
        assert packages.open == ["m@1"]

    drive(drill)


def test_one_may_replace_another_that_takes_other_requests_at_once(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        other = packages.arm("2", 0, datatype="FP64")
        await models.apply(_spec(1, packages.arm("1"), other))
        assert models.find("m").version == "1"
        await models.apply(_spec(2, packages.arm("1", 0), msgspec.structs.replace(other, share=100.0)))
        found = models.find("m")
        assert (found.version, found.signature.inputs[0].datatype) == ("2", "FP64")
        assert packages.loads == 2

    drive(drill)


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ({"x": True}, {"x": False}, ""),
        ({"x": True}, {"x": True, "y": False}, ""),
        ({"x": True}, {"x": True, "y": True}, "field 'y' is absent in '1', number in '2'"),
        ({"x": True}, {}, "field 'x' is number in '1', absent in '2'"),
    ],
)
def test_a_field_that_may_be_left_out_keeps_nobody_apart(one: dict[str, bool], two: dict[str, bool], why: str) -> None:
    def loaded(known: dict[str, bool]) -> Any:
        taken = tuple(manifest.Field(name, "number", required) for name, required in known.items())
        said = types.SimpleNamespace(signature=signature.Signature((), ()), fields=taken)
        return types.SimpleNamespace(session=types.SimpleNamespace(package=types.SimpleNamespace(manifest=said)))

    endpoint = spec.Endpoint("m", (spec.Arm("sha256:1", "1", share=50), spec.Arm("sha256:2", "2", share=50)))
    with pytest.raises(errors.UsageError, match=why) if why else contextlib.nullcontext():
        arms.check_alike(endpoint, [loaded(one), loaded(two)])


@pytest.mark.promise("P-39")
def test_a_second_arm_that_fails_leaves_the_first_alone(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(_spec(1, packages.arm("1")))
        before = models.find("m")
        packages.failing.add("3")
        with pytest.raises(OSError, match="disk"):
            await models.apply(_spec(2, packages.arm("1", 50), packages.arm("2", 25), packages.arm("3", 25)))
        assert models.find("m") is before
        assert (packages.open, packages.loads) == (["m@1"], 2)

    drive(drill)


def test_what_is_told_of_several_arms(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        arms = [packages.arm("1", 60, "old"), packages.arm("2", 40, "new")]
        await models.apply(_spec(4, *arms))
        assert [(s.version, s.state) for s in models.states()] == [("1", "READY"), ("2", "READY")]
        assert [s.version for s in models.statistics("m")] == ["1", "2"]
        assert [s.version for s in models.statistics("m", "2")] == ["2"]
        told = models.config("m", "2")
        assert told["digest"] == arms[1].digest
        assert [(arm["arm"], arm["share"]) for arm in told["arms"]] == [("old", 60), ("new", 40)]
        view = models.find("m", "2")
        assert view.route is not None
        assert (view.route({}, "local", "r").arm, view.generation) == ("new", 0)
        with pytest.raises(errors.NotFound, match="version 1 and 2 is served"):
            models.find("m", "3")

    drive(drill)


def test_runs_are_counted_by_arms_that_have_ids(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        named = msgspec.structs.replace(packages.arm("2", 50), id="new")
        await models.apply(_spec(1, packages.arm("1", 50), named))
        assert [arm.variant for arm in models.served["m"].arms] == ["", "new"]
        # One that is alone need not be told from another.
        await models.apply(_spec(2, msgspec.structs.replace(packages.arm("3"), id="only")))
        assert [arm.variant for arm in models.served["m"].arms] == [""]

    drive(drill)


def test_a_shadow_is_closed_with_its_endpoint(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        mirrored = spec.Shadow(packages.arm("2"), share=50)
        await models.apply(_spec(1, packages.arm("1"), shadow=mirrored))
        found = models.find("m")
        assert found.route is not None
        assert found.route({}, "local", "r").mirror is not None
        assert [s.version for s in models.states()] == ["1"]
        # Its settings change without a load; as an arm it is another thing in memory.
        await models.apply(_spec(2, packages.arm("1"), shadow=spec.Shadow(packages.arm("2"), share=1)))
        assert packages.loads == 2
        assert models.config("m")["shadow"]["share"] == 1
        await models.apply(_spec(3, packages.arm("1", 50), packages.arm("2", 50), shadow=None))
        assert packages.loads == 3
        while packages.open.count("m@2") > 1:
            await asyncio.sleep(0)
        await models.apply(spec.Spec((), generation=4))
        assert packages.open == []

    drive(drill)


def test_what_carries_code_is_loaded_anew_when_a_key_is_withdrawn(packages: Any, drive: Callable[..., None]) -> None:
    async def drill(models: pool.Pool) -> None:
        packages.apart = {"2"}
        a, b, spare = (
            spec.Endpoint(name, (packages.arm(version),), threads=1) for name, version in zip("abc", "122", strict=True)
        )
        await models.apply(spec.Spec((a, b), generation=1, trusted=("k1",), repository=(spare,)))
        loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        models.load("c", loaded.set_result)
        assert await loaded is None
        await models.apply(spec.Spec((a, b), generation=2, trusted=("k1", "k2"), repository=(spare,)))
        assert (packages.loads, packages.open) == (3, ["a@1", "b@2", "c@2"])
        before = models.find("a"), models.find("b")
        await models.apply(spec.Spec((a, b), generation=3, trusted=("k2",), repository=(spare,)))
        assert (packages.loads, packages.open) == (4, ["a@1", "b@2"])
        assert models.find("a") is before[0]
        assert models.find("b") is not before[1]
        # Clients may load theirs again, if it is signed.
        with pytest.raises(errors.NotFound):
            models.find("c")

    drive(drill)


def test_what_was_prepared_is_taken_up_or_let_go(
    packages: Any, drive: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drill(models: pool.Pool) -> None:
        one, two = packages.arm("1", 100), packages.arm("2", 0)
        await models.apply(spec.Spec((spec.Endpoint("m", (one,)),), 1))
        wanted = spec.Spec((spec.Endpoint("m", (one, two)),), 2)
        await models.prepare(wanted)
        assert (packages.loads, models.generation, models.find("m").versions) == (2, 1, ("1",))
        await models.prepare(wanted)
        await models.apply(wanted)
        assert (packages.loads, models.find("m").versions) == (2, ("1", "2"))
        # What another signer is trusted for is loaded, and checked, anew.
        other = packages.arm("3", 0)
        third = spec.Spec((spec.Endpoint("m", (one, other)),), 3)
        await models.prepare(third)
        await models.apply(msgspec.structs.replace(third, trusted=("aa",)))
        assert packages.loads == 4
        monkeypatch.setattr(pool, "PREPARED_S", 0.0)
        await models.prepare(spec.Spec((spec.Endpoint("m", (one, packages.arm("4", 0))),), 4))
        for _ in range(5):
            await asyncio.sleep(0)
        assert "m@4" not in packages.open
        packages.failing.add("5")
        with pytest.raises(OSError, match="disk"):
            await models.prepare(spec.Spec((spec.Endpoint("m", (one, packages.arm("5", 0))),), 4))
        assert models.failed["m"].arm == "5"
        assert models.find("m").versions == ("1", "3")

    drive(drill)
