"""What was live before stays loaded for a while after a rollout: the way back is one change of shares."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.targets import memory
from windlass.types import deployment

WARM_S = 60.0


class Loading(memory.Memory):
    """Notes what it was told to run."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: list[dict[str, float]] = []

    def apply(self, wanted: deployment.Wanted) -> None:
        shares = {arm.release.arm: arm.share for arm in wanted.arms}
        if not self.told or self.told[-1] != shares:
            self.told.append(shares)
        super().apply(wanted)


@pytest.fixture
def promoted(world: Any) -> tuple[Any, deployment.Release, deployment.Release]:
    """A controller that keeps what was live, after a second release went live."""
    world.target = Loading(world.clock)
    controller = world.controller(warm_s=WARM_S)
    first, second = world.release("one"), world.release("two")
    for release in (first, second):
        world.wish(release)
        world.go(controller, 4)
        assert world.status().live == release
    return controller, first, second


@pytest.mark.promise("P-37")
def test_right_after_a_promotion_the_way_back_loads_nothing(world: Any, promoted: Any) -> None:
    controller, first, _ = promoted
    assert world.target.observe("m").shares == {"2": 100.0, "1": 0.0}
    assert world.status().shares == {"2": 100.0}
    world.target.told.clear()
    world.wish(first)
    controller.once()
    assert world.status().live == first
    # The first thing that it was told is what was wished.
    assert world.target.told[0] == {"2": 0.0, "1": 100.0}


def test_it_is_let_go_after_its_time(world: Any, promoted: Any) -> None:
    controller, _, second = promoted
    world.go(controller, WARM_S - 10)
    assert world.target.observe("m").shares == {"2": 100.0, "1": 0.0}
    world.go(controller, 20)
    assert world.target.observe("m").shares == {"2": 100.0}
    assert world.status().live == second


def test_what_was_revoked_is_let_go_at_once(world: Any, promoted: Any) -> None:
    controller, first, _ = promoted
    world.registry.revoke(first.digest, "a leak", actor="eve")
    world.go(controller, 10)
    assert world.target.observe("m").shares == {"2": 100.0}
    # Nor is what had to go kept beside what took its place.
    third = world.release("three")
    world.wish(third)
    world.go(controller, 4)
    world.registry.revoke(third.digest, "another", actor="eve")
    world.go(controller, 20)
    assert world.target.observe("m").shares == {"2": 100.0}


def test_a_server_that_was_started_again_loads_what_is_live_only(world: Any, promoted: Any) -> None:
    controller, _, _ = promoted
    world.target.remove("m")
    world.go(controller, 10)
    assert world.target.observe("m").shares == {"2": 100.0}


def test_what_failed_is_not_kept(world: Any, promoted: Any) -> None:
    controller, _, second = promoted
    bad = world.release("bad")
    world.target.refused[bad.arm] = "its golden outputs differ"
    world.wish(bad)
    world.go(controller, 10)
    assert world.status().live == second
    assert world.target.observe("m").shares == {"2": 100.0}
