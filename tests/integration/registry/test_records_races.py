"""Many processes at the records at once, on both databases: one holder, one winner, one chain, nothing out of order."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit, deployments, jobs, leases, outbox, rollouts
from windlass.storage import database, tables
from windlass.types import deployment as types

Fork = Callable[..., Any]
Say = Callable[[str], None]


@pytest.fixture
def rows(place: Any) -> Any:
    opened = database.open_database(place.url)
    yield opened
    opened.close()


def release(version: int) -> types.Release:
    return types.Release("fraud", version, f"sha256:{version:064x}")


def race(fork: Fork, work: Callable[[int, Say], None], processes: int) -> list[list[Any]]:
    """Run `work` in several processes; all that they said, as JSON."""
    workers = [fork(lambda say, n=n: work(n, say)) for n in range(processes)]
    said: list[list[Any]] = []
    for worker in workers:
        status, lines = worker.finish()
        assert status == 0
        said += [json.loads(line) for line in lines]
    return said


def test_two_never_hold_a_lease_at_once(place: Any, rows: Any, fork: Fork) -> None:
    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        mine, deadline = 0, time.monotonic() + 60
        while mine < 4 and time.monotonic() < deadline:
            with own.write() as c:
                token = leases.acquire(c, "controller", str(process), ttl_s=600, now=time.time())
            if token is None:
                continue
            began = time.monotonic()
            with own.write() as c:
                held = leases.hold(c, "controller", token)
            ended = time.monotonic()
            with own.write() as c:
                leases.release(c, "controller", token)
            say(json.dumps([token, began, ended, held]))
            mine += 1

    said = sorted(race(fork, work, 5))
    assert len(said) == 20, "somebody never got it"
    assert all(held for *_, held in said)
    tokens = [token for token, *_ in said]
    assert len(set(tokens)) == len(tokens), "a token was given twice"
    for (_, _, ended, _), (_, began, _, _) in itertools.pairwise(said):
        assert ended <= began, "two held it at once"


def test_whoever_lost_the_lease_writes_nothing(rows: Any) -> None:
    """A controller that stood still comes back: its place is taken, and `hold` tells it before it writes."""
    with rows.write() as c:
        old = leases.acquire(c, "controller", "a", ttl_s=1, now=0.0)
    with rows.write() as c:
        new = leases.acquire(c, "controller", "b", ttl_s=1, now=5.0)
    with rows.write() as c:
        assert (leases.hold(c, "controller", old), leases.hold(c, "controller", new)) == (False, True)


@pytest.mark.promise("P-76")
def test_the_chain_is_one_whatever_writes_at_once(place: Any, rows: Any, fork: Fork) -> None:
    """Half of the processes note first and lock rows after, the others the other way about: nothing deadlocks."""
    with rows.write() as c:
        deployments.put(c, types.Desired("fraud", release(1)), expected=0, actor="ada", now=0.0)

    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        row = sa.select(tables.deployment).where(tables.deployment.c.name == "fraud").with_for_update()
        for n in range(12):
            with own.write() as c:
                if process % 2:
                    c.execute(row).one()
                audit.append(c, actor=str(process), action="a.b", subject=f"model/m{n}", now=float(n))
                outbox.add(c, "a.b", {"process": process, "n": n}, now=0.0)
                if not process % 2:
                    c.execute(row).one()
            say(json.dumps([process, n]))

    said = race(fork, work, 6)
    with rows.read() as c:
        found = audit.verify(c, [audit.head(c)])
        entries = audit.entries(c, limit=1000)
    assert (found.bad, found.entries) == (0, 73)
    assert sorted([int(e.actor), int(e.at)] for e in entries[1:]) == sorted(said), "an entry is missing or too many"


def test_a_reader_of_events_misses_none(place: Any, rows: Any, fork: Fork) -> None:
    """Whoever reads on from the last id that it saw sees every event, though many write at once."""

    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        for n in range(15):
            with own.write() as c:
                outbox.add(c, "a.b", {"process": process, "n": n}, now=0.0)
                # Others that began later commit before.
                time.sleep(0.001 * (process % 3))
        say("0")

    workers = [fork(lambda say, n=n: work(n, say)) for n in range(5)]
    seen: list[int] = []
    deadline = time.monotonic() + 120
    while len(seen) < 75 and time.monotonic() < deadline:
        with rows.read() as c:
            seen += [event.id for event in outbox.after(c, seen[-1] if seen else 0)]
    for worker in workers:
        assert worker.finish()[0] == 0
    with rows.read() as c:
        assert seen == [event.id for event in outbox.after(c, 0)]
    assert len(seen) == 75


@pytest.mark.promise("P-55")
def test_of_racing_wishes_exactly_one_wins(place: Any, rows: Any, fork: Fork) -> None:
    """Compare-and-set on a deployment's generation, judged as a register: each was won once, in real time."""
    with rows.write() as c:
        deployments.put(c, types.Desired("fraud", release(1)), expected=0, actor="start", now=0.0)

    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        for n in range(12):
            start = time.monotonic()
            with own.read() as c:
                seen = deployments.get(c, "fraud")
            assert seen is not None
            say(json.dumps(["read", start, time.monotonic(), seen.generation, seen.desired.release.version]))
            version = 1000 * (process + 1) + n
            start = time.monotonic()
            try:
                with own.write() as c:
                    wish = types.Desired("fraud", release(version))
                    deployments.put(c, wish, expected=seen.generation, actor=str(process), now=0.0)
                say(json.dumps(["won", start, time.monotonic(), seen.generation + 1, version]))
            except errors.Conflict:
                say(json.dumps(["lost", start, time.monotonic(), seen.generation + 1, version]))

    operations = race(fork, work, 5)
    won = {op[3]: op for op in operations if op[0] == "won"}
    assert len(won) == sum(op[0] == "won" for op in operations), "a generation was won twice"
    assert sorted(won) == list(range(2, len(won) + 2)), "a generation is missing"
    assert any(op[0] == "lost" for op in operations), "nothing raced"
    for generation, (_, began, *_) in won.items():
        assert generation + 1 not in won or began < won[generation + 1][2]
    for kind, start, end, generation, version in operations:
        if kind == "read" and generation > 1:
            assert won[generation][4] == version
            assert won[generation][1] < end, "read from the future"
            assert generation + 1 not in won or won[generation + 1][2] > start, "a wish that had ended was missed"
    with rows.read() as c:
        last = deployments.get(c, "fraud")
        history = [e.detail["desired"]["release"]["version"] for e in audit.entries(c, limit=1000)]
    assert last is not None
    assert last.generation == len(won) + 1
    assert history == [1, *(won[generation][4] for generation in sorted(won))], "the history is not what was won"


def test_of_two_controllers_one_takes_each_step(place: Any, rows: Any, fork: Fork) -> None:
    with rows.write() as c:
        wish = types.Desired("fraud", release(2))
        deployments.put(c, wish, expected=0, actor="ada", now=0.0)
        turn = rollouts.Turn({}, "RUNNING")
        begun = rollouts.start(c, wish=wish, generation=1, old=release(1), turn=turn, actor="ada", now=0.0)

    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        for step in range(20):
            turn = rollouts.Turn({"by": process}, "RUNNING", words=str(process))
            with own.write() as c:
                if rollouts.advance(c, begun.id, turn, expected_step=step, now=float(step)):
                    say(json.dumps([step + 1, str(process)]))

    said = race(fork, work, 4)
    with rows.read() as c:
        steps = rollouts.steps(c, begun.id)
    assert sorted(said) == [[s.number, s.words] for s in steps[1:]]
    assert [s.number for s in steps] == list(range(21))


def test_each_job_is_taken_once(place: Any, rows: Any, fork: Fork) -> None:
    with rows.write() as c:
        made = [jobs.enqueue(c, "verify", {}, actor="ada", now=0.0).id for _ in range(30)]

    def work(process: int, say: Say) -> None:
        own = database.Database(place.url)
        while True:
            with own.write() as c:
                job = jobs.claim(c, str(process), ttl_s=600, now=1.0)
            if job is None:
                return
            with own.write() as c:
                assert jobs.finish(c, job, state="DONE", result={}, now=2.0)
            say(json.dumps([job.id]))

    assert sorted(one for (one,) in race(fork, work, 4)) == made
