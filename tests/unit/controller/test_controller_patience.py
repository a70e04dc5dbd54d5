"""When what failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windlass.controller import patience


@given(st.integers(0, 10_000), st.floats(0.001, 10), st.floats(10, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_between_half_the_first_and_the_longest(
    failures: int, first: float, longest: float, drawn: float
) -> None:
    found = patience.pause(failures, first_s=first, longest_s=longest, draw=lambda: drawn)
    assert first / 2 <= found <= longest
    assert found <= patience.pause(failures + 1, first_s=first, longest_s=longest, draw=lambda: drawn)


def test_what_failed_waits_and_what_worked_does_not() -> None:
    kept = patience.Patience(first_s=2, longest_s=60, draw=lambda: 0.0)
    assert kept.due("a", 0)
    assert kept.failed("a", 100) == 1
    assert not kept.due("a", 100.5)
    assert kept.due("b", 100.5)
    assert kept.due("a", 101)
    assert kept.failed("a", 101) == 2
    kept.worked("a")
    assert kept.due("a", 101)


def test_a_clock_that_was_set_back_holds_nobody_up() -> None:
    kept = patience.Patience(first_s=2, longest_s=60)
    kept.failed("a", 1_000_000)
    assert kept.due("a", 5)
