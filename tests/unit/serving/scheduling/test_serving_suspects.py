"""Callers whose rows make batches fail: what they may cost others, and for how long it is remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windlass.serving.scheduling import suspects


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0.0, 0.5)), max_size=200))
def test_nobody_costs_more_than_its_budget_before_it_runs_alone(steps: list[tuple[int, float]]) -> None:
    records, now, spent, since = suspects.Suspects(), 100.0, 0.0, 100.0
    for runs, wait in steps:
        now += wait
        if records.alone("a", now):
            spent, since = 0.0, now
            continue
        records.charge("a", runs, now)
        spent += runs
        # What one second gives, what came since, and the one that was too much.
        assert spent <= suspects.RUNS_PER_S * (2 + now - since) + 20


def test_who_spent_it_runs_alone_for_longer_each_time_and_is_forgotten_in_the_end() -> None:
    records, now = suspects.Suspects(), 0.0
    pauses = []
    for _ in range(9):
        while not records.alone("a", now):
            records.charge("a", 10, now)
        began = now
        while records.alone("a", now):
            now += 0.25
        pauses.append(now - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not records.alone("b", now)
    now += 61
    assert not records.alone("a", now)
    assert not records


def test_what_is_remembered_is_bounded() -> None:
    records = suspects.Suspects()
    for number in range(5_000):
        records.charge(str(number), 1_000, 1.0)
    assert sum(records.alone(str(number), 1.5) for number in range(5_000)) == 1_024
    assert records.alone("4999", 1.5)
