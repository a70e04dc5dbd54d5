"""The bootstrap's interval of a ratio: it covers what it should, and depends on nothing but its seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from windlass.statistics import bootstrap

RUNS = 120
LEAST = 0.90  # of 120 intervals of 95 %, fewer than this cover less than once in a hundred


@pytest.mark.parametrize("freedom", [1, 2, 4, 5, 9, 11, 29, 119])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.9995])
def test_the_quantile_of_t_is_the_tables(freedom: int, probability: float) -> None:
    assert bootstrap.student(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=0.015)


@pytest.mark.parametrize("rounds", [6, 12, 30])
def test_the_median_is_covered_also_with_few_rounds_and_heavy_tails(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(RUNS):
        noise = np.exp(rng.standard_t(2, size=rounds) / 10)
        found = bootstrap.median_ratio(1.5 * noise, np.ones(rounds), seed=seed)
        covered += found.low <= 1.5 <= found.high
    assert covered / RUNS >= LEAST


def test_what_comes_in_groups_is_drawn_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six loadings of five rounds each: taken for thirty rounds, their luck would look like a difference."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    rng = np.random.default_rng(2)
    covered = {1: 0, 5: 0}
    for seed in range(RUNS):
        values = np.repeat(rng.normal(0, 0.05, 6), 5) + rng.normal(0, 0.01, 30)
        for together in covered:
            found = bootstrap.median_ratio(np.exp(values), np.ones(30), seed=seed, together=together)
            covered[together] += found.low <= 1.0 <= found.high
    assert covered[5] / RUNS >= LEAST
    assert covered[1] / RUNS < 0.8


def test_what_both_of_a_pair_met_alike_is_not_in_it() -> None:
    rng = np.random.default_rng(3)
    met = np.exp(rng.normal(0, 1, 30))
    found = bootstrap.median_ratio(2.0 * met, met, seed=0)
    assert list(found) == pytest.approx([2.0, 2.0, 2.0])


POSITIVE = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=20), st.integers(0, 99))
def test_turned_around_it_is_the_inverse(pairs: list[tuple[float, float]], seed: int) -> None:
    first, second = zip(*pairs, strict=True)
    one, other = (bootstrap.median_ratio(*each, seed=seed) for each in ((first, second), (second, first)))
    assert one == bootstrap.median_ratio(first, second, seed=seed)
    assert one.low <= one.high
    assert [math.log(each) for each in one] == pytest.approx([-math.log(other[at]) for at in (0, 2, 1)], abs=1e-9)


def test_another_seed_draws_others_and_a_higher_level_reaches_further() -> None:
    values, ones = np.exp(np.random.default_rng(5).normal(size=40)), np.ones(40)
    found = bootstrap.median_ratio(values, ones, seed=1)
    assert found != bootstrap.median_ratio(values, ones, seed=2)
    assert found.low < found.value < found.high
    wider = bootstrap.median_ratio(values, ones, seed=1, level=0.999)
    assert wider.low < found.low
    assert wider.high > found.high


@pytest.mark.parametrize(("rounds", "together"), [(1, 1), (5, 5), (7, 2), (0, 1)])
def test_too_few_groups_or_broken_ones_are_refused(rounds: int, together: int) -> None:
    with pytest.raises(ValueError, match="two groups"):
        bootstrap.median_ratio(np.ones(rounds), np.ones(rounds), seed=0, together=together)


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        bootstrap.median_ratio([1.0, 2.0], [1.0], seed=0)
