"""How good answers are: a metric over rows, with the interval that so many rows allow.

Used by `evaluation.py`, and by optimization for how much worse a form answers. Pure, and seeded: the same rows give the
same interval. Must never state a value without one.

Intervals are one-sided, at 95 % on each side: percentile bootstrap (Efron, 1979); for accuracy Wilson's score (1927),
since resampling rows that are all right never shows a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.statistics import paired
from windlass.types import refs, tensor

RESAMPLES = 1000
# Below this, no resampling says how far off a mean is.
LEAST_ROWS = 30
_Z = 1.6448536269514722  # the 95 % quantile of the normal distribution
_MOST_ROWS = 1 << 40
_AT_ONCE = 1 << 18
# How often the worst row is weighed in for values: once falls short of 95 % where errors have heavy tails.
_WORST = 2
Kinds: TypeAlias = tuple[tensor.Array, ...]


class Score(msgspec.Struct, frozen=True):
    """A metric's value over `rows`, and both ends of its interval."""

    value: float
    low: float
    high: float
    rows: int


class Metric(NamedTuple):
    """`of` takes truth and answers `[rows]`, and weights `[.., rows]`; it gives `[..]`.

    `classes`: they are class numbers, else values, and `loss` says what a row adds.
    """

    of: Callable[[tensor.Array, tensor.Array, tensor.Array], tensor.Array]
    classes: bool
    higher: bool
    loss: Callable[[tensor.Array], tensor.Array] = np.abs


def _accuracy(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    return np.asarray(weights @ (truth == answers) / weights.sum(axis=-1))


def _balanced(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    """The mean over the classes that occur of the share that was recognised."""
    right, each = _by_class(truth, weights * (truth == answers)), _by_class(truth, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(right / each, axis=-1) / (each > 0).sum(axis=-1))


def _f1(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    """The mean of F1 over the classes that occur in truth or answers."""
    size = int(max(truth.max(), answers.max())) + 1
    right = _by_class(truth, weights * (truth == answers), size)
    both = _by_class(truth, weights, size) + _by_class(answers, weights, size)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(2 * right / both, axis=-1) / (both > 0).sum(axis=-1))


def _by_class(classes: tensor.Array, weights: tensor.Array, size: int = 0) -> tensor.Array:
    """The sums `[.., classes]` of weights `[.., rows]`."""
    order = np.argsort(classes, kind="stable")
    known, starts = np.unique(classes[order], return_index=True)
    found = np.zeros((*weights.shape[:-1], max(size, int(known[-1]) + 1)))
    found[..., known] = np.add.reduceat(weights[..., order], starts, axis=-1)
    return found


def _mae(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    return np.asarray(weights @ np.abs(truth - answers) / weights.sum(axis=-1))


def _rmse(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    return np.asarray(np.sqrt(weights @ (truth - answers) ** 2 / weights.sum(axis=-1)))


def _r2(truth: tensor.Array, answers: tensor.Array, weights: tensor.Array) -> tensor.Array:
    centred, total = truth - truth.mean(), weights.sum(axis=-1)
    spread = weights @ centred**2 / total - (weights @ centred / total) ** 2
    # Labels that are all alike leave a rest of rounding.
    spread = np.where(spread > 1e-12 * float((truth**2).mean()), spread, np.nan)
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - weights @ (truth - answers) ** 2 / total / spread)


METRICS = {
    "accuracy": Metric(_accuracy, classes=True, higher=True),
    "balanced_accuracy": Metric(_balanced, classes=True, higher=True),
    "f1": Metric(_f1, classes=True, higher=True),
    "mae": Metric(_mae, classes=False, higher=False),
    "rmse": Metric(_rmse, classes=False, higher=False, loss=np.square),
    "r2": Metric(_r2, classes=False, higher=True, loss=np.square),
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
    value = float(metric.of(truth, answers, np.ones(rows)))
    if math.isnan(value):
        raise errors.UsageError(f"'{name}' says nothing of labels that are all alike, or answers that are no numbers.")
    if name == "accuracy":
        low, high = wilson(value, rows)
    else:
        found = _resampled(
            metric, (truth, answers), lambda kinds, weights: metric.of(kinds[0], kinds[1], weights), seed
        )
        low, high = (float(q) for q in np.nanquantile(found, (0.05, 0.95)))
    return Score(value, low, high, rows)


def difference(
    name: str, truth: tensor.Array, new: tensor.Array, old: tensor.Array, *, seed: int = 0
) -> tuple[float, float, float]:
    """How much better `new` answers the same rows than `old` (the value, and the ends of its interval), paired."""
    metric, rows = named(name), (truth, new, old)
    found = _resampled(metric, rows, lambda kinds, weights: -_worse(metric, kinds, weights), seed)
    low, high = np.nanquantile(found, (0.05, 0.95))
    return -float(_worse(metric, rows, np.ones(len(truth)))), float(low), float(high)


def drop(
    name: str,
    truth: tensor.Array,
    new: tensor.Array,
    old: tensor.Array,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much worse `new` answers the same rows than `old` (above 0: worse), and one-sided bounds, each at `level`.

    See `statistics.paired`. Of classes the row weighed in is the lost one that costs the metric most, so that rows
    which are all answered alike still leave room: 3 / rows of accuracy, three rows of the rarest class of
    balanced accuracy. Of values it is the row that is worst among those seen, twice; what no row showed of
    values without bounds nothing can say (Bahadur & Savage, 1956).
    """
    metric = named(name)
    if metric.classes:
        truth, new, old = (np.asarray(values, np.int64) for values in (truth, new, old))
    value = _worse(metric, (truth, new, old), np.ones(len(truth)))
    high = _drop_bound(metric, (truth, new, old), level, seed)
    return float(value), -_drop_bound(metric, (truth, old, new), level, seed), high


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


def _worse(metric: Metric, kinds: Kinds, weights: tensor.Array) -> tensor.Array:
    truth, new, old = kinds
    found = metric.of(truth, old, weights) - metric.of(truth, new, weights)
    return found if metric.higher else -found


def _drop_bound(metric: Metric, rows: Kinds, level: float, seed: int) -> float:
    kinds, counts = _kinds(metric, rows)
    extra = np.zeros(len(counts))
    if metric.classes:
        lost = _costliest(metric, kinds, counts)
        kinds = tuple(np.append(values, one) for values, one in zip(kinds, lost, strict=True))
        counts, extra = np.append(counts, 0), np.append(extra, 1)
    else:
        truth, new, old = kinds
        extra[np.argmax(metric.loss(new - truth) - metric.loss(old - truth))] = _WORST
    return paired.upper(lambda weights: _worse(metric, kinds, weights), counts, extra, level=level, seed=seed)


def _costliest(metric: Metric, kinds: Kinds, counts: tensor.Array) -> tuple[int, int, int]:
    """Truth, new and old answer of the one row that, answered rightly by the old and wrongly by the new, costs most."""
    known, seen = np.unique(np.concatenate(kinds), return_inverse=True)
    if len(known) == 1:
        return int(known[0]), int(known[0]) + 1, int(known[0])
    often = np.bincount(seen, np.tile(counts, 3), len(known))
    rare = known[np.argsort(often, kind="stable")]
    true = np.unique(kinds[0])
    given = np.where(true == rare[0], rare[1], rare[0])
    truth = true[np.argmax(_costs(metric, kinds, counts, true, given))]
    others = known[known != truth]
    return int(truth), int(others[np.argmax(_costs(metric, kinds, counts, truth, others))]), int(truth)


def _costs(
    metric: Metric, kinds: Kinds, counts: tensor.Array, truth: tensor.Array, given: tensor.Array
) -> tensor.Array:
    """How much worse the metric would be with one such row more, each by itself."""
    truth, given = np.broadcast_arrays(truth, given)
    added = (truth, given, truth)
    weights = np.concatenate([np.broadcast_to(counts, (len(truth), len(counts))), np.eye(len(truth))], axis=1)
    return _worse(metric, tuple(np.concatenate(two) for two in zip(kinds, added, strict=True)), weights)


def _kinds(metric: Metric, rows: Kinds) -> tuple[Kinds, tensor.Array]:
    """Rows of classes that are alike, with how many there are; values each by itself."""
    if not metric.classes:
        return rows, np.ones(len(rows[0]))
    found, counts = np.unique(np.stack(rows), axis=1, return_counts=True)
    return tuple(found), counts


def _resampled(metric: Metric, rows: Kinds, of: Callable[[Kinds, tensor.Array], tensor.Array], seed: int) -> Any:
    """The statistic over rows drawn with replacement; drawing how many of each kind is drawing rows."""
    kinds, counts = _kinds(metric, rows)
    size, total = len(counts), len(rows[0])
    # As many at once as stay in the cache.
    at_once = max(1, min(RESAMPLES, _AT_ONCE // size))
    random, found = np.random.default_rng(seed), []
    for _ in range(0, RESAMPLES, at_once):
        if metric.classes:
            weights = random.multinomial(total, counts / total, size=at_once)
        else:
            drawn = random.integers(size, size=(at_once, size)) + size * np.arange(at_once)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=at_once * size).reshape(at_once, size)
        found.append(of(kinds, weights.astype(np.float64)))
    return np.concatenate(found)
