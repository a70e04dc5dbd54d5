"""The account of a load while it runs: counts and latencies by second, made into a report at the end.

Filled by a generator, on its loop only. Must never be read before the load is over.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable

from windlass.client import histogram, report
from windlass.protocols import errors as statuses

OK, REJECTED, EXPIRED, FAILED, BROKEN, NOT_SENT = range(6)
VERSION = re.compile(rb'"(?:model_)?version":\s*"([^"]{0,32})"')
BATCH = re.compile(rb"batch;desc=(\d+)")
_DEADLINE = re.compile(rb"deadline", re.IGNORECASE)
# DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
_GRPC = {4: EXPIRED, 8: REJECTED, 14: REJECTED}


def http_outcome(status: int, body: bytes) -> int:
    """What an HTTP status says; a 503 that speaks of a deadline is an expiry."""
    if 200 <= status < 300:
        return OK
    if status == statuses.TOO_LATE or (status == statuses.NOT_READY and _DEADLINE.search(body)):
        return EXPIRED
    return REJECTED if status in statuses.NOT_NOW else FAILED


def grpc_outcome(status: int) -> int:
    """What a grpc-status says."""
    return OK if status == 0 else _GRPC.get(status, FAILED)


class Account:
    """Counts that only grow. `begun` and `measured` are when the load and its measured part begin, by the clock."""

    def __init__(
        self, begun: float, warm_s: float, *, clock: Callable[[], float], cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._cpu = clock, cpu
        self.begun = begun
        self.measured = begun + warm_s
        self._warm_up = [0] * 6
        self._seconds: list[tuple[list[int], list[int]]] = []
        self._refusals = [0] * histogram.BUCKETS
        self._lag = [0] * histogram.BUCKETS
        self._busy_from = (clock(), cpu())
        self.busy = 0.0
        self.scheduled = self.finished = 0
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()

    @property
    def in_flight(self) -> int:
        """Requests that have no outcome yet."""
        return self.scheduled - self.finished

    def warm(self) -> None:
        """The warm-up is over: from here the generator's own processor time counts."""
        self._busy_from = (self._clock(), self._cpu())

    def asked(self) -> None:
        """No more requests will be scheduled: the generator's own processor time up to here counts."""
        wall, cpu = self._clock() - self._busy_from[0], self._cpu() - self._busy_from[1]
        self.busy = min(1.0, cpu / wall) if wall > 0 else 0.0

    def late(self, intended: float, now: float) -> None:
        """A request that was to start at `intended` is started now."""
        if intended >= self.measured:
            self._lag[histogram.bucket(now - intended)] += 1

    def finish(self, intended: float, outcome: int, now: float) -> None:
        """A request that was to start at `intended` ended now."""
        self.finished += 1
        if intended < self.measured:
            self._warm_up[outcome] += 1
            return
        at = int(intended - self.measured)
        while at >= len(self._seconds):
            self._seconds.append(([0] * 6, [0] * histogram.BUCKETS))
        outcomes, counts = self._seconds[at]
        outcomes[outcome] += 1
        if outcome == OK:
            # `histogram.bucket`, without the call: this line runs for every answer.
            latency = max(now - intended, histogram.LOWEST_S)
            counts[int(math.log(min(latency, histogram.HIGHEST_S)) * histogram.SCALE + histogram.OFFSET)] += 1
        elif outcome == REJECTED:
            self._refusals[histogram.bucket(now - intended)] += 1

    def read(self, body: bytes, timing: bytes) -> None:
        """The version that answered, and the rows of the run that it shared, where the answer says so."""
        version = VERSION.search(body)
        if version is not None:
            self.versions[version[1].decode(errors="replace")] += 1
        batch = BATCH.search(timing)
        if batch is not None:
            self.batches[int(batch[1])] += 1

    def report(self, duration_s: float, rate: float) -> report.Report:
        """All of it, `duration_s` seconds after the measured part began."""
        return report.Report(
            seconds=tuple(
                report.Second(report.Outcomes(*outcomes), histogram.Histogram.of(counts))
                for outcomes, counts in self._seconds
            ),
            warm_up=report.Outcomes(*self._warm_up),
            refusals=histogram.Histogram.of(self._refusals),
            lag=histogram.Histogram.of(self._lag),
            duration_s=duration_s,
            busy=self.busy,
            rate=rate,
            versions=dict(self.versions),
            batches=dict(self.batches),
            statuses=dict(self.statuses),
        )
