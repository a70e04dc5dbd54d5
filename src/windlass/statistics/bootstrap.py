"""Bootstrap intervals: how far a statistic of rows might lie from what was found, by drawing the rows again.

Called by optimization/. Must never draw without a seed, nor draw apart what belongs together: a row is drawn whole.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
RESAMPLES = 2000
# Row numbers that are held at once.
_HELD = 2_000_000
# More rows than this are left out in groups, of which the acceleration is as of single rows.
_GROUPS = 200
_NORMAL = statistics.NormalDist()


class Interval(NamedTuple):
    """What was found, and the two ends of its interval."""

    value: float
    low: float
    high: float


def percentile(
    rows: int,
    statistic: Callable[[Indices], Numbers],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    together: int = 1,
) -> Interval:
    """The statistic of all rows and its percentile interval, for statistics that are not smooth, as a median is.

    `statistic` takes the numbers of rows, `[draws, rows]`, and gives one value a draw. Where rows come in groups of
    `together` that share their luck, groups are drawn, then rows of each. The ends are taken further out for few
    groups, by the ratio of Student's t to the normal quantile (Hesterberg, What Teachers Should Know About the
    Bootstrap, 2015). `ValueError` below two groups, or where they are not whole.
    """
    groups, rest = divmod(rows, together)
    if rest or groups < 2:
        raise ValueError("an interval needs two groups of rows or more, all of the same size")
    found, draws = _draws(rows, statistic, seed, resamples, together)
    tail = _NORMAL.cdf(-math.sqrt(groups / (groups - 1)) * student(0.5 + level / 2, groups - 1))
    return Interval(found, *_ends(draws, tail, 1.0 - tail))


def bca(
    rows: int, statistic: Callable[[Indices], Numbers], *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """As `percentile`, corrected for bias and skew instead (Efron, Better Bootstrap Confidence Intervals, 1987).

    For smooth statistics: means, rates, differences. The acceleration is the jackknife's: `statistic` is also given
    the rows without some of them.
    """
    if rows < 2:
        raise ValueError("an interval needs two rows or more")
    found, draws = _draws(rows, statistic, seed, resamples, 1)
    # Draws that equal what was found count half, so that a statistic of few values has no bias by its ties.
    below = float((draws < found).mean() + (draws == found).mean() / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / resamples), 1.0 - 0.5 / resamples))
    skew = _acceleration(rows, statistic, seed)
    tails = []
    for tail in (0.5 - level / 2, 0.5 + level / 2):
        moved = bias + _NORMAL.inv_cdf(tail)
        tails.append(_NORMAL.cdf(bias + moved / max(1.0 - skew * moved, 1e-3)))
    return Interval(found, *_ends(draws, *tails))


def median_ratio(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, level: float = 0.95, together: int = 1
) -> Interval:
    """The median of `first` over `second`, measured in pairs: `[rounds]` each, both above 0.

    Of the pairs' own ratios, not the ratio of two medians: what both of a pair met alike (a busy machine) is not in it.
    `together` as for `percentile`.
    """
    above, below = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError("a median of ratios needs two equally long rows of measurements")
    logs = np.log(above) - np.log(below)

    def middle(drawn: Indices) -> Numbers:
        found: Numbers = np.median(logs[drawn], axis=-1)
        return found

    return Interval(*np.exp(percentile(above.size, middle, seed=seed, level=level, together=together)).tolist())


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t: exact for one and two degrees of freedom, else right to a hundredth up to 99.9 %.

    By its expansion around the normal quantile (Abramowitz & Stegun, 26.7.5, 1964).
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    x = _NORMAL.inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    correction: float = sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
    return x + correction


def _draws(
    rows: int, statistic: Callable[[Indices], Numbers], seed: int, resamples: int, together: int
) -> tuple[float, Numbers]:
    """The statistic of all rows, and of each draw of as many with replacement."""
    random = np.random.default_rng(seed)
    at_once = max(1, _HELD // rows)
    groups = rows // together
    parts = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = random.integers(0, groups, size=(count, groups))
        if together > 1:
            within = random.integers(0, together, size=(count, groups, together))
            drawn = (drawn[:, :, None] * together + within).reshape(count, rows)
        parts.append(statistic(drawn))
    return float(statistic(np.arange(rows)[None])[0]), np.concatenate(parts)


def _ends(draws: Numbers, low: float, high: float) -> tuple[float, float]:
    ends = np.quantile(draws, (low, high))
    return float(ends[0]), float(ends[1])


def _acceleration(rows: int, statistic: Callable[[Indices], Numbers], seed: int) -> float:
    """A sixth of the skewness of what each row (or each group of rows) moves the statistic by when it is left out."""
    groups = np.array_split(np.random.default_rng(seed).permutation(rows), min(rows, _GROUPS))
    everyone = np.arange(rows)
    without = [float(statistic(np.delete(everyone, group)[None])[0]) for group in groups]
    moved = np.mean(without) - np.array(without)
    spread = float((moved**2).sum())
    return float((moved**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
