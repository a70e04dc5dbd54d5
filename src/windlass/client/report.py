"""What came of a load: an account in which every request has exactly one outcome, and latencies.

Made by the load generator, merged across its processes, read by tests, drills and `windlass bench`.
Must never lose a request: the outcomes of an account add up to what was scheduled.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from windlass.client import histogram

# Above this share of a core, or this part of the latency, it was the generator that was measured.
MOST_BUSY = 0.9
_MOST_LAG = 0.2
_LAG_MATTERS_S = 0.0005


class Outcomes(msgspec.Struct, frozen=True):
    """How requests ended, each exactly once.

    `ok`: a 2xx, or grpc-status 0. `rejected`: the server said not now (429, 503; RESOURCE_EXHAUSTED, UNAVAILABLE).
    `expired`: no answer within the time-out, or the server said that the deadline passed (504; DEADLINE_EXCEEDED).
    `failed`: any other answer. `broken`: the connection was refused or lost. `not_sent`: more were under way than the
    cap allows, so that the generator did not ask.
    """

    ok: int = 0
    rejected: int = 0
    expired: int = 0
    failed: int = 0
    broken: int = 0
    not_sent: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.ok + self.rejected + self.expired + self.failed + self.broken + self.not_sent

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class Second(msgspec.Struct, frozen=True):
    """One second of a load: the requests that were to start in it, and the latencies of those that were answered ok."""

    outcomes: Outcomes = Outcomes()
    latency: histogram.Histogram = histogram.Histogram()

    def __add__(self, other: Second) -> Second:
        return Second(self.outcomes + other.outcomes, histogram.Histogram.merged((self.latency, other.latency)))


class Report(msgspec.Struct, frozen=True):
    """What came of a load. Times in seconds.

    `seconds` are the measured part, by the second in which a request was to start (in an open loop) or started;
    `warm_up` is what went before, counted apart. `refusals` are the latencies of rejections, `lag` how late the
    generator was with a request through its own fault, `busy` its share of a core. `rate` is what was offered (0 in
    a closed loop). `versions`, `batches` and `statuses` (HTTP's or gRPC's) count answers; the first two only where
    they were watched.
    """

    seconds: tuple[Second, ...] = ()
    warm_up: Outcomes = Outcomes()
    refusals: histogram.Histogram = histogram.Histogram()
    lag: histogram.Histogram = histogram.Histogram()
    duration_s: float = 0.0
    busy: float = 0.0
    rate: float = 0.0
    versions: dict[str, int] = {}
    batches: dict[int, int] = {}
    statuses: dict[int, int] = {}

    @property
    def outcomes(self) -> Outcomes:
        """The measured requests by their outcome."""
        return sum((second.outcomes for second in self.seconds), Outcomes())

    @property
    def latency(self) -> histogram.Histogram:
        """The latencies of all that were answered ok, from the moment at which they were to start."""
        return histogram.Histogram.merged(second.latency for second in self.seconds)

    @property
    def scheduled(self) -> int:
        """Every measured request."""
        return self.outcomes.total

    @property
    def sent(self) -> int:
        """All but those that the generator did not send."""
        return self.scheduled - self.outcomes.not_sent

    @property
    def answered(self) -> int:
        """Those answered ok."""
        return self.outcomes.ok

    @property
    def lost(self) -> int:
        """Those that were sent and not answered ok."""
        return self.sent - self.answered

    @property
    def throughput(self) -> float:
        """Answers a second that were ok."""
        return self.answered / self.duration_s if self.duration_s else 0.0

    @property
    def mean_batch(self) -> float:
        """Mean rows of the run that an answer shared; 0 when the server did not say."""
        total = sum(self.batches.values())
        return sum(rows * count for rows, count in self.batches.items()) / total if total else 0.0

    def quantile(self, q: float) -> float:
        """The latency that a share `q` of the answers does not exceed; NaN without answers. See `more_s`."""
        return self.latency.quantile(q)

    def goodput(self, slo_s: float) -> float:
        """Answers a second that were ok within `slo_s`."""
        return self.latency.within(slo_s) / self.duration_s if self.duration_s else 0.0

    def more_s(self, q: float) -> float:
        """How many seconds more this load needs until the quantile stands on samples enough; 0 if it does."""
        missing = histogram.needed(q) - self.answered
        if missing <= 0:
            return 0.0
        return missing / self.throughput if self.throughput else math.inf

    @property
    def doubt(self) -> str:
        """Why these figures are of the generator and not of the server; empty if they are of the server."""
        if self.busy > MOST_BUSY:
            return f"the generator was busy {self.busy:.0%} of the time"
        late, p99 = self.lag.quantile(0.99), self.latency.quantile(0.99)
        if self.lag.enough(0.99) and late > max(_LAG_MATTERS_S, _MOST_LAG * p99):
            return f"the generator was {late * 1e3:.1f} ms late with 1 % of its requests"
        return ""


def merged(parts: Sequence[Report]) -> Report:
    """The reports of generators that ran at the same time, as one."""
    seconds = itertools.zip_longest(*(part.seconds for part in parts), fillvalue=Second())
    return Report(
        seconds=tuple(sum(each, Second()) for each in seconds),
        warm_up=sum((part.warm_up for part in parts), Outcomes()),
        refusals=histogram.Histogram.merged(part.refusals for part in parts),
        lag=histogram.Histogram.merged(part.lag for part in parts),
        duration_s=max((part.duration_s for part in parts), default=0.0),
        busy=max((part.busy for part in parts), default=0.0),
        rate=sum(part.rate for part in parts),
        versions=dict(sum((Counter(part.versions) for part in parts), Counter())),
        batches=dict(sum((Counter(part.batches) for part in parts), Counter())),
        statuses=dict(sum((Counter(part.statuses) for part in parts), Counter())),
    )
