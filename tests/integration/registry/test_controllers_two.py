"""Two controllers on one database, from two threads, while rollouts go on: never do both act."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from windlass.controller import acting, deployments, feedback, lead, loop
from windlass.records import deployments as stored
from windlass.records import rollouts
from windlass.registry import registry as registries
from windlass.storage import database
from windlass.targets import memory
from windlass.types import deployment

TTL_S = 0.4


class Watched(memory.Memory):
    """Notes who acts, by the token of the lease that is in force at that moment."""

    def __init__(self, rows: database.Database) -> None:
        super().__init__()
        self.acts: list[tuple[str, str]] = []
        self._rows = rows
        self._lock = threading.Lock()

    def apply_as(self, holder: str, wanted: deployment.Wanted) -> None:
        with self._lock:
            self.acts.append((holder, wanted.name))
            super().apply(wanted)


class As:
    """The target as one controller holds it."""

    def __init__(self, target: Watched, holder: str) -> None:
        self.observe, self.exposures, self.remove = target.observe, target.exposures, target.remove
        self._target, self._holder = target, holder

    def apply(self, wanted: deployment.Wanted) -> None:
        self._target.apply_as(self._holder, wanted)


class Paused(lead.Lead):
    """Now and then it is stopped for longer than its lease lasts, right before it writes."""

    turns = 0

    def beat(self) -> bool:
        self.turns += 1
        if self.turns % 7 == 0:
            time.sleep(2 * TTL_S)
        return super().beat()


def test_two_controllers_never_both_act(
    place: Any, registry: registries.Registry, push: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REST_S", 0.05)
    rows = database.open_database(place.url)
    target = Watched(rows)
    stop = threading.Event()
    failed: list[BaseException] = []

    def control(holder: str) -> None:
        leading = Paused(rows, time.time, holder=holder, ttl_s=TTL_S)
        told = feedback.Feedback(rows, time.time)
        hands = acting.Hands(leading, {"local": As(target, holder)}, told, time.time)
        reconciler = deployments.Reconciler(rows, leading, registry, hands, time.time)
        mine = loop.Controller(rows, leading, reconciler, time.time, interval_s=0.02)
        while not stop.is_set():
            try:
                mine.once()
            except BaseException as e:
                failed.append(e)
                raise
            stop.wait(0.02)

    pushed = [push(registry, f"version {number}") for number in range(6)]
    threads = [threading.Thread(target=control, args=(holder,)) for holder in ("one", "two")]
    for thread in threads:
        thread.start()
    try:
        for one in pushed:
            release = deployment.Release("digits", one.version, one.digest)
            with rows.write() as connection:
                stored.put(
                    connection, deployment.Desired("digits", release), expected=None, actor="ada", now=time.time()
                )
            _until_live(rows, release)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    with rows.read() as connection:
        history = rollouts.of(connection, "digits")
        steps = [[step.number for step in rollouts.steps(connection, one.id)] for one in history]
    rows.close()
    assert [one.outcome for one in history] == ["new"] * 6
    assert [one.new.version for one in history] == [one.version for one in reversed(pushed)]
    assert all(numbers == list(range(len(numbers))) for numbers in steps), "each step was taken once"
    assert {holder for holder, _ in target.acts} == {"one", "two"}, "each had its turn"
    assert target.observe("digits").shares == {str(pushed[-1].version): 100.0}


def _live(rows: database.Database) -> deployment.Release | None:
    with rows.read() as connection:
        found = stored.get(connection, "digits")
    return None if found is None or found.status.generation != found.generation else found.status.live


def _until_live(rows: database.Database, release: deployment.Release) -> None:
    deadline = time.monotonic() + 60
    while _live(rows) != release:
        assert time.monotonic() < deadline
        time.sleep(0.02)
