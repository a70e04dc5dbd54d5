"""Latencies in logarithmic buckets: any quantile within 1 % of the true one, whatever the range; parts add up exactly.

Filled by the load generator, merged across its processes, read by reports. Must never give a quantile that its count of
samples does not carry without saying so: `enough` tells.

The buckets are DDSketch's (Masson, Rim, Lee: "DDSketch", VLDB 2019) without its collapsing: from 100 ns to an hour
there are 1,300 of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec

ERROR = 0.01
LOWEST_S, HIGHEST_S = 1e-7, 3600.0
_GAMMA = (1 + ERROR) / (1 - ERROR)
SCALE = 1 / math.log(_GAMMA)
# Added before cutting to an integer, so that the cut is a floor.
OFFSET = -math.log(LOWEST_S) * SCALE
BUCKETS = int(math.log(HIGHEST_S) * SCALE + OFFSET) + 1
# A quantile stands on at least this many samples beyond it.
_BEYOND = 10


def bucket(seconds: float) -> int:
    """The bucket of a latency; what lies outside the range goes to the first or the last."""
    return int(math.log(min(max(seconds, LOWEST_S), HIGHEST_S)) * SCALE + OFFSET)


def needed(q: float) -> int:
    """How many samples a quantile needs: 1,000 for the 99th percentile, 10,000 for the 99.9th."""
    return math.ceil(round(_BEYOND / (1 - q), 6)) if q > 0.5 else math.ceil(round(_BEYOND / q, 6))


class Histogram(msgspec.Struct, frozen=True):
    """Counts by bucket; immutable. Latencies in seconds."""

    counts: dict[int, int] = {}

    @classmethod
    def of(cls, counts: Sequence[int]) -> Histogram:
        """From a dense list of counts, one a bucket."""
        return cls({at: count for at, count in enumerate(counts) if count})

    @classmethod
    def samples(cls, seconds: Iterable[float]) -> Histogram:
        """From latencies."""
        counts = [0] * BUCKETS
        for value in seconds:
            counts[bucket(value)] += 1
        return cls.of(counts)

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """All of these together."""
        total: dict[int, int] = {}
        for part in parts:
            for at, count in part.counts.items():
                total[at] = total.get(at, 0) + count
        return cls(total)

    @property
    def count(self) -> int:
        """How many latencies."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Their mean within 1 %; NaN without any."""
        count = self.count
        return sum(_middle(at) * n for at, n in self.counts.items()) / count if count else math.nan

    def quantile(self, q: float) -> float:
        """The latency that a share `q` of them does not exceed, within 1 %; NaN without any."""
        count = self.count
        if not count:
            return math.nan
        ordered = sorted(self.counts)
        wanted = max(1, math.ceil(q * count))
        for at, below in zip(ordered, itertools.accumulate(self.counts[at] for at in ordered), strict=True):
            if below >= wanted:
                return _middle(at)
        return _middle(ordered[-1])

    def enough(self, q: float) -> bool:
        """Whether there are samples enough to speak of this quantile."""
        return self.count >= needed(q)

    def within(self, seconds: float) -> int:
        """How many do not exceed `seconds`, within 1 % of `seconds`."""
        last = bucket(seconds)
        return sum(count for at, count in self.counts.items() if at <= last)


def _middle(at: int) -> float:
    """The value of a bucket that is off by no more than `ERROR` from any in it."""
    return math.exp((at - OFFSET) / SCALE) * (1 + ERROR)
