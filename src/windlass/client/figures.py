"""Figures from several rounds: the median with its spread, and a ratio with its interval.

Used by `capacity`. Must never give a ratio from rounds that were not measured in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

_RESAMPLES = 4_000
_INTERVAL = (2.5, 97.5)


class Figure(msgspec.Struct, frozen=True):
    """A median over rounds; `low` and `high` are the least and the most of them, or the ends of an interval."""

    value: float
    low: float
    high: float


def over(rounds: Sequence[float]) -> Figure:
    """The median of the rounds, and their spread."""
    return Figure(float(np.median(rounds)), min(rounds), max(rounds))


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> Figure:
    """`ours` over `theirs`, round by round, with a 95 % interval by the bootstrap over the pairs of rounds.

    Percentile bootstrap (Efron, Tibshirani: "An Introduction to the Bootstrap", 1993) of the median of the pairs'
    ratios. From three rounds it is hardly more than their spread. NaN if `theirs` has a round without anything.
    """
    if not all(theirs):
        return Figure(math.nan, math.nan, math.nan)
    pairs = np.array(ours, dtype=float) / np.array(theirs, dtype=float)
    drawn = np.random.default_rng(seed).choice(pairs, (_RESAMPLES, len(pairs)))
    low, high = np.percentile(np.median(drawn, axis=1), _INTERVAL)
    return Figure(float(np.median(pairs)), float(low), float(high))
