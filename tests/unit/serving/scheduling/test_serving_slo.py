"""What runs teach about runs: a line that odd ones do not bend, that follows the machine, and batches that fit it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.serving.scheduling import slo

_seconds = st.floats(1e-5, 0.1)


@settings(deadline=None)
@given(a=_seconds, b=_seconds, seed=st.integers(0, 1_000), prior=st.booleans())
def test_a_line_is_found(a: float, b: float, seed: int, prior: bool) -> None:
    line = slo.Line((b, a)) if prior else slo.Line()
    chance = random.Random(seed)
    for _ in range(200):
        n = chance.randint(1, 64)
        line.observe(n, a * n + b)
    for n in (1, 8, 64):
        assert line.predict(n) == pytest.approx(a * n + b, rel=0.1, abs=0.05 * (a * 64 + b))


@settings(deadline=None)
@given(n=st.integers(1, 64), a=_seconds, b=_seconds, scale=st.floats(0.3, 3.0))
def test_where_rows_do_not_differ_the_measured_proportions_hold(n: int, a: float, b: float, scale: float) -> None:
    line = slo.Line((a, b))
    for _ in range(200):
        line.observe(n, scale * (a * n + b))
    for other in (1, n, 2 * n):
        assert line.predict(other) == pytest.approx(scale * (a * other + b), rel=0.05)


@settings(deadline=None)
@given(seed=st.integers(0, 1_000), factor=st.floats(5.0, 1_000.0), share=st.floats(0.0, 0.1))
def test_odd_runs_do_not_bend_it(seed: int, factor: float, share: float) -> None:
    chance = random.Random(seed)
    line = slo.line_through({1: 0.006, 8: 0.013})
    for number in range(300):
        n = chance.randint(1, 8)
        odd = factor if number % 10 == 9 and chance.random() < 10 * share else 1.0
        line.observe(n, (0.005 + 0.001 * n) * odd * chance.lognormvariate(0.0, 0.02))
    for n in (1, 8):
        assert line.predict(n) == pytest.approx(0.005 + 0.001 * n, rel=0.3)


def test_a_first_run_that_takes_long_is_no_measure() -> None:
    costs = slo.Costs(8, 64)
    costs.observe((), 4, 2.0)
    assert costs.run_s((), 4) == 0.0
    for _ in range(3):
        costs.observe((), 4, 0.01)
        assert costs.run_s((), 4) < 0.011


@settings(deadline=None)
@given(factor=st.floats(0.2, 5.0))
def test_a_machine_that_changes_is_followed(factor: float) -> None:
    line = slo.line_through({1: 0.006, 8: 0.013})
    for n in itertools.islice(itertools.cycle((1, 4, 8)), 200):
        line.observe(n, factor * (0.005 + 0.001 * n))
    assert line.predict(4) == pytest.approx(factor * 0.009, rel=0.05)


@settings(deadline=None)
@given(runs=st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10.0)), min_size=1, max_size=60))
def test_no_prediction_is_negative_and_more_rows_take_no_less(runs: list[tuple[int, float]]) -> None:
    costs = slo.Costs(8, 64)
    for rows, seconds in runs:
        costs.observe((), rows, seconds)
        predicted = [costs.run_s((), n) for n in (1, 2, 16, 64)]
        assert predicted == sorted(predicted)
        assert predicted[0] >= 0.0
        assert costs.work_s((), 3) > 0.0
        assert 1 <= costs.rows(()) <= 64


@settings(deadline=None)
@given(ratio=st.floats(0.0, 20.0), start=st.sampled_from((1, 8, 64)), seed=st.integers(0, 100))
def test_rows_settle_near_the_knee_and_stay(ratio: float, start: int, seed: int) -> None:
    chance = random.Random(seed)
    bucket = slo.Bucket(slo.Line(), start, 1, 64)
    sizes = []
    for _ in range(1_500):
        rows = chance.randint(1, max(bucket.rows, 2))
        bucket.observe(rows, 1e-3 * (rows + ratio) * chance.lognormvariate(0.0, 0.01))
        sizes.append(bucket.rows)
    knee = 9.5 * ratio
    assert bucket.rows <= max(2.9 * knee, 2)
    assert bucket.rows >= min(knee / 1.5, 64)
    # It comes to rest, or all but: each way back takes twice as long as the one before.
    changes = [i for i, (one, other) in enumerate(itertools.pairwise(sizes)) if one != other]
    assert len(changes) <= 6 + 6
    assert sum(i >= 1_000 for i in changes) <= 1


def test_buckets_that_did_not_run_cost_what_rows_usually_do_and_no_call_is_judged_by_a_guess() -> None:
    costs = slo.Costs(8, 64, key=((128,),), measured={1: 0.01, 8: 0.08})
    assert costs.work_s(((999,),), 2) == pytest.approx(0.02, rel=0.01)
    assert costs.run_s(((999,),), 2) == 0.0
    # About as many elements a batch as the measured one.
    assert [costs.rows(((n,),)) for n in (16, 128, 512)] == [64, 8, 2]


def test_the_buckets_that_are_kept_are_bounded() -> None:
    costs = slo.Costs(8, 64)
    for width in range(1_000):
        for _ in range(2):
            costs.observe(((width,),), 1, 0.01)
    assert sum(costs.run_s(((width,),), 1) > 0.0 for width in range(1_000)) <= 64
    assert costs.run_s(((999,),), 1) == pytest.approx(0.01)


def test_a_target_makes_batches_that_fit_twice() -> None:
    measured = {n: 0.001 * n + 0.005 for n in (1, 2, 4, 8, 16, 32, 64)}
    costs = slo.Costs(64, 64, measured=measured, target_s=0.05)
    assert 2 * costs.run_s((), costs.rows(())) <= 0.05
    assert costs.rows(()) > 8
    assert slo.Costs(64, 64, measured=measured, target_s=0.004).rows(()) == 1


def test_the_margin_lets_one_answer_in_two_hundred_be_late() -> None:
    costs = slo.Costs(1, 1, measured={1: 0.005}, target_s=0.1)
    chance = random.Random(1)
    late = 0
    for _ in range(40_000):
        # The longer calls are let wait, the later some are.
        seconds = costs.answer_within_s * chance.lognormvariate(0.0, 0.1)
        late += seconds > 0.1
        costs.answered(seconds)
    assert 0.002 < late / 40_000 < 0.01
