"""The same statistics, slowly: event by event, from the formulas of the papers and with none of our code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from windlass.statistics import confidence, distribution, eprocess

ALPHA = 0.01
STRATA = ((0.05, 4, 30), (0.25, 9, 20), (0.5, 8, 6))


def evidence(null: float, end: float, strata: tuple[tuple[float, int, int], ...] = STRATA) -> float:
    """Lindon & Malek: the integral over log r of the product of Bernoulli ratios, by the trapezoidal rule."""
    points = 300
    values = []
    for number in range(points + 1):
        risk = null * (end / null) ** (number / points)
        product = 0.0
        for share, mine, theirs in strata:
            own, own_null = (share * r / (share * r + 1 - share) for r in (risk, null))
            for _ in range(mine):
                product += math.log(own / own_null)
            for _ in range(theirs):
                product += math.log((1 - own) / (1 - own_null))
        values.append(math.exp(product))
    return (sum(values) - (values[0] + values[-1]) / 2) / points


def split(strata: tuple[tuple[float, int, int], ...] = STRATA) -> eprocess.Split:
    return eprocess.split(*zip(*strata, strict=True))


@pytest.mark.parametrize("null", [0.7, 1.0, 2.5])
def test_evidence_of_harm_and_its_mirror(null: float) -> None:
    assert float(eprocess.log_harm(split(), null)) == pytest.approx(math.log(evidence(null, 64.0)), abs=0.03)
    assert float(eprocess.log_harmless(split(), null)) == pytest.approx(math.log(evidence(null, 1 / 64)), abs=0.03)


def test_the_ends_of_the_relative_risk_are_what_is_just_not_rejected() -> None:
    strata = ((0.1, 30, 60), (0.5, 80, 30))
    low, high = confidence.risk(split(strata), ALPHA)
    for end, towards, beyond in ((low, 64.0, 0.98), (high, 1 / 64, 1.02)):
        assert evidence(end * beyond, towards, strata) >= 1 / ALPHA >= evidence(end / beyond, towards, strata)


def crossing(low: float, high: float, wealth: Callable[[float], float]) -> float:
    """Where a falling wealth is 1 / alpha."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if wealth(middle) >= 1 / ALPHA else (low, middle)
    return low


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_difference_of_rates_is_where_the_bets_break_even(sign: float) -> None:
    requests = (4_000, 2_000, 1_000)
    tilts = [0.002 * (0.95 / 0.002) ** (k / 11) for k in range(12)]

    def wealth(difference: float) -> float:
        total = 0.0
        for tilt in tilts:
            logs = 0.0
            for (share, mine, theirs), count in zip(STRATA, requests, strict=True):
                # W: 1 for a bad answer of the candidate, -s / (1 - s) for one of the baseline.
                logs += mine * math.log(1 + sign * tilt) + theirs * math.log(1 - sign * tilt * share / (1 - share))
                logs -= tilt * difference * share * count
            total += math.exp(logs)
        return total / len(tilts)

    end = sign * crossing(-1.0, 1.0, wealth)
    found = confidence.difference(split(), requests, ALPHA)
    assert found[0 if sign > 0 else 1] == pytest.approx(end, abs=1e-6)


def test_requests_that_fell_as_drawn_are_weighed_against_odds_that_are_not() -> None:
    drawn = ((0.1, 130, 870), (0.5, 260, 240))
    offs = [1e-3 * (math.log(64) / 1e-3) ** (k / 29) for k in range(30)]
    ratios = []
    for off in (*(-one for one in offs), *offs):
        logs = 0.0
        for share, mine, theirs in drawn:
            shifted = share * math.exp(off) / (share * math.exp(off) + 1 - share)
            logs += mine * math.log(shifted / share) + theirs * math.log((1 - shifted) / (1 - share))
        ratios.append(math.exp(logs))
    assert eprocess.log_mismatch(split(drawn)) == pytest.approx(math.log(sum(ratios) / 60))


def test_a_mean_is_where_a_bettor_breaks_even() -> None:
    values = np.random.default_rng(6).beta(2.0, 5.0, 300).tolist()

    def wealth(mean: float) -> float:
        logs, total, spread, variance = 0.0, 0.5, 0.25, 0.25
        for n, value in enumerate(values, 1):
            stake = min(0.75, math.sqrt(2 * math.log(1 / ALPHA) / (variance * n * math.log(1 + n))))
            logs += math.log(1 + stake * (value - mean))
            total += value
            spread += (value - total / (n + 1)) ** 2
            variance = spread / (n + 1)
        return math.exp(min(logs, 600.0))

    assert confidence.mean(values, ALPHA)[0] == pytest.approx(crossing(0.0, 1.0, wealth), abs=1e-5)


def test_bands_have_the_width_of_the_paper() -> None:
    for count, alpha in itertools.product((200, 5_000), (0.05, 0.005)):
        width = 0.85 * math.sqrt((math.log(1 + math.log(count)) + 0.8 * math.log(1612 / alpha)) / count)
        assert distribution.band(count, alpha) == pytest.approx(width)
