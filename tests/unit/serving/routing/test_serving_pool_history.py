"""Pools under any order of events: no request meets an arm that was unloaded, nothing stays, and what clients load and
unload is linearizable.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, stateful
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.metrics import counters
from windlass.serving.routing import loader, pool
from windlass.types import directory, spec

VERSIONS = ("1", "2", "3")


class Manual(concurrent.futures.Executor):
    """Does what it was given when it is told to."""

    def __init__(self) -> None:
        self.waiting: collections.deque[Callable[[], None]] = collections.deque()
        self.done = 0

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(work(*arguments, **named))
            except Exception as e:  # noqa: BLE001 - whoever waits is told
                future.set_exception(e)

        self.waiting.append(run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing runs by itself."""

    def work(self) -> None:
        """Do the next."""
        if self.waiting:
            self.waiting.popleft()()
            self.done += 1


def settle(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(12):
        loop.run_until_complete(asyncio.sleep(0))


class Machine(stateful.RuleBasedStateMachine):
    """Specs come, requests begin and end as `question.py` has them, some specs fail."""

    def __init__(self, packages: Any) -> None:
        super().__init__()
        self.packages = packages
        self.loop = asyncio.new_event_loop()
        self.executor = Manual()
        self.models = pool.Pool(self.loop, counters.Counters())
        self.models._loader.shutdown()
        self.models._loader = self.executor  # type: ignore[assignment]
        self.generation = 0
        self.shares: dict[str, float] = {}
        self.held: list[directory.ModelView] = []

    def apply(self, wanted: spec.Spec) -> None:
        task = self.loop.create_task(self.models.apply(wanted))
        while not task.done():
            self.executor.work()
            self.loop.run_until_complete(asyncio.sleep(0))
        task.result()

    @stateful.rule(parts=st.tuples(*[st.integers(0, 4)] * 3).filter(any), fails=st.sampled_from(["", "", *VERSIONS]))
    def change(self, parts: tuple[int, ...], fails: str) -> None:
        total = sum(parts)
        wanted = {v: 100 * part / total for v, part in zip(VERSIONS, parts, strict=True) if part or v == "1"}
        arms = tuple(self.packages.arm(version, share) for version, share in wanted.items())
        self.generation += 1
        self.packages.failing = {fails}
        before = self.models.served.get("m")
        try:
            self.apply(spec.Spec((spec.Endpoint("m", arms, threads=1),), generation=self.generation))
        except OSError:
            assert self.models.served.get("m") is before
        else:
            self.shares = wanted

    @stateful.rule(version=st.sampled_from(["", "", *VERSIONS]))
    def begin(self, version: str) -> None:
        with contextlib.suppress(errors.NotFound, errors.Unavailable):
            view = self.models.find("m", version)
            view.lease.hold()
            if view.route is not None:
                arm = view.route({}, "local", "r")
                arm.lease.hold()
                view.lease.release()
                view = arm
            if not version:
                assert len(self.shares) == 1 or self.shares[view.version] > 0
            self.held.append(view)

    @stateful.rule(which=st.integers(0, 1_000))
    def end(self, which: int) -> None:
        if self.held:
            self.held.pop(which % len(self.held)).lease.release()

    @stateful.invariant()
    def requests_have_their_arms(self) -> None:
        for view in self.held:
            assert f"m@{view.version}" in self.packages.open
        for version in self.shares:
            assert f"m@{version}" in self.packages.open

    def teardown(self) -> None:
        while self.held:
            self.end(0)
        self.packages.failing = set()
        self.apply(spec.Spec((), generation=self.generation + 1))
        assert self.packages.open == []
        self.models.close()
        self.loop.close()


@pytest.mark.promise("P-38")
def test_no_request_meets_an_arm_that_was_unloaded(packages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine() -> Machine:
        fresh = type(packages)()
        monkeypatch.setattr(loader, "load", fresh.load)
        return Machine(fresh)

    stateful.run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=15, stateful_step_count=20, deadline=None)
    )


class Operation(msgspec.Struct, frozen=False):
    """One thing that a client asked: from when to when, and for `find` what it was told."""

    kind: str
    start: int
    end: int = 1 << 30
    found: bool = False


def linearizable(history: list[Operation]) -> bool:
    """Whether some order of the operations, each at one moment of its time, gives what was seen."""

    @functools.cache
    def fits(left: frozenset[int], loaded: bool) -> bool:
        if not left:
            return True
        first_end = min(history[i].end for i in left)
        for i in left:
            one = history[i]
            if one.start <= first_end and (one.kind != "find" or one.found == loaded):
                after = loaded if one.kind == "find" else one.kind == "load"
                if fits(left - {i}, after):
                    return True
        return False

    return fits(frozenset(range(len(history))), False)


def test_the_check_of_histories_finds_what_is_wrong() -> None:
    load, unload = Operation("load", 1, 4), Operation("unload", 5, 6)
    assert linearizable([load, Operation("find", 2, 2, True), unload, Operation("find", 7, 7)])
    assert not linearizable([load, unload, Operation("find", 7, 7, True)])
    assert not linearizable([load, Operation("find", 2, 2, True), Operation("find", 3, 3), unload])


class Clients:
    """Clients who load, unload and ask for a model of the repository."""

    def __init__(self, packages: Any) -> None:
        self.packages = packages
        self.loop = asyncio.new_event_loop()
        self.executor = Manual()
        self.models = pool.Pool(self.loop, counters.Counters())
        self.models._loader.shutdown()
        self.models._loader = self.executor  # type: ignore[assignment]
        self.history: list[Operation] = []
        self.held: list[directory.ModelView] = []
        self.faults: list[str] = []
        self.now = 0
        spare = spec.Endpoint("spare", (packages.arm("1"),), threads=1)
        self.loop.run_until_complete(self.models.apply(spec.Spec((), repository=(spare,))))

    def change(self, kind: str) -> None:
        one = Operation(kind, self.now)
        self.history.append(one)
        worked = self.executor.done

        def done(error: errors.WindlassError | None) -> None:
            one.end = self.now
            # Where nothing was loaded meanwhile, what is said to be gone is gone from memory.
            stays = kind == "unload" and self.executor.done == worked and "spare@1" in self.packages.open
            if error is not None or stays:
                self.faults.append(f"{kind}: {error}")

        (self.models.load if kind == "load" else self.models.unload)("spare", done)

    def find(self, hold: bool) -> None:
        found = False
        with contextlib.suppress(errors.NotFound, errors.Unavailable):
            view = self.models.find("spare")
            found = True
            if hold:
                view.lease.hold()
                self.held.append(view)
            assert "spare@1" in self.packages.open
        self.history.append(Operation("find", self.now, self.now, found))

    def do(self, step: str) -> None:
        self.now += 1
        if step in ("load", "unload"):
            self.change(step)
        elif step in ("find", "hold"):
            self.find(step == "hold")
        elif step == "release" and self.held:
            self.held.pop().lease.release()
        elif step == "served":
            for part in ("load", "turn", "work", "turn"):
                self.do(part)
        elif step == "work":
            self.executor.work()
        else:
            settle(self.loop)

    def finish(self) -> None:
        while self.held or any(one.end == 1 << 30 for one in self.history):
            for step in ("release", "work", "turn"):
                self.do(step)
        self.do("find")
        assert self.packages.open == ["spare@1"] * self.history[-1].found
        assert self.faults == []
        self.models.close()
        self.loop.close()


STEPS = ("load", "served", "unload", "find", "hold", "release", "work", "turn", "turn")


@pytest.mark.promise("P-38")
def test_load_and_unload_are_linearizable(packages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from(STEPS), min_size=4, max_size=25))
    def drill(steps: list[str]) -> None:
        fresh = type(packages)()
        monkeypatch.setattr(loader, "load", fresh.load)
        clients = Clients(fresh)
        for step in steps:
            clients.do(step)
        clients.finish()
        assert linearizable(clients.history)

    drill()
