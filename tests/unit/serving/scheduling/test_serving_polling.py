"""Polling after an answer: while it pays, and less and less where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windlass.serving.scheduling import polling


class Loop:
    """Runs what was to run soon, a turn at a time; the clock moves by one microsecond a turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> Any:
        self.soon.append(callback)

    def turn(self) -> bool:
        """Whether the loop would have slept."""
        self.now += 1e-6
        waiting, self.soon = self.soon, []
        for callback in waiting:
            callback()
        return not waiting


def make() -> tuple[Loop, polling.Poller]:
    loop = Loop()
    return loop, polling.Poller(loop, lambda: loop.now)  # type: ignore[arg-type]


def turns_until_sleep(loop: Loop) -> int:
    turns = 0
    while not loop.turn():
        turns += 1
    return turns


def test_it_polls_for_a_moment_after_an_answer_and_then_sleeps() -> None:
    loop, poller = make()
    poller.answered()
    assert 55 <= turns_until_sleep(loop) <= 65
    assert loop.soon == []


def test_it_goes_on_while_the_next_request_comes_in_time() -> None:
    loop, poller = make()
    for _ in range(1_000):
        poller.answered()
        for _ in range(40):
            assert not loop.turn()
        assert len(loop.soon) == 1


def test_in_vain_it_tries_less_and_less() -> None:
    loop, poller = make()
    polled = 0
    for _ in range(10_000):
        poller.answered()
        polled += turns_until_sleep(loop) > 0
    # 1 + 2 + 4 ... + 256, then every 256th: fewer than one answer in a hundred is followed by polling.
    assert 8 <= polled <= 60


def test_after_a_pause_one_success_is_enough_to_go_on() -> None:
    loop, poller = make()
    for _ in range(600):
        poller.answered()
        turns_until_sleep(loop)
    while not loop.soon:
        poller.answered()
    poller.answered()
    turns_until_sleep(loop)
    poller.answered()
    assert loop.soon == []
    poller.answered()
    assert len(loop.soon) == 1
