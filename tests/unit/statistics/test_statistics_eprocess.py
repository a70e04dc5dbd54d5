"""E-processes: their known values, and that they expect at most 1 while their hypothesis holds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.statistics import eprocess

SHARES = st.floats(0.005, 0.95)
EVENTS = st.integers(0, 200)
Stratum = tuple[float, float, float]
STRATA = st.lists(st.tuples(SHARES, EVENTS, EVENTS), min_size=1, max_size=5)


def of(strata: list[Stratum]) -> eprocess.Split:
    return eprocess.split(*zip(*strata, strict=True))


@pytest.mark.parametrize(("share", "needed"), [(0.01, 2), (0.05, 3), (0.1, 3), (0.5, 8)])
def test_events_needed_to_abort_where_the_baseline_has_none(share: float, needed: int) -> None:
    logs = [float(eprocess.log_harm(eprocess.split(share, count, 0))) for count in (needed - 1, needed)]
    assert logs[0] < math.log(100) <= logs[1]


@pytest.mark.parametrize(("delta", "needed"), [(0.5, 899), (0.25, 3387)])
def test_events_needed_to_promote_on_the_relative_risk(delta: float, needed: int) -> None:
    def proven(events: float) -> bool:
        found = eprocess.log_harmless(eprocess.split(0.1, 0.1 * events, 0.9 * events), 1.0 + delta)
        return bool(found >= math.log(100))

    assert not proven(0.99 * needed)
    assert proven(1.01 * needed)


def expected(shares: list[float], risk: float, log_e: object, *arguments: float) -> float:
    """Over all ways in which one event a share can fall, exactly."""
    total = 0.0
    for fell in itertools.product((0.0, 1.0), repeat=len(shares)):
        own = [s * risk / (s * risk + 1 - s) for s in shares]
        chance = math.prod(p if y else 1 - p for p, y in zip(own, fell, strict=True))
        split = eprocess.split(shares, fell, [1 - y for y in fell])
        total += chance * math.exp(float(log_e(split, *arguments)))  # type: ignore[operator]
    return total


@given(st.lists(SHARES, min_size=1, max_size=6), st.floats(0.05, 20.0), st.floats(0.3, 1.0))
def test_evidence_of_harm_expects_at_most_one_where_there_is_none(
    shares: list[float], at_most: float, part: float
) -> None:
    assert expected(shares, at_most, eprocess.log_harm, at_most) == pytest.approx(1.0)
    assert expected(shares, at_most * part, eprocess.log_harm, at_most) <= 1.0 + 1e-9


@given(st.lists(SHARES, min_size=1, max_size=6), st.floats(0.05, 20.0), st.floats(1.0, 3.0))
def test_evidence_of_no_harm_expects_at_most_one_where_there_is_some(
    shares: list[float], at_least: float, times: float
) -> None:
    assert expected(shares, at_least, eprocess.log_harmless, at_least) == pytest.approx(1.0)
    assert expected(shares, at_least * times, eprocess.log_harmless, at_least) <= 1.0 + 1e-9


@given(st.lists(SHARES, min_size=1, max_size=7))
def test_a_mismatch_expects_one_where_requests_fell_as_drawn(shares: list[float]) -> None:
    assert expected(shares, 1.0, eprocess.log_mismatch) == pytest.approx(1.0)


@given(STRATA, st.floats(0.05, 20.0))
def test_strata_of_one_share_are_one(strata: list[Stratum], risk: float) -> None:
    halves = [(share, part, rest) for share, mine, theirs in strata for part, rest in ((mine, 0), (0, theirs))]
    assert eprocess.log_harm(of(strata), risk) == pytest.approx(eprocess.log_harm(of(halves), risk))


@given(STRATA, st.floats(0.05, 20.0))
def test_more_events_on_the_candidate_are_more_evidence(strata: list[Stratum], risk: float) -> None:
    share, mine, theirs = strata[0]
    more = [(share, mine + 1, theirs), *strata[1:]]
    assert eprocess.log_harm(of(more), risk) > eprocess.log_harm(of(strata), risk)
    assert eprocess.log_harmless(of(more), risk) < eprocess.log_harmless(of(strata), risk)


@given(STRATA)
def test_many_hypotheses_at_once_are_each_alone(strata: list[Stratum]) -> None:
    risks = np.array([0.5, 1.0, 3.0])
    together = eprocess.log_harm(of(strata), risks)
    assert together.tolist() == pytest.approx([float(eprocess.log_harm(of(strata), r)) for r in risks])


def test_millions_of_events_stay_finite() -> None:
    huge = eprocess.split([0.01, 0.5], [10_000_000, 5], [3, 80_000_000])
    assert np.isfinite(eprocess.log_harm(huge))
    assert np.isfinite(eprocess.log_harmless(huge, 1.5))
    assert np.isfinite(eprocess.log_mismatch(huge))


def ramped(rng: np.random.Generator, risk: float) -> np.ndarray:
    """Whether each of 600 bad events of a ramp fell on the candidate, and at which share."""
    shares = np.repeat([0.01, 0.05, 0.1, 0.25, 0.5], [100, 100, 100, 100, 200])
    return np.stack([shares, rng.random(shares.size) < shares * risk / (shares * risk + 1 - shares)])


def looked_at(found: np.ndarray) -> np.ndarray:
    """The logarithm of the evidence after every event."""
    grid = np.exp(np.log(64.0) * (np.arange(60) + 0.5) / 60)
    steps = found[1][:, None] * np.log(grid) - np.log1p(found[0][:, None] * (grid - 1.0))
    return eprocess.log_mean(np.cumsum(steps, axis=0))


def test_looking_after_every_event_aborts_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(1)
    false = sum(bool((looked_at(ramped(rng, 1.0)) >= math.log(100)).any()) for _ in range(200))
    # 0.3 % in the long run; 1 % is the promise: more than 7 of 200 would come once in 1,000 times then.
    assert false <= 7


@pytest.mark.parametrize(("risk", "median"), [(2.0, 35), (3.0, 15), (5.0, 8), (10.0, 4)])
def test_bad_events_on_the_candidate_until_abort(risk: float, median: int) -> None:
    rng = np.random.default_rng(2)
    stops = []
    for _ in range(60):
        found = ramped(rng, risk)
        stops.append(float(np.cumsum(found[1])[np.argmax(looked_at(found) >= math.log(100))]))
    assert abs(float(np.median(stops)) - median) <= max(1.0, 0.35 * median)
    last = ramped(rng, risk)
    whole = [(s, float(last[1][last[0] == s].sum()), float((1 - last[1][last[0] == s]).sum())) for s in set(last[0])]
    assert float(eprocess.log_harm(of(whole))) == pytest.approx(looked_at(last)[-1])


@given(st.integers(0, 8), st.floats(0.0, 0.5))
def test_evidence_of_worse_answers_expects_at_most_one_where_they_are_not(pairs: int, wrong: float) -> None:
    chances = [math.comb(pairs, b) * wrong**b * (1.0 - wrong) ** (pairs - b) for b in range(pairs + 1)]
    values = [math.exp(eprocess.log_worse(b, pairs - b)) for b in range(pairs + 1)]
    total = sum(chance * value for chance, value in zip(chances, values, strict=True))
    assert total <= 1.0 + 1e-9
    if wrong == 0.5:
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize(("better", "needed"), [(0, 9), (5, 22), (20, 48)])
def test_pairs_needed_to_say_that_it_is_worse(better: int, needed: int) -> None:
    assert eprocess.log_worse(needed - 1, better) < math.log(100) <= eprocess.log_worse(needed, better)


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_each_wrong_answer_is_more_evidence_that_it_is_worse(worse: int, better: int) -> None:
    found = eprocess.log_worse(worse, better)
    assert math.isfinite(found)
    assert eprocess.log_worse(worse + 1, better) > found > eprocess.log_worse(worse, better + 1)


def _stopped(rng: np.random.Generator, wrong: float, pairs: int) -> bool:
    """Whether evidence of worse answers is ever enough, looked at after each pair."""
    fell = np.cumsum(rng.random(pairs) < wrong)
    return any(eprocess.log_worse(float(b), float(n - b)) >= math.log(20) for n, b in enumerate(fell.tolist(), start=1))


def test_looking_after_every_pair_blames_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(3)
    false = sum(_stopped(rng, 0.5, 300) for _ in range(200))
    # 5 % is the promise: more than 20 of 200 would come less than once in 1,000 times then.
    assert 0 < false <= 20
    assert all(_stopped(rng, 0.75, 300) for _ in range(20))
