"""Bounds of a paired drop: exact where that is known, and right as often as they say by simulation."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from windlass.statistics import paired

Numbers = paired.Numbers


def lost_less_won(weights: Numbers) -> Numbers:
    found: Numbers = (weights[:, 0] - weights[:, 1]) / weights.sum(axis=1)
    return found


@functools.cache
def bound(lost: int, won: int, rows: int, level: float = 0.95) -> float:
    return paired.upper(lost_less_won, [lost, won, rows - lost - won], [1, 0, 0], level=level, seed=0)


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("rows", [10, 300, 10_000])
def test_nothing_lost_leaves_the_exact_limit(rows: int, level: float) -> None:
    """Clopper and Pearson's upper limit of no event in n is 1 - alpha^(1/n), nearly 3 / n: the rule of three."""
    assert bound(0, 0, rows, level) == pytest.approx(1 - (1 - level) ** (1 / rows), rel=0.03)


def test_events_have_clopper_and_pearsons_limit() -> None:
    """The limits of 1, 5 and 20 events in 100, of tables of the binomial distribution."""
    for lost, limit in ((1, 0.0466), (5, 0.1022), (20, 0.2772)):
        assert bound(lost, 0, 100) == pytest.approx(limit, rel=0.01)


def test_what_was_won_counts_against_what_was_lost() -> None:
    assert bound(5, 5, 1000) < bound(5, 0, 1000)
    assert bound(5, 5, 1000) > 0
    assert bound(0, 60, 1000) < 0


@pytest.mark.parametrize("rows", [30, 400])
@pytest.mark.parametrize(("lost", "won"), [(3, 0), (3, 3), (6, 2), (1, 6), (12, 12)])
def test_the_bound_holds_as_often_as_it_says(rows: int, lost: float, won: float) -> None:
    """Of rows of which `lost` and `won` are expected to differ, 95 % of all samples give a bound above the truth."""
    shares = [min(lost / rows, 0.4), min(won / rows, 0.4)]
    drawn = np.random.default_rng(3).multinomial(rows, [*shares, 1 - sum(shares)], size=1500)
    found = [bound(int(a), int(b), rows) >= shares[0] - shares[1] for a, b in drawn[:, :2]]
    # Three standard errors of 1500 samples.
    assert np.mean(found) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 1500)


def mean_of(values: Numbers) -> Callable[[Numbers], Numbers]:
    def worse(weights: Numbers) -> Numbers:
        found: Numbers = weights @ values / weights.sum(axis=1)
        return found

    return worse


def test_the_same_seed_gives_the_same_bound_and_a_stricter_level_a_wider_one() -> None:
    values = np.random.default_rng(0).normal(size=500)
    one, again = (paired.upper(mean_of(values), np.ones(500), np.zeros(500), level=0.95, seed=4) for _ in range(2))
    assert one == again
    wider = paired.upper(mean_of(values), np.ones(500), np.zeros(500), level=0.998, seed=4)
    assert wider > one > values.mean()


def test_a_mean_of_many_has_the_normal_bound() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    found = paired.upper(mean_of(values), np.ones(4000), np.zeros(4000), level=0.95, seed=1)
    assert found == pytest.approx(values.mean() + 1.645 * values.std() / np.sqrt(4000), abs=0.002)
