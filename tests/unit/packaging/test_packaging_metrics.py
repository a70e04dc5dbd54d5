"""Metrics against scikit-learn's, their intervals against what simulation says, and the rows that would be needed."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from windlass import errors
from windlass.packaging import metrics

THEIRS = {
    "accuracy": sklearn_metrics.accuracy_score,
    "balanced_accuracy": sklearn_metrics.recall_score,
    "f1": sklearn_metrics.f1_score,
    "mae": sklearn_metrics.mean_absolute_error,
    "rmse": sklearn_metrics.root_mean_squared_error,
    "r2": sklearn_metrics.r2_score,
}


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    hnp.arrays(np.int64, (40, 2), elements=st.integers(0, 3)), st.sampled_from(["accuracy", "balanced_accuracy", "f1"])
)
def test_class_metrics_are_scikit_learns(rows: np.ndarray, name: str) -> None:
    truth, answers = rows.T
    more = {"balanced_accuracy": {"labels": np.unique(truth), "average": "macro"}, "f1": {"average": "macro"}}
    found = metrics.score(name, truth, answers)
    assert found.value == pytest.approx(
        THEIRS[name](truth, answers, zero_division=0, **more[name]) if name in more else THEIRS[name](truth, answers)
    )
    assert found.rows == 40


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    hnp.arrays(np.float64, (40, 2), elements=st.floats(-1e3, 1e3)), st.sampled_from(["mae", "rmse", "r2"])
)
def test_metrics_of_values_are_scikit_learns(rows: np.ndarray, name: str) -> None:
    truth, answers = rows.T
    hypothesis.assume(truth.std() > 1e-3)
    found = metrics.score(name, truth, answers)
    assert found.value == pytest.approx(THEIRS[name](truth, answers), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "times", "rows"),
    [("accuracy", 160, 300), ("balanced_accuracy", 160, 300), ("f1", 160, 300), ("mae", 60, 90)],
)
def test_intervals_hold_as_often_as_they_say(name: str, times: int, rows: int) -> None:
    """Both ends are one-sided at 95 %: over many samples about one in twenty lies beyond each, never one in eight."""
    random = np.random.default_rng(5)
    metric = metrics.named(name)

    def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
        truth = random.integers(0, 3, rows)
        wrong = random.random(rows) < 0.2
        answers = np.where(wrong, random.integers(0, 3, rows), truth)
        return (truth, answers) if metric.classes else (truth.astype(float), answers.astype(float))

    true = metrics.score(name, *draw(400_000 if metric.classes else 10_000)).value
    found = [metrics.score(name, *draw(rows), seed=seed) for seed in range(times)]
    assert sum(true < one.low for one in found) <= times / 8
    assert sum(true > one.high for one in found) <= times / 8
    assert all(one.low <= one.value <= one.high for one in found)


def test_all_right_is_not_certain() -> None:
    truth = np.zeros(10, np.int64)
    found = metrics.score("accuracy", truth, truth)
    assert found.value == 1.0
    assert found.low == pytest.approx(0.787, abs=0.001)
    needed = metrics.rows_needed("accuracy", found, 0.9)
    assert metrics.wilson(1.0, needed)[0] >= 0.9 > metrics.wilson(1.0, needed - 1)[0]
    assert metrics.rows_needed("accuracy", found, 1.0) == 0


def test_the_rows_needed_would_do() -> None:
    random = np.random.default_rng(1)

    def draw(rows: int) -> metrics.Score:
        truth = random.normal(size=rows)
        return metrics.score("mae", truth, truth + random.normal(scale=0.5, size=rows))

    few = draw(60)
    limit = few.value + 0.01
    assert few.high > limit
    needed = metrics.rows_needed("mae", few, limit)
    many = draw(2 * needed)
    assert many.high - many.value < 0.01
    assert metrics.rows_needed("mae", few, few.value - 0.1) == 0


def test_the_same_answers_are_no_better_and_others_are() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 500)
    worse = np.where(random.random(500) < 0.1, 1 - truth, truth)
    assert metrics.difference("accuracy", truth, worse, worse) == (0.0, 0.0, 0.0)
    value, low, high = metrics.difference("accuracy", truth, worse, truth)
    assert low < value < high < 0
    value, low, high = metrics.difference("mae", truth * 1.0, truth * 1.0, worse * 1.0)
    assert 0 < low < value < high


def test_labels_that_are_all_alike_say_nothing_of_r2() -> None:
    with pytest.raises(errors.UsageError, match="all alike"):
        metrics.score("r2", np.ones(50), np.ones(50))


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(errors.UsageError) as raised:
        metrics.named("acuracy")
    assert "accuracy" in raised.value.hint
