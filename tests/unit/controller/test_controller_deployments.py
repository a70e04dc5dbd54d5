"""A deployment, reconciled step by step against the memory target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.records import deployments as stored
from windlass.targets import memory
from windlass.types import deployment, refs

Live = Callable[[], deployment.Release]
CANARY = deployment.Strategy("canary", {"steps": [10.0, 50.0], "step_s": 10.0, "min_s": 20.0, "max_s": 600.0})


def test_the_first_release_is_loaded_and_gets_all_requests(world: Any, live: Live) -> None:
    first = live()
    status = world.status()
    assert (status.phase, status.generation, status.shares) == ("LIVE", 1, {"1": 100.0})
    assert world.alias() == 1
    (only,) = world.history()
    assert (only.outcome, only.old, only.new) == ("new", None, first)
    assert world.target.observe("m").shares == {"1": 100.0}


def test_a_good_canary_is_promoted_and_the_alias_follows(world: Any, live: Live) -> None:
    live()
    second = world.release("two")
    world.wish(second, CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=100)
    assert world.status().phase == "RUNNING"
    assert world.target.observe("m").shares == {"1": 90.0, "2": 10.0}
    assert world.alias() == 1
    world.go(controller, 60, requests=20_000)
    assert (world.status().phase, world.status().live) == ("LIVE", second)
    assert world.alias() == 2
    rollout, _ = world.history()
    assert (rollout.outcome, rollout.verdict) == ("new", "PROMOTE")
    kinds = [found.evidence.kind for found in world.registry.show(refs.parse("m@2")).evidence]
    assert "canary" in kinds
    assert world.target.observe("m").shares == {"2": 100.0}


def test_a_bad_canary_goes_back_and_the_wish_is_not_tried_again(world: Any, live: Live) -> None:
    first = live()
    world.wish(world.release("two"), CANARY)
    controller = world.controller()
    world.go(controller, 40, requests=1_000, v2=60)
    status = world.status()
    assert status.live == first
    assert status.generation == 2
    rollout, _ = world.history()
    assert (rollout.outcome, rollout.verdict) == ("old", "ABORT")
    assert world.target.observe("m").shares == {"1": 100.0}
    assert world.alias() == 1
    world.go(controller, 60, requests=100)
    assert len(world.history()) == 2


def test_a_release_that_cannot_be_loaded_leaves_what_served(world: Any, live: Live) -> None:
    first = live()
    world.target.refused["2"] = "its golden outputs differ"
    world.wish(world.release("two"), CANARY)
    world.go(world.controller(), 6, requests=100)
    rollout, _ = world.history()
    assert rollout.outcome == "old"
    assert "its golden outputs differ" in rollout.words
    assert world.status().live == first
    assert world.target.observe("m").shares == {"1": 100.0}


def test_two_that_cannot_share_requests_are_not_tried_for_ever(world: Any, live: Live) -> None:
    first = live()

    class Apart(memory.Memory):
        """Takes the new release beside the old one, but not both for the same requests."""

        def apply(self, wanted: deployment.Wanted) -> None:
            if sum(arm.share > 0 for arm in wanted.arms) > 1:
                raise errors.UsageError("the arms do not accept the same requests")
            super().apply(wanted)

    target = Apart(world.clock)
    world.wish(world.release("two"), CANARY)
    world.go(world.controller(target=target), 20)
    rollout, _ = world.history()
    assert rollout.outcome == "old"
    assert "do not accept the same requests" in rollout.words
    assert world.status().live == first
    assert target.observe("m").shares == {"1": 100.0}


def test_a_newer_wish_supersedes_the_rollout_under_way(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"), CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=100)
    third = world.release("three")
    world.wish(third)
    world.go(controller, 6, requests=100)
    assert world.status().live == third
    _, second, _ = world.history()
    assert second.outcome == "old"
    assert "version 3" in second.words
    assert "2" not in world.target.observe("m").shares


@pytest.mark.parametrize(("order", "outcome"), [("promote", "new"), ("abort", "old")])
def test_a_persons_order_ends_the_rollout(world: Any, live: Live, order: str, outcome: str) -> None:
    live()
    world.wish(world.release("two"), CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=100)
    world.order(order=order)
    controller.once()
    rollout, _ = world.history()
    assert rollout.outcome == outcome
    assert world.status().generation == 3
    world.go(controller, 30, requests=100)
    assert len(world.history()) == 2


def test_a_pause_freezes_the_shares(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"), CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=10)
    world.order(paused=True)
    world.go(controller, 100, requests=10)
    assert world.status().phase == "PAUSED"
    assert world.target.observe("m").shares == {"1": 90.0, "2": 10.0}


def test_a_revoked_live_version_gives_way_to_the_last_good_one(world: Any, live: Live) -> None:
    first = live()
    second = world.release("two")
    world.wish(second)
    controller = world.controller()
    world.go(controller, 6)
    assert world.status().live == second
    world.registry.revoke(second.digest, "it leaks", actor="eve")
    world.go(controller, 12)
    assert world.status().live == first
    assert world.alias() == 1
    back = world.history()[0]
    assert (back.actor, "it leaks" in back.reason) == ("controller", True)
    world.go(controller, 30)
    assert len(world.history()) == 3


def test_without_a_good_one_a_revoked_version_is_said_to_be_what_answers(world: Any, live: Live) -> None:
    first = live()
    world.registry.revoke(first.digest, "it leaks", actor="eve")
    controller = world.controller()
    world.go(controller, 12)
    assert world.status().phase == "FAILED"
    assert "it leaks" in world.status().words
    assert world.status().live == first


def test_a_candidate_that_is_revoked_goes_back(world: Any, live: Live) -> None:
    first = live()
    second = world.release("two")
    world.wish(second, CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=100)
    world.registry.revoke(second.digest, "it leaks", actor="eve")
    world.go(controller, 2)
    assert world.status().live == first
    assert "it leaks" in world.history()[0].words


def test_a_target_that_lost_everything_is_given_it_again(world: Any, live: Live) -> None:
    live()
    world.target.lose("m")
    world.go(world.controller(), 6)
    assert world.target.observe("m").shares == {"1": 100.0}


def test_while_the_target_is_away_nothing_is_decided_and_it_is_said(world: Any, live: Live) -> None:
    live()
    world.wish(world.release("two"), CANARY)
    controller = world.controller()
    world.go(controller, 4, requests=100)
    before = world.history()[0].state
    world.target.away = True
    world.go(controller, 30)
    assert world.status().words.startswith("not now: ")
    assert world.history()[0].state == before
    world.target.away = False
    world.go(controller, 20, requests=100)
    assert not world.status().words.startswith("not now: ")


def test_what_is_removed_runs_no_more_and_may_come_again(world: Any, live: Live) -> None:
    first = live()
    with world.rows.write() as connection:
        stored.remove(connection, "m", expected=None, actor="eve", now=world.now)
    controller = world.controller()
    world.go(controller, 4)
    assert world.target.observe("m").shares == {}
    assert world.status().live is None
    world.wish(first)
    world.go(controller, 4)
    assert world.target.observe("m").shares == {"1": 100.0}
