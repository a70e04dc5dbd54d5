"""How good answers are: a metric over rows, with the interval that so many rows allow.

Used by `evaluation.py`. Pure, and seeded: the same rows give the same interval. Must never state a value without one.

Intervals are one-sided, at 95 % on each side: percentile bootstrap (Efron, 1979); for accuracy Wilson's score (1927),
since resampling rows that are all right never shows a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from windlass import errors
from windlass.types import refs, tensor

RESAMPLES = 1000
# Below this, no resampling says how far off a mean is.
LEAST_ROWS = 30
_Z = 1.6448536269514722  # the 95 % quantile of the normal distribution
_MOST_ROWS = 1 << 40
_AT_ONCE = 1 << 18


class Score(msgspec.Struct, frozen=True):
    """A metric's value over `rows`, and both ends of its interval."""

    value: float
    low: float
    high: float
    rows: int


class Metric(NamedTuple):
    """`classes`: `of` takes counts `[.., truth, answer]`; else `of` takes truth and answers `[.., rows]`."""

    of: Callable[..., tensor.Array]
    classes: bool
    higher: bool


def _accuracy(counts: tensor.Array) -> tensor.Array:
    return np.asarray(np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1)))


def _balanced(counts: tensor.Array) -> tensor.Array:
    """The mean over the classes that occur of the share that was recognised."""
    right, each = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(right / each, axis=-1) / (each > 0).sum(axis=-1))


def _f1(counts: tensor.Array) -> tensor.Array:
    """The mean of F1 over the classes that occur in truth or answers."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(2 * right / both, axis=-1) / (both > 0).sum(axis=-1))


def _mae(truth: tensor.Array, answers: tensor.Array) -> tensor.Array:
    return np.asarray(np.abs(truth - answers).mean(axis=-1))


def _rmse(truth: tensor.Array, answers: tensor.Array) -> tensor.Array:
    return np.asarray(np.sqrt(((truth - answers) ** 2).mean(axis=-1)))


def _r2(truth: tensor.Array, answers: tensor.Array) -> tensor.Array:
    spread = ((truth - truth.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, 1 - ((truth - answers) ** 2).sum(axis=-1) / spread, np.nan))


METRICS = {
    "accuracy": Metric(_accuracy, classes=True, higher=True),
    "balanced_accuracy": Metric(_balanced, classes=True, higher=True),
    "f1": Metric(_f1, classes=True, higher=True),
    "mae": Metric(_mae, classes=False, higher=False),
    "rmse": Metric(_rmse, classes=False, higher=False),
    "r2": Metric(_r2, classes=False, higher=True),
}


def named(name: str) -> Metric:
    """The metric of that name; `UsageError` names the nearest."""
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise errors.UsageError(f"there is no metric '{name[:40]}': {known}.", hint=refs.nearest(name, METRICS))
    return METRICS[name]


def score(name: str, truth: tensor.Array, answers: tensor.Array, *, seed: int = 0) -> Score:
    """The metric over rows: class numbers (int) or values (float), `[rows]` each."""
    metric, rows = named(name), len(truth)
    value = float(_value(metric, truth, answers))
    if math.isnan(value):
        raise errors.UsageError(f"'{name}' says nothing of labels that are all alike, or answers that are no numbers.")
    if name == "accuracy":
        low, high = wilson(value, rows)
    else:
        resampled = _resampled(metric, truth, answers, np.random.default_rng(seed))
        low, high = (float(q) for q in np.nanquantile(resampled, (0.05, 0.95)))
    return Score(value, low, high, rows)


def difference(
    name: str, truth: tensor.Array, new: tensor.Array, old: tensor.Array, *, seed: int = 0
) -> tuple[float, float, float]:
    """How much better `new` answers the same rows than `old` (the value, and the ends of its interval), paired."""
    metric = named(name)
    sign = 1.0 if metric.higher else -1.0
    random, rows = np.random.default_rng(seed), len(truth)
    found = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        drawn = random.integers(rows, size=rows)
        found[at] = _value(metric, truth[drawn], new[drawn]) - _value(metric, truth[drawn], old[drawn])
    low, high = np.nanquantile(sign * found, (0.05, 0.95))
    value = _value(metric, truth, new) - _value(metric, truth, old)
    return sign * float(value), float(low), float(high)


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's score interval for a share of `rows`."""
    centre = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def rows_needed(name: str, found: Score, limit: float) -> int:
    """How many rows would show that a value such as the one found keeps a limit; 0 if no number would."""
    higher = named(name).higher
    room = found.value - limit if higher else limit - found.value
    if not room > 0:
        return 0
    if name == "accuracy":
        low, high = 1, _MOST_ROWS
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if wilson(found.value, middle)[0] >= limit else (middle + 1, high)
        return low
    half = found.value - found.low if higher else found.high - found.value
    # Intervals narrow with the root of the rows.
    return max(LEAST_ROWS, math.ceil(found.rows * (half / room) ** 2))


def _value(metric: Metric, truth: tensor.Array, answers: tensor.Array) -> Any:
    if metric.classes:
        size = int(max(truth.max(), answers.max())) + 1
        return metric.of(_counts(truth, answers, size))
    return metric.of(truth, answers)


def _counts(truth: tensor.Array, answers: tensor.Array, size: int) -> tensor.Array:
    return np.bincount(truth * size + answers, minlength=size * size).reshape(size, size)


def _resampled(metric: Metric, truth: tensor.Array, answers: tensor.Array, random: np.random.Generator) -> tensor.Array:
    rows = len(truth)
    if not metric.classes:
        # As many at once as stay in the cache.
        at_once = max(1, min(RESAMPLES, _AT_ONCE // rows))
        drawn = (random.integers(rows, size=(at_once, rows)) for _ in range(0, RESAMPLES, at_once))
        return np.concatenate([metric.of(truth[one], answers[one]) for one in drawn])
    size = int(max(truth.max(), answers.max())) + 1
    # Rows with the same truth and answer are alike: drawing how many of each kind is drawing rows.
    kinds = _counts(truth, answers, size).ravel()
    seen = np.flatnonzero(kinds)
    many = np.zeros((RESAMPLES, size * size))
    many[:, seen] = random.multinomial(rows, kinds[seen] / rows, size=RESAMPLES)
    return metric.of(many.reshape(RESAMPLES, size, size))
