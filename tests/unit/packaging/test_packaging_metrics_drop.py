"""How much worse other answers are: against scikit-learn's weighted metrics, and the bounds against simulation."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from windlass.packaging import metrics
from windlass.statistics import paired

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
CLASSES = ("accuracy", "balanced_accuracy", "f1")
VALUES = ("mae", "rmse", "r2")
# Of 80, 4 are expected beyond each end, and 10 or more come with a probability of half a percent.
TIMES, MOST = 80, 9


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick bounds: they are looked at many at a time."""
    monkeypatch.setattr(paired, "LEAST_DRAWS", 1000)
    monkeypatch.setattr(paired, "_MOST_DRAWS", 1000)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    hnp.arrays(np.int64, (30, 2), elements=st.integers(0, 3)), hnp.arrays(np.int64, 30, elements=st.integers(1, 5))
)
def test_weights_are_rows_that_occur_so_often(rows: np.ndarray, often: np.ndarray) -> None:
    truth, answers = rows.T
    for name in CLASSES:
        of = metrics.named(name).of
        repeated = of(np.repeat(truth, often), np.repeat(answers, often), np.ones(int(often.sum())))
        assert of(truth, answers, often.astype(float)) == pytest.approx(repeated)
    accuracy = sklearn_metrics.accuracy_score(truth, answers, sample_weight=often)
    assert metrics.named("accuracy").of(truth, answers, often.astype(float)) == pytest.approx(accuracy)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    hnp.arrays(np.float64, (30, 2), elements=st.floats(-100, 100)),
    hnp.arrays(np.float64, 30, elements=st.floats(0.1, 5)),
)
def test_weighted_values_are_scikit_learns(rows: np.ndarray, weights: np.ndarray) -> None:
    truth, answers = rows.T
    hypothesis.assume(truth.std() > 0.1)
    theirs = {
        "mae": sklearn_metrics.mean_absolute_error,
        "rmse": sklearn_metrics.root_mean_squared_error,
        "r2": sklearn_metrics.r2_score,
    }
    for name in VALUES:
        expected = theirs[name](truth, answers, sample_weight=weights)
        assert metrics.named(name).of(truth, answers, weights) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", CLASSES + VALUES)
def test_worse_is_above_zero_and_both_ways_round(name: str) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 400)
    good = np.where(random.random(400) < 0.05, random.integers(0, 4, 400), truth)
    bad = np.where(random.random(400) < 0.3, random.integers(0, 4, 400), good)
    if name in VALUES:
        truth, good, bad = truth * 1.0, good * 1.0, bad * 1.0
    drop, low, high = metrics.drop(name, truth, bad, good)
    assert 0 < low < drop < high
    back = metrics.drop(name, truth, good, bad)
    assert back == (pytest.approx(-drop), pytest.approx(-high), pytest.approx(-low))
    same = metrics.drop(name, truth, good, good)
    assert same[0] == 0
    assert same[1] <= 0 <= same[2]


def test_rows_that_are_all_answered_alike_leave_room() -> None:
    truth = np.array([0] * 291 + [1] * 9)
    assert metrics.drop("accuracy", truth, truth, truth)[2] == pytest.approx(3 / 300, rel=0.03)
    # The one of nine rare rows that would be lost next is half of a ninth of it all.
    balanced = metrics.drop("balanced_accuracy", truth, truth, truth)[2]
    assert balanced == pytest.approx((1 - 0.05 ** (1 / 9)) / 2, rel=0.03)
    assert 0.05 < metrics.drop("f1", truth, truth, truth)[2] < balanced
    alike = np.zeros(50, np.int64)
    assert metrics.drop("f1", alike, alike, alike)[2] > 0.05


def by_class(name: str, shares: list[float], lost: list[float], rows: int) -> tuple[Callable[[], Rows], float]:
    """Rows of classes of these shares, of which these shares are lost; and the true drop."""
    random = np.random.default_rng(7)

    def draw(rows: int = rows) -> Rows:
        truth = random.choice(len(shares), size=rows, p=shares)
        old = np.where(random.random(rows) < 0.1, (truth + 1) % len(shares), truth)
        new = np.where(random.random(rows) < np.array(lost)[truth], (old + 1) % len(shares), old)
        return truth, new, old

    truth, new, old = draw(400_000)
    of, one = metrics.named(name).of, np.ones(400_000)
    return draw, float(of(truth, old, one) - of(truth, new, one))


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1"])
@pytest.mark.parametrize(
    ("rows", "shares", "lost"),
    [(60, [0.5, 0.3, 0.2], [0.02, 0.02, 0.02]), (300, [0.6, 0.35, 0.05], [0.0, 0.01, 0.2])],
)
@pytest.mark.usefixtures("few_draws")
def test_bounds_over_classes_hold_as_often_as_they_say(
    name: str, rows: int, shares: list[float], lost: list[float]
) -> None:
    draw, true = by_class(name, shares, lost, rows)
    found = [metrics.drop(name, *draw(), seed=seed) for seed in range(TIMES)]
    assert sum(true > high for _, _, high in found) <= MOST
    assert sum(true < low for _, low, _ in found) <= MOST


def errors_of(kind: str, rows: int, random: np.random.Generator) -> Rows:
    """Truth, and answers whose errors are normal, have heavy tails, or are now and then far off in the new ones."""
    truth = 2 * random.normal(size=rows)
    old = random.standard_t(3, size=rows) if kind == "heavy" else random.normal(size=rows)
    noise = 0.2 * random.standard_t(4, size=rows) if kind == "heavy" else 0.2 * random.normal(size=rows)
    if kind == "skewed":
        noise = np.exp(random.normal(size=rows)) / 10
    return truth, truth + old + noise, truth + old


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(("kind", "rows"), [("normal", 30), ("heavy", 150), ("skewed", 120)])
@pytest.mark.usefixtures("few_draws")
def test_bounds_over_values_hold_as_often_as_they_say(name: str, kind: str, rows: int) -> None:
    random = np.random.default_rng(2)
    many, one = errors_of(kind, 1_000_000, random), np.ones(1_000_000)
    metric = metrics.named(name)
    true = float(metric.of(many[0], many[2], one) - metric.of(many[0], many[1], one)) * (1 if metric.higher else -1)
    found = [metrics.drop(name, *errors_of(kind, rows, random), seed=seed) for seed in range(TIMES)]
    assert sum(true > high for _, _, high in found) <= MOST
    assert sum(true < low for _, low, _ in found) <= MOST


def test_a_thousand_classes_fit_in_memory() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 1000, 1000)
    new = np.where(random.random(1000) < 0.02, random.integers(0, 1000, 1000), truth)
    assert metrics.score("f1", truth, new).value == pytest.approx(
        sklearn_metrics.f1_score(truth, new, average="macro", zero_division=0)
    )
    drop, low, high = metrics.drop("f1", truth, new, truth)
    assert low < drop < high
