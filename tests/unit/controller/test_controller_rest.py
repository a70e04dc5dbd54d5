"""What a controller reads while nothing happens, and how soon it sees that something did."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.records import deployments as stored


def test_at_rest_the_rows_are_read_once_in_an_interval_and_a_wish_is_seen_at_once(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.wish(world.release("one"))
    controller = world.controller()
    world.go(controller, 4)
    assert world.status().phase == "LIVE"
    controller._due()
    reads: list[float] = []
    every = stored.every

    def counted(*given: Any, **more: Any) -> Any:
        reads.append(world.now)
        return every(*given, **more)

    monkeypatch.setattr(stored, "every", counted)
    for _ in range(9):
        world.now += 0.1
        assert controller._due() == []
    assert reads == []
    world.now += 0.2
    assert controller._due() == []
    assert reads == [world.now]
    # The clock stands still: it is the database that tells of the wish.
    world.order(paused=True)
    assert controller._due() == [("m", 2)]
    assert reads == [world.now] * 2
