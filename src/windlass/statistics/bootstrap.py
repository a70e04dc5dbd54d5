"""Bootstrap intervals: how far a statistic of rows might lie from what was found, by drawing the rows again.

Called by optimization/. Must never draw without a seed, nor draw apart what belongs together: a row is drawn whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
RESAMPLES = 2000


class Interval(NamedTuple):
    """What was found, and the two ends of its interval."""

    value: float
    low: float
    high: float


def percentile(
    rows: int, statistic: Callable[[Indices], Numbers], *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """The statistic of all rows and its percentile interval, for statistics that are not smooth, as a median is.

    `statistic` takes the numbers of rows, `[draws, rows]`, and gives one value a draw. The ends are taken further out
    for few rows, by the ratio of Student's t to the normal quantile (Hesterberg, What Teachers Should Know About the
    Bootstrap, 2015). `ValueError` below two rows.
    """
    raise NotImplementedError


def bca(
    rows: int, statistic: Callable[[Indices], Numbers], *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """As `percentile`, corrected for bias and skew (Efron, 1987), for smooth statistics: means, rates, differences.

    The acceleration is the jackknife's; `statistic` is also given `[rows, rows - 1]`.
    """
    raise NotImplementedError


def median_ratio(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, level: float = 0.95) -> Interval:
    """The median of `first` over the median of `second`, measured in pairs: `[rounds]` each, drawn by the pair."""
    raise NotImplementedError
