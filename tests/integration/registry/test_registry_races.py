"""Many processes at once: numbers without gap or duplicate, and aliases that behave as one register."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.types import refs

Push = Callable[..., Any]
Fork = Callable[..., Any]


def push_from_many(place: Any, push: Push, fork: Fork, *, processes: int, each: int) -> None:
    # The schema is made once, before: what races here are pushes.
    registry = place.open()

    def pusher(process: int) -> Callable[[Callable[[str], None]], None]:
        def work(acknowledge: Callable[[str], None]) -> None:
            own = place.open()
            for n in range(each):
                pushed = push(own, f"process {process} push {n}")
                acknowledge(f"{pushed.version} {pushed.digest}")

        return work

    workers = [fork(pusher(process)) for process in range(processes)]
    acknowledged: dict[int, str] = {}
    for worker in workers:
        status, lines = worker.finish()
        assert status == 0
        numbers = [int(line.split()[0]) for line in lines]
        assert numbers == sorted(numbers)
        acknowledged.update({int(number): digest for number, digest in (line.split() for line in lines)})
    total = processes * each
    assert sorted(acknowledged) == list(range(1, total + 1))
    assert {v.version: v.digest for v in registry.versions("digits")} == acknowledged
    assert all(map(registry.store.exists, acknowledged.values()))
    registry.close()


@pytest.mark.promise("P-54")
def test_concurrent_pushes_get_distinct_versions(place: Any, push: Push, fork: Fork) -> None:
    push_from_many(place, push, fork, processes=16, each=12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.promise("P-54")
def test_very_many_concurrent_pushes_get_distinct_versions(place: Any, push: Push, fork: Fork) -> None:
    push_from_many(place, push, fork, processes=64, each=100)


def test_a_fresh_home_is_made_once(place: Any, push: Push, fork: Fork) -> None:
    """Many first users at once: one of them makes the schema, all of them work."""

    def first(acknowledge: Callable[[str], None]) -> None:
        acknowledge(str(push(place.open(), "the same bytes").version))

    assert [worker.finish() for worker in [fork(first) for _ in range(8)]] == [(0, ["1"])] * 8


@pytest.mark.promise("P-56")
def test_the_same_key_at_once_is_one_version(place: Any, push: Push, fork: Fork) -> None:
    place.open().close()

    def one(acknowledge: Callable[[str], None]) -> None:
        pushed = push(place.open(), "the same bytes", idempotency_key="k")
        acknowledge(f"{pushed.version} {pushed.created}")

    assert [worker.finish() for worker in [fork(one) for _ in range(6)]] == [(0, ["1 True"])] * 6


@pytest.mark.promise("P-55")
def test_of_racing_moves_exactly_one_wins(place: Any, push: Push, fork: Fork) -> None:
    """Rounds of compare-and-set from many processes, and readers; then the history is checked as a register's.

    Each operation is (start, end, kind, ...) on one monotonic clock. A move from generation g to g + 1 must have
    exactly one winner, and a read must return what some move had set at a moment between its start and its end.
    """
    registry = place.open()
    for content in "abc":
        push(registry, content)

    def racer(process: int) -> Callable[[Callable[[str], None]], None]:
        def work(acknowledge: Callable[[str], None]) -> None:
            own = place.open()
            for _ in range(12):
                start = time.monotonic()
                history = own.history("digits", "production")
                seen = history[-1].generation if history else 0
                value = history[-1].to_version if history else None
                acknowledge(json.dumps(["read", start, time.monotonic(), seen, value]))
                target = next(
                    n for n in (1, 2, 3) if (n != value and (n + process) % 2 == 0) or n == (value or 0) % 3 + 1
                )
                start = time.monotonic()
                try:
                    own.move_alias("digits", "production", target, actor=str(process), expected_generation=seen)
                    acknowledge(json.dumps(["won", start, time.monotonic(), seen + 1, target]))
                except errors.Conflict:
                    acknowledge(json.dumps(["lost", start, time.monotonic(), seen + 1, target]))

        return work

    operations: list[list[Any]] = []
    for worker in [fork(racer(process)) for process in range(6)]:
        status, lines = worker.finish()
        assert status == 0
        operations += [json.loads(line) for line in lines]
    history = registry.history("digits", "production")
    won = {op[3]: op for op in operations if op[0] == "won"}
    assert len(won) == sum(op[0] == "won" for op in operations), "two moves won the same generation"
    assert sorted(won) == [e.generation for e in history], "the history is not complete"
    assert [won[e.generation][4] for e in history] == [e.to_version for e in history]
    assert [e.from_version for e in history] == [None, *(e.to_version for e in history[:-1])]
    assert any(op[0] == "lost" for op in operations), "nothing raced"
    check_linearizable(operations, won)
    assert registry.resolve(refs.parse("digits")).version == history[-1].to_version
    registry.close()


def check_linearizable(operations: list[list[Any]], won: dict[int, list[Any]]) -> None:
    """Generations only grow, so a register's history is linearizable if no operation contradicts real time."""
    for generation in sorted(won):
        if generation + 1 in won:
            assert won[generation][1] < won[generation + 1][2], "a later move ended before an earlier one began"
    for kind, start, end, generation, value in operations:
        if kind == "read":
            assert generation == 0 or (won[generation][4] == value and won[generation][1] < end), "read from the future"
            overtaken = won.get(generation + 1)
            assert overtaken is None or overtaken[2] > start, "a read missed a move that had ended before it began"
        elif kind == "lost":
            assert won[generation][1] < end, "a move lost against one that had not begun"
