"""A controller that ends before or after any write or any act, and the one that takes over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from windlass import errors
from windlass.controller import lead
from windlass.types import deployment

CANARY = deployment.Strategy("canary", {"steps": [50.0], "step_s": 2.0, "min_s": 2.0, "max_s": 600.0})
Live = Callable[[], deployment.Release]


class Killed(BaseException):
    """The end of a process, as far as one process can show it: nothing that was begun is finished."""


class Fuse:
    """Burns down at each point that is passed."""

    def __init__(self, points: int) -> None:
        self.left = points

    def point(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class Mortal(lead.Lead):
    """A lead whose holder dies before a write, before its commit, or after it."""

    fuse: Fuse

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        self.fuse.point()
        with super().write() as connection:
            yield connection
            self.fuse.point()
        self.fuse.point()


class Through:
    """A target whose caller dies before or after it acts."""

    def __init__(self, target: Any, fuse: Fuse) -> None:
        self._target = target
        self._fuse = fuse
        self.observe, self.exposures = target.observe, target.exposures

    def apply(self, wanted: deployment.Wanted) -> None:
        self._fuse.point()
        self._target.apply(wanted)
        self._fuse.point()

    def remove(self, name: str) -> None:
        self._fuse.point()
        self._target.remove(name)
        self._fuse.point()


def _dies(world: Any, points: int, **traffic: int) -> bool:
    """Let a controller run that dies at a point; False if it came to the end of the rollout before."""
    fuse = Fuse(points)
    leading = Mortal(world.rows, world.clock, holder="mortal")
    leading.fuse = fuse
    controller = world.controller(leading, Through(world.target, fuse))
    try:
        _finish(world, controller, **traffic)
    except Killed:
        return True
    return False


def _finish(world: Any, controller: Any, **traffic: int) -> None:
    for _ in range(20):
        world.go(controller, 2, requests=8_000, **traffic)
        if world.history()[0].generation == world.found().generation and world.history()[0].outcome:
            return


# Each point is a write, an act, or the end of one. In everyday runs every eleventh is looked at, else each.
@pytest.mark.parametrize(
    ("start", "stride"), [(1, 11), pytest.param(1, 1, marks=pytest.mark.soak)], ids=["some", "each"]
)
@pytest.mark.parametrize("bad", [0, 400], ids=["good", "bad"])
def test_whoever_takes_over_ends_the_rollout_right(world: Any, live: Live, start: int, stride: int, bad: int) -> None:
    releases = [live()]
    points, died = start, True
    while died:
        releases.append(world.release(f"version {len(releases) + 1}"))
        new = releases[-1].version
        good = world.status().live.version
        world.wish(releases[-1], CANARY)
        died = _dies(world, points, **{f"v{new}": bad})
        shares = world.target.observe("m").shares
        assert sum(shares.values()) == 100, "callers are answered whatever becomes of the controller"
        world.now += lead.TTL_S + 1
        heir = world.leading(f"heir {points}")
        _finish(world, world.controller(heir), **{f"v{new}": bad})
        heir.release()
        end = good if bad else new
        assert world.status().live.version == end
        assert world.status().generation == len(releases)
        assert world.target.observe("m").shares == {str(end): 100.0}
        assert world.alias() == end
        rollout = world.history()[0]
        assert (rollout.new.version, rollout.outcome) == (new, "old" if bad else "new")
        assert rollout.generation == len(releases), "no rollout was begun twice"
        numbers = [step.number for step in world.steps(rollout.id)]
        assert numbers == list(range(len(numbers)))
        points += stride
    assert len(releases) > 3


def test_a_controller_that_was_paused_can_neither_write_nor_act(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"))
    world.now += lead.TTL_S + 1
    paused, heir = world.leading("paused"), world.leading("heir")
    old = world.controller(paused)
    assert paused.beat()
    world.now += lead.TTL_S + 1
    assert heir.beat()
    assert paused.held, "it does not know yet"
    with pytest.raises(lead.Lost):
        old._reconciler.reconcile("m")
    assert not paused.held
    assert world.target.observe("m").shares == {"1": 100.0}
    assert len(world.history()) == 1
    with pytest.raises(lead.Lost):
        old._reconciler.trouble("m", "nothing")


def test_only_one_of_two_leads(world: Any) -> None:
    one, two = world.leading("one"), world.leading("two")
    assert (one.beat(), two.beat(), one.beat()) == (True, False, True)
    one.release()
    assert two.beat()
    assert not one.beat()
    with pytest.raises(lead.Lost):
        one.check()


def test_a_database_that_is_away_is_waited_for(world: Any, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    live()
    controller = world.controller()
    before = world.target.observe("m")

    def away() -> None:
        raise errors.Unavailable("the registry's database does not answer.")

    monkeypatch.setattr(world.rows, "check_writable", away)
    with pytest.raises(errors.Unavailable):
        controller.once()
    monkeypatch.undo()
    world.wish(world.release("two"))
    assert world.target.observe("m").shares == before.shares
    world.go(controller, 6)
    assert world.status().live.version == 2
