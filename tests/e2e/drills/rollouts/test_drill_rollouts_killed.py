"""Controllers that are killed, that stand still, that are two, and that lose their database: serving goes on, and every
rollout ends where it should, by one hand at a time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from windlass.records import audit

pytestmark = pytest.mark.timeout(300)
STEPS = {"steps": [10.0, 50.0], "step_s": 0.2, "min_s": 0.2, "margin": 0.4, "max_s": 120.0}
# The lease of a controller that nobody competes with.
SOON_S = 0.4
# What a lease that nobody renews takes to end, with room for a machine that has other things to do.
TAKEN_OVER_S = 2.5 + 5.0


def _right(plane: Any, name: str, callers: Any) -> None:
    """Nobody noticed, no step was taken twice, nobody acted after he was succeeded, the log of changes is whole."""
    assert callers.failed == []
    numbers = [step.number for step in plane.steps(name)]
    assert numbers == list(range(len(numbers)))
    tokens = [act["token"] for act in plane.in_force()]
    assert None not in tokens
    assert tokens == sorted(tokens), "a controller acted after another had taken over"
    with plane.rows.read() as connection:
        assert not audit.verify(connection).why


def _promoted(plane: Any, release: Any) -> None:
    ended = plane.ended(release.name, release, 150.0)
    assert ended.outcome == "new", ended.words
    plane.until(lambda: plane.status(release.name).live == release)


def _between(plane: Any, count: int) -> tuple[Any, ...]:
    """As many releases of one model that answer in the same time."""
    return tuple(plane.release("m", run_ms=2 + number / 1000) for number in range(count))


@pytest.mark.promise("P-40")
def test_a_canary_whose_controllers_are_killed_at_many_places_ends_right(plane: Any) -> None:
    first, second = _between(plane, 2)
    settled = plane.control()
    plane.live(first)
    plane.end(settled)
    callers = plane.callers("m")
    plane.wish(second, "canary", **STEPS)
    plane.control(dies=3, ttl_s=SOON_S)
    _promoted(plane, second)
    callers.stop()
    _right(plane, "m", callers)
    deaths = len({act["pid"] for act in plane.acts() if act["what"] == "began"}) - 2
    assert deaths >= 3, "it was broken off at several places"
    assert callers.of(second.arm)


@pytest.mark.soak
@pytest.mark.promise("P-40")
@pytest.mark.timeout(3_600)
def test_a_canary_whose_controller_is_killed_at_every_place_ends_right(
    plane: Any, record: Callable[[str, int], Any]
) -> None:
    kept = record("killed-controllers", 1)
    releases = _between(plane, 2)
    settled = plane.control()
    plane.live(releases[0])
    plane.end(settled)
    callers = plane.callers("m")
    deaths = 0
    for dies in range(60):
        new = releases[(dies + 1) % 2]
        before = len([act for act in plane.acts() if act["what"] == "began"])
        plane.wish(new, "canary", **STEPS)
        # It dies at that place; the next one would only after a hundred more.
        line = plane.control(dies=dies + 1, ttl_s=SOON_S)
        plane.until(lambda before=before: len([a for a in plane.acts() if a["what"] == "began"]) > before)
        broken = _ended_or_died(plane, new, before)
        plane.end(line)
        if broken:
            deaths += 1
            rest = plane.control()
            _promoted(plane, new)
            plane.end(rest)
        _right(plane, "m", callers)
        if not broken:
            break
    callers.stop()
    kept.add(1, deaths=deaths, requests=len(callers.answers), failed=len(callers.failed))
    kept.finish()
    assert deaths > 10
    assert callers.failed == []


def _ended_or_died(plane: Any, new: Any, before: int) -> bool:
    """Whether the controller died before the rollout ended."""

    def over() -> bool:
        begun = [act for act in plane.acts() if act["what"] == "began"]
        return len(begun) > before + 1 or (plane.last("m").new == new and plane.last("m").ended_at is not None)

    plane.until(over, 150.0)
    return plane.last("m").new != new or plane.last("m").ended_at is None


def test_two_controllers_on_one_postgresql_never_both_act(postgres_plane: Any) -> None:
    plane = postgres_plane
    first, second, third = _between(plane, 3)
    both = [plane.control(), plane.control()]
    plane.live(first)
    callers = plane.callers("m")
    plane.wish(second, "canary", **STEPS)
    plane.until(lambda: plane.status("m").phase == "RUNNING")
    # It stands still for longer than its lease lasts, and then goes on as if nothing had been.
    leader = plane.in_force()[-1]["pid"]
    os.kill(leader, signal.SIGSTOP)
    try:
        _promoted(plane, second)
    finally:
        os.kill(leader, signal.SIGCONT)
    took_over = [act["pid"] for act in plane.in_force()]
    assert took_over[-1] != leader
    # And now the other is killed.
    (killed,) = (one for one in both if one.pid == took_over[-1])
    plane.wish(third, "canary", **STEPS)
    plane.until(lambda: plane.status("m").phase == "RUNNING")
    plane.end(killed)
    at = time.time()
    _promoted(plane, third)
    callers.stop()
    _right(plane, "m", callers)
    after = [act for act in plane.in_force() if act["at"] > at]
    assert {act["pid"] for act in after} == {leader}
    assert after[0]["at"] - at < TAKEN_OVER_S
