"""Ramps from budgets, forecasts from rates, and the ledger of alpha."""

from __future__ import annotations

import numpy as np
import pytest

from windlass import errors
from windlass.rollout import evidence, forecast, ledger, plan, ramp
from windlass.statistics import eprocess
from windlass.types import deployment

STEPS = [(1.0, 60.0), (5.0, 60.0), (10.0, 60.0), (25.0, 60.0), (50.0, 60.0)]
GUARD = evidence.Guard(slow_ms=50.0)


def test_the_ramp_ends_at_the_largest_share_that_keeps_the_budget() -> None:
    assert ramp.choose(50, 2.0) == (1.0, 2.0, 5.0, 10.0)
    assert ramp.choose(10, 5.0) == (1.0, 2.0, 5.0)
    assert ramp.choose(1_000, 10.0) == ramp.LADDER


def test_a_budget_that_no_share_keeps_is_refused_with_the_least() -> None:
    with pytest.raises(errors.UsageError, match="takes about 41 bad answers") as refused:
        ramp.choose(25, 2.0)
    assert "a budget of 41" in (refused.value.hint or "")


@pytest.mark.parametrize(("budget", "regression"), [(0, 2), (10, 1), (-5, 3), (10, float("nan"))])
def test_what_cannot_be_asked_is_refused(budget: float, regression: float) -> None:
    with pytest.raises(errors.UsageError):
        ramp.choose(budget, regression)


def test_bad_events_expected_until_abort_are_those_of_a_simulation() -> None:
    rng, share, risk = np.random.default_rng(6), 0.1, 5.0
    own = share * risk / (share * risk + 1 - share)
    stops = []
    for _ in range(300):
        mine = theirs = 0
        while eprocess.log_harm(eprocess.split(share, mine, theirs)) < np.log(300):
            fell = rng.random() < own
            mine, theirs = mine + fell, theirs + (not fell)
        stops.append(mine)
    assert ramp.expected(10.0, risk) == pytest.approx(float(np.mean(stops)), rel=0.12)


def test_a_regression_too_small_to_be_caught_is_expected_never() -> None:
    assert ramp.expected(50.0, 1.05) == float("inf")


@pytest.mark.parametrize(("base", "seconds"), [(0.0, 300), (0.001, 300), (0.005, 330), (0.02, 380)])
def test_a_healthy_release_is_expected_to_be_promoted_in_minutes(base: float, seconds: float) -> None:
    found = forecast.expect(GUARD, STEPS, rate=100.0, errors=base)
    assert found.promote_s == pytest.approx(seconds, rel=0.3)
    assert "at 100 requests a second" in found.words


def test_a_worse_release_is_expected_to_be_aborted_the_sooner_the_worse() -> None:
    found = [forecast.expect(GUARD, STEPS, rate=100.0, errors=0.01, regression=r) for r in (3.0, 10.0)]
    times = [one.abort_s or 0.0 for one in found]
    assert times[0] > times[1] > 0.0
    assert found[0].harmed < 40
    assert "harmed requests later" in found[0].words


def test_a_regression_within_the_margin_is_said_to_be_allowed() -> None:
    found = forecast.expect(GUARD, STEPS, rate=100.0, errors=0.001, regression=2.0)
    assert "0.5 % more are allowed" in found.words


def test_nothing_is_expected_of_no_traffic() -> None:
    found = forecast.expect(GUARD, STEPS, rate=0.0, errors=0.01)
    assert (found.promote_s, found.abort_s) == (None, None)
    assert forecast.expect(GUARD, STEPS, rate=0.001, errors=0.01).promote_s is None


def test_every_release_spends_its_alpha_however_it_ended() -> None:
    canary, swap = (plan.strategy_of(deployment.Strategy(kind)) for kind in ("canary", "recreate"))
    ends = ["old" if n == 7 else "new" for n in range(99)]
    entries = [ledger.entry(canary, end, compared=True) for end in (*ends, "")]
    first = [ledger.entry(swap, "new", compared=True), ledger.entry(canary, "new", compared=False)]
    assert ledger.words([*first, *entries]) == (
        "100 judged on evidence, 1 ended at the old version. Had all been good, at most 1 of them would be expected to "
        "be sent back: 1 in 100 releases."
    )
    assert ledger.words(first) == ledger.words([]) == "None was judged on evidence."
