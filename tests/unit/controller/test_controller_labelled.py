"""Shadows judged by labels, reconciled step by step against the memory target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass.records import feedback
from windlass.targets import memory
from windlass.types import deployment

Live = Callable[[], deployment.Release]


def shadow(**more: Any) -> deployment.Strategy:
    parameters = {"min_s": 10.0, "max_s": 600.0, "disagreement": 0.05, "then": "promote", **more}
    return deployment.Strategy("shadow", parameters)


def differ(world: Any, arm: str, numbers: range, *, label: str = "", epoch: int) -> None:
    """So many more mirrored requests, all answered "old" by version 1 and "new" by `arm`; then they are labelled."""
    for number in numbers:
        line = memory.Differing(world.now, f"{arm}-{number}", "1", arm, "old", "new", epoch)
        world.target.differ("m", line)
    many = len(numbers)
    world.target.mirror(
        "m", deployment.Mirrored(compared=many * 9, disagreed=many * 9, classed=many * 9, class_differed=many)
    )
    if label:
        given = [feedback.Given(0.5, request=f"{arm}-{number}", label=label) for number in numbers]
        with world.rows.write() as connection:
            feedback.add(connection, "m", given, now=world.now)


@pytest.mark.parametrize(("label", "verdict", "outcome"), [("old", "ABORT", "old"), ("new", "PROMOTE", "new")])
def test_labels_decide_and_whoever_takes_over_counts_the_same(
    world: Any, live: Live, label: str, verdict: str, outcome: str
) -> None:
    live()
    world.wish(world.release("two"), shadow(labels=True))
    world.go(world.controller(), 4)
    differ(world, "2", range(8), label=label, epoch=2)
    world.go(world.controller(world.leading("one")), 20)
    assert world.status().phase == "RUNNING"
    assert f"of 8 of them that have a label, version 1 was right about {8 if label == 'old' else 0}" in (
        world.status().words
    )
    differ(world, "2", range(8, 90), label=label, epoch=2)
    world.now += 60
    world.go(world.controller(world.leading("two")), 10)
    assert (world.history()[0].outcome, world.history()[0].verdict) == (outcome, verdict)


def test_an_earlier_rollouts_requests_do_not_count(world: Any, live: Live) -> None:
    live()
    second = world.release("two")
    world.wish(second, shadow(labels=True))
    controller = world.controller()
    world.go(controller, 4)
    differ(world, "2", range(40), label="old", epoch=2)
    world.go(controller, 4)
    assert world.history()[0].verdict == "ABORT"
    world.wish(second, shadow(labels=True))
    world.go(controller, 4)
    # The earlier one's lines come late; their requests are labelled already.
    differ(world, "2", range(40), epoch=2)
    world.go(controller, 20)
    assert world.status().phase == "RUNNING"
    assert "of 0 of them that have a label" in world.status().words


def test_who_does_not_ask_for_labels_is_judged_by_what_differs(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"), shadow())
    controller = world.controller()
    world.go(controller, 4)
    differ(world, "2", range(60), label="new", epoch=2)
    world.go(controller, 4)
    assert (world.history()[0].outcome, world.history()[0].verdict) == ("old", "ABORT")
    assert "were answered otherwise" in world.history()[0].words


def test_without_labels_it_waits_and_ends_inconclusive(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"), shadow(labels=True, max_s=60.0))
    controller = world.controller()
    world.go(controller, 4)
    differ(world, "2", range(60), epoch=2)
    world.go(controller, 50)
    assert world.status().phase == "RUNNING"
    world.go(controller, 20)
    assert (world.history()[0].outcome, world.history()[0].verdict) == ("old", "INCONCLUSIVE")
