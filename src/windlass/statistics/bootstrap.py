"""The bootstrap's interval of a median ratio: how far it might lie from what was found, by drawing the rounds again.

Called by optimization/. Must never draw without a seed, nor draw apart what belongs together.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_NORMAL = statistics.NormalDist()


class Interval(NamedTuple):
    """What was found, and the two ends of its interval."""

    value: float
    low: float
    high: float


def median_ratio(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, level: float = 0.95, together: int = 1
) -> Interval:
    """The median of `first` over `second`, measured in pairs: `[rounds]` each, both above 0; and its interval.

    Of the pairs' own ratios, not the ratio of two medians: what both of a pair met alike (a busy machine) is not in it.
    Where rounds come in groups of `together` that share their luck, groups are drawn, then rounds of each.

    Percentiles, since a median is not smooth enough for more. They are taken further out for few groups, by the ratio
    of Student's t to the normal quantile (Hesterberg, What Teachers Should Know About the Bootstrap, 2015).
    `ValueError` below two groups, or where they are not whole.
    """
    above, below = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError("a median of ratios needs two equally long rows of measurements")
    groups, rest = divmod(above.size, together)
    if rest or groups < 2:
        raise ValueError("an interval needs two groups of rounds or more, all of the same size")
    logs = np.log(above) - np.log(below)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, groups, size=(RESAMPLES, groups, 1)) * together
    within = random.integers(0, together, size=(RESAMPLES, groups, together))
    medians = np.median(logs[(drawn + within).reshape(RESAMPLES, -1)], axis=-1)
    tail = _NORMAL.cdf(-math.sqrt(groups / (groups - 1)) * student(0.5 + level / 2, groups - 1))
    low, high = np.quantile(medians, (tail, 1.0 - tail))
    return Interval(*(math.exp(each) for each in (float(np.median(logs)), float(low), float(high))))


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
