"""Confidence sequences: they contain the truth at all times together, and are narrow enough to be of use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.statistics import confidence, distribution, eprocess

ALPHA = 0.05
RUNS = 50
# Of 50 with a chance of 5 % each (two ends: 10 %), more are wrong less than once in 10,000 times.
WRONG = {1: 9, 2: 14}


def often_wrong(one: Callable[[np.random.Generator], bool]) -> int:
    rng = np.random.default_rng(3)
    return sum(one(rng) for _ in range(RUNS))


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_relative_risk_is_covered_at_every_look(truth: float) -> None:
    def wrong(rng: np.random.Generator) -> bool:
        shares, mine, theirs = [0.05, 0.2, 0.5], np.zeros(3), np.zeros(3)
        for look in range(6):
            at, share = look // 2, shares[look // 2]
            count = rng.integers(1, 100)
            fell = rng.binomial(count, share * truth / (share * truth + 1 - share))
            mine[at], theirs[at] = mine[at] + fell, theirs[at] + count - fell
            low, high = confidence.risk(eprocess.split(shares, mine, theirs), ALPHA)
            if not low <= truth <= high:
                return True
        return False

    assert often_wrong(wrong) <= WRONG[2]


@pytest.mark.parametrize("shape", ["constant", "bursty", "trending", "apart"])
def test_the_difference_is_covered_at_every_look(shape: str) -> None:
    def wrong(rng: np.random.Generator) -> bool:
        shares, counts, truth = [0.05, 0.25, 0.5], np.zeros((3, 3)), 0.0
        for look in range(6):
            at, share = look // 2, shares[look // 2]
            theirs = {"bursty": 0.2 if rng.random() < 0.1 else 0.01, "trending": 0.03 * look}.get(shape, 0.02)
            mine = theirs + (0.02 * look if shape == "apart" else 0.0)
            drawn = rng.binomial(500, share)
            counts[at] += (rng.binomial(drawn, mine), rng.binomial(500 - drawn, theirs), 500)
            truth += 500 * share * (mine - theirs)
            bad = eprocess.split(shares, counts[:, 0], counts[:, 1])
            low, high = confidence.difference(bad, counts[:, 2], ALPHA)
            if not low <= truth / float((np.array(shares) * counts[:, 2]).sum()) <= high:
                return True
        return False

    assert often_wrong(wrong) <= WRONG[2]


@given(
    st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(0.0, 0.5), st.floats(-0.3, 0.3)), min_size=1, max_size=5),
    st.floats(0.01, 0.95),
)
def test_a_bet_on_the_difference_expects_at_most_one(requests: list[tuple[float, float, float]], stake: float) -> None:
    """By enumeration: each request is bad on the candidate, bad on the baseline, or neither."""
    total = 0.0
    rates = [(share, base, min(1.0, max(0.0, base + change))) for share, base, change in requests]
    mean = sum(share * (mine - base) for share, base, mine in rates)
    for fell in itertools.product((0, 1, 2), repeat=len(rates)):
        chance, gain = 1.0, 1.0
        for (share, base, mine), what in zip(rates, fell, strict=True):
            chances = (share * mine, (1 - share) * base)
            chance *= (*chances, 1.0 - sum(chances))[what]
            gain *= (1.0 - stake, 1.0 + stake * share / (1.0 - share), 1.0)[what]
        total += chance * gain * math.exp(stake * mean)
    assert total <= 1.0 + 1e-9


def test_no_events_bound_the_difference_by_the_requests() -> None:
    few, many = (confidence.difference(eprocess.split(0.1, 0, 0), n, 0.005)[1] for n in (1_000, 20_000))
    assert few > 0.05
    assert many < 0.005
    assert confidence.difference(eprocess.split(0.1, 0, 0), 0, 0.005) == (-1.0, 1.0)


def test_a_share_above_a_half_has_an_upper_end() -> None:
    low, high = confidence.difference(eprocess.split(0.9, 90, 10), 100_000, 0.01)
    assert low == -1.0
    assert 0.0 < high < 0.01


@pytest.mark.parametrize("rates", [(0.01, 0.01), (0.002, 0.1), (0.6, 0.9)])
def test_a_rate_that_changes_is_covered_by_its_mean(rates: tuple[float, float]) -> None:
    def wrong(rng: np.random.Generator) -> bool:
        count = total = expected = 0.0
        for look in range(6):
            p = rates[look % 2]
            count, total, expected = count + rng.binomial(300, p), total + 300, expected + 300 * p
            low, high = confidence.rate(count, total, ALPHA)
            if not low <= expected / total <= high:
                return True
        return False

    assert often_wrong(wrong) <= WRONG[2]


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_a_rate_lies_around_what_was_counted(count: int, others: int) -> None:
    low, high = confidence.rate(count, count + others, 0.01)
    part = count / (count + others) if count + others else 0.5
    assert 0.0 <= low <= part <= high <= 1.0


@pytest.mark.parametrize("draw", ["uniform", "rare", "skewed"])
def test_a_mean_is_covered_at_every_look(draw: str) -> None:
    def wrong(rng: np.random.Generator) -> bool:
        if draw == "skewed":
            values = rng.beta(8.0, 1.0, 400)
        else:
            values = rng.random(400) if draw == "uniform" else (rng.random(400) < 0.03).astype(float)
        truth = {"uniform": 0.5, "rare": 0.03, "skewed": 8.0 / 9.0}[draw]
        bounds = [confidence.mean(values[:n], ALPHA) for n in (10, 50, 150, 400)]
        return not all(low <= truth <= high for low, high in bounds)

    assert often_wrong(wrong) <= WRONG[2]


@given(st.lists(st.floats(0.0, 1.0), max_size=60))
def test_a_mean_lies_within_its_bounds(values: list[float]) -> None:
    low, high = confidence.mean(values, 0.01)
    assert 0.0 <= low <= high <= 1.0
    mirrored = confidence.mean([1.0 - value for value in values], 0.01)
    assert mirrored == pytest.approx((1.0 - high, 1.0 - low), abs=1e-5)


def test_a_thousand_values_bound_their_mean() -> None:
    low, high = confidence.mean(np.random.default_rng(5).random(2_000), 0.01)
    assert high - low < 0.07


def test_bands_hold_for_the_whole_distribution_at_every_look() -> None:
    def wrong(rng: np.random.Generator) -> bool:
        edges = np.linspace(0.1, 1.0, 10)
        both = [np.searchsorted(edges, rng.random(600)) for _ in range(2)]
        for n in (20, 100, 300, 600):
            mine, theirs = (np.bincount(one[:n], minlength=11) for one in both)
            low, high = distribution.above(mine, theirs, ALPHA)
            if (low > 0).any() or (high < 0).any():
                return True
        return False

    assert often_wrong(wrong) <= WRONG[1]


def test_bands_find_what_is_slower() -> None:
    low, high = distribution.above([500, 4_500, 0], [4_500, 500, 0], 0.01)
    assert low[0] > 0.6
    assert high[0] > 0.8
    assert low[1] < 0.0
    assert distribution.band(0, 0.01) == 1.0
