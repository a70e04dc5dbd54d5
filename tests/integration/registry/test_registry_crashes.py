"""kill -9 at any moment: what was acknowledged is there, and nothing half."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from windlass.records import audit
from windlass.registry import registry as registries
from windlass.storage import blobs, database
from windlass.types import refs

Push = Callable[..., Any]
Fork = Callable[..., Any]


def work_until_killed(place: Any, push: Push, cycle: int) -> Callable[[Callable[[str], None]], None]:
    """Push, move the alias and collect garbage, acknowledging each on the pipe."""

    def work(acknowledge: Callable[[str], None]) -> None:
        registry = place.open()
        acknowledge("begin")
        for step in range(1_000):
            pushed = push(registry, f"cycle {cycle} step {step}")
            acknowledge(f"push {pushed.version} {pushed.digest}")
            moved = registry.move_alias("digits", "production", pushed.version, actor="ada")
            acknowledge(f"move {moved.generation} {moved.to_version}")
            registry.gc(0)
            if step % 3 == 2:
                registry.delete("digits", pushed.version - 1, actor="ada")
                acknowledge(f"delete {pushed.version - 1} {step}")

    return work


class Ledger:
    """All that was acknowledged, and whether the registry still says so."""

    def __init__(self) -> None:
        self.pushed: dict[int, str] = {}
        self.moved: dict[int, int] = {}
        self.deleted: set[int] = set()
        self.looked_at: set[int] = set()

    def note(self, lines: list[str]) -> None:
        for line in lines:
            kind, *values = line.split()
            if kind == "push":
                number, digest = int(values[0]), values[1]
                assert self.pushed.setdefault(number, digest) == digest, "a number was given twice"
            elif kind == "move":
                assert int(values[0]) not in self.moved, "a generation was given twice"
                self.moved[int(values[0])] = int(values[1])
            elif kind == "delete":
                self.deleted.add(int(values[0]))

    def check(self, registry: registries.Registry) -> None:
        if not registry.models():
            assert not self.pushed
            return
        found = {v.version: v for v in registry.versions("digits")}
        assert sorted(found) == list(range(1, len(found) + 1)), "a gap in the numbers"
        for number, digest in self.pushed.items():
            assert found[number].digest == digest
        for number in self.deleted:
            assert found[number].status == "DELETED"
        events = {e.generation: e for e in registry.history("digits", "production")}
        assert sorted(events) == list(range(1, len(events) + 1))
        for generation, target in self.moved.items():
            assert events[generation].to_version == target
        # Acknowledged or not, what can be seen is whole; versions seen whole before are looked at again at the end.
        for number in sorted(set(found) - self.looked_at):
            if found[number].status != "DELETED":
                read_whole(registry, number)
                self.looked_at.add(number)

    def check_all(self, registry: registries.Registry) -> None:
        self.looked_at.clear()
        self.check(registry)


def check_audit(place: Any, ledger: Ledger) -> None:
    """The chain is whole, and tells of each change that was acknowledged, once."""
    rows = database.open_database(place.url)
    with rows.read() as connection:
        assert audit.verify(connection, [audit.head(connection)]).bad == 0
        entries = audit.entries(connection, limit=1_000_000)
    rows.close()
    created = [e.subject for e in entries if e.action == "version.created"]
    moved = {e.detail["generation"]: e.detail["to"] for e in entries if e.action == "alias.moved"}
    deleted = [e.subject for e in entries if e.action == "version.deleted"]
    assert created == [f"model/digits@{n}" for n in range(1, len(created) + 1)]
    assert max(ledger.pushed) <= len(created)
    assert ledger.moved.items() <= moved.items()
    assert len(set(deleted)) == len(deleted)
    assert {f"model/digits@{n}" for n in ledger.deleted} <= set(deleted)


def read_whole(registry: registries.Registry, number: int) -> None:
    shown = registry.show(refs.parse(f"digits@{number}"))
    assert shown.version.status == "READY"
    assert len(shown.evidence) == 1
    for blob in shown.manifest.blobs().values():
        assert blobs.digest_of(registry.store.read(blob)) == blob.digest


def kill_cycles(place: Any, push: Push, fork: Fork, cycles: int) -> Ledger:
    randomness = random.Random(53)
    ledger = Ledger()
    registry = place.open()
    started = time.monotonic()
    first = push(registry, "to see how long a round takes here")
    registry.gc(0)
    ledger.note([f"push {first.version} {first.digest}"])
    a_round = time.monotonic() - started
    for cycle in range(cycles):
        worker = fork(work_until_killed(place, push, cycle))
        # A child is killed while it opens, in its first round, or after it.
        if cycle % 10:
            worker.wait_for_line()
        time.sleep(randomness.uniform(0.0, 1.5 * a_round))
        worker.kill()
        status, lines = worker.finish()
        assert status == -9
        ledger.note(lines)
        # The machine may be busier now than it was: keep about two kills in three after an acknowledged push.
        a_round *= 0.95 if any(line.startswith("push") for line in lines) else 1.1
        if cycle % 4 == 3:
            ledger.check(registry)
    ledger.check_all(registry)
    registry.gc(0)
    ledger.check_all(registry)
    registry.close()
    check_audit(place, ledger)
    return ledger


@pytest.mark.timeout(400)
@pytest.mark.promise("P-53")
def test_what_was_acknowledged_survives_kill_9(place: Any, push: Push, fork: Fork) -> None:
    cycles = 60 if place.url.startswith("sqlite") else 30
    ledger = kill_cycles(place, push, fork, cycles)
    assert len(ledger.pushed) > cycles // 5, "the drill killed before there was anything to lose"
    assert ledger.moved


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.promise("P-53")
def test_what_was_acknowledged_survives_ten_thousand_kills(place: Any, push: Push, fork: Fork) -> None:
    assert kill_cycles(place, push, fork, 10_000).pushed
