"""Processes that count are killed at random while others read: no total goes back, and no request is lost from sight.

What each process did is also noted in memory of its own, one word before and one after, so that what is in shared
memory can be compared with what happened.
"""

from __future__ import annotations

import functools
import mmap
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from windlass import errors
from windlass.serving.metrics import counters, totals

STARTED, ENDED, RAN = range(3)


def _fork(work: Callable[[], None]) -> int:
    """A child that does `work` and never returns."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def _count_until_killed(fd: int, place: int, note: memoryview, seed: int) -> None:
    """Requests of a few series, one or two in flight at a time."""
    worker = totals.Memory.attach(fd).writer(place)
    draw = random.Random(seed)
    flying: list[counters.Requests] = []
    while True:
        series = worker.requests_of(f"m{draw.randrange(seed % 50 + 1)}", "1", "p")
        note[STARTED] += 1
        series.admitted[0] += 1
        flying.append(series)
        if len(flying) > draw.randrange(3):
            one = flying.pop()
            outcome = draw.randrange(len(counters.OUTCOMES))
            one.outcomes[outcome] += 1
            note[ENDED] += 1
            worker.count_error(f"code{draw.randrange(20)}")
            worker.runs_of("m", "1").ran(1, 0.001, [0.001], 1.0)
            note[RAN] += 1


def _numbers(found: counters.Counters) -> list[int]:
    """Totals that may only grow."""
    requests = found.requests.values()
    admitted = sum(one.admitted[0] for one in requests)
    ended = [sum(one.outcomes[index] for one in requests) for index in range(len(counters.OUTCOMES))]
    runs = found.runs_of("m", "1")
    return [admitted, *ended, runs.rows[0], sum(runs.run.counts), runs.run.nanoseconds, sum(found.errors.values())]


def _read_until_told(fd: int, told: memoryview) -> None:
    """Fails when a total went back."""
    memory = totals.Memory.attach(fd)
    before = None
    while not told[0]:
        try:
            now = _numbers(memory.read())
        except errors.Unavailable:
            continue
        if before is not None and any(b > n for b, n in zip(before, now, strict=True)):
            raise ValueError(f"{before} went back to {now}")
        before = now


def _drill(iterations: int) -> None:
    memory = totals.Memory.create(2)
    notes = memoryview(mmap.mmap(-1, 4_096)).cast("Q")
    told = memoryview(mmap.mmap(-1, 4_096)).cast("Q")
    draw = random.Random(4)
    reader = _fork(lambda: _read_until_told(memory.fd, told))
    seen = _numbers(memory.read())
    lost = 0
    for iteration in range(iterations):
        place = 1 + iteration % 2
        child = _fork(functools.partial(_count_until_killed, memory.fd, place, notes, iteration))
        time.sleep(draw.uniform(0.001, 0.02))
        now = _numbers(memory.read())
        assert all(a <= b for a, b in zip(seen, now, strict=True))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lost += memory.fold(place)
        found = memory.read()
        seen = _numbers(found)
        # All that a process admitted has an outcome once it is gone.
        assert seen[0] == sum(seen[1:6])
        assert found.errors.get(totals.LOST, 0) == lost
        # A kill falls between two stores at most once for each process.
        gone = iteration + 1
        assert notes[STARTED] - gone <= seen[0] <= notes[STARTED]
        assert notes[ENDED] <= seen[0] - lost <= notes[ENDED] + gone
        assert notes[RAN] <= seen[6] <= notes[RAN] + gone
    told[0] = 1
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    assert lost > 0
    assert seen[0] > 10 * iterations
    os.close(memory.fd)


@pytest.mark.promise("P-51")
def test_what_was_counted_outlives_whoever_counted_it() -> None:
    _drill(40)


@pytest.mark.soak
@pytest.mark.promise("P-51")
def test_what_was_counted_outlives_many_more() -> None:
    _drill(5_000)
