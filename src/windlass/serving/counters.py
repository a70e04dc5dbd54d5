"""Counters of the data plane: slots of 64 bits in a block of memory, written by the loop's thread only.

Counted by exchanges and batchers, read by `metrics.py`. A block of plain slots, so that another process may read it.
Must never format, lock or allocate on the hot path.
"""

from __future__ import annotations

import bisect
import mmap

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
OK, FAILED, EXPIRED, CANCELLED, REJECTED = range(5)
OUTCOMES = ("ok", "failed", "expired", "cancelled", "rejected")
_SLOTS = 65_536


class Block:
    """Arrays of u64, handed out slot by slot; another array is mapped when one is full."""

    def __init__(self, slots: int = _SLOTS) -> None:
        self._slots = slots
        self._free = self._map()

    def take(self, count: int) -> memoryview:
        """The next `count` slots, all zero; at most as many as one array has."""
        if count > len(self._free):
            self._free = self._map()
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def _map(self) -> memoryview:
        return memoryview(mmap.mmap(-1, self._slots * 8)).cast("Q")


class Histogram:
    """Counts per bucket, and the sum of the values in a slot of its own that holds a double."""

    __slots__ = ("_sum", "bounds", "counts")

    def __init__(self, block: Block, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = block.take(len(bounds) + 1)
        self._sum = block.take(1).cast("B").cast("d")

    def observe(self, value: float) -> None:
        """Count one value into the bucket whose upper bound is the first not below it."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self._sum[0] += value

    def observe_all(self, values: list[float]) -> None:
        """Count several values at once."""
        counts, bounds, find = self.counts, self.bounds, bisect.bisect_left
        for value in values:
            counts[find(bounds, value)] += 1
        self._sum[0] += sum(values)

    @property
    def total(self) -> float:
        """The sum of all values observed."""
        return float(self._sum[0])

    @property
    def nanoseconds(self) -> int:
        """The sum of times observed in seconds."""
        return round(self.total * 1e9)


class Requests:
    """Requests of one (model, version, protocol): their outcomes, and the time to answer the ok ones."""

    __slots__ = ("latency", "outcomes")

    def __init__(self, block: Block) -> None:
        self.outcomes = block.take(len(OUTCOMES))
        self.latency = Histogram(block, SECONDS)


class Runs:
    """Runs of one (model, version). `batches` holds executions and nanoseconds by rows; `last_ms` is wall-clock."""

    __slots__ = ("batch", "batches", "last_ms", "queue", "rows", "run")

    def __init__(self, block: Block) -> None:
        self.rows = block.take(1)
        self.queue = Histogram(block, SECONDS)
        self.run = Histogram(block, SECONDS)
        self.batch = Histogram(block, ROWS)
        self.batches: dict[int, tuple[int, int]] = {}
        self.last_ms = 0


class Counters:
    """All counters of one worker. A series lives as long as the process, so that its counts never go back."""

    def __init__(self, block: Block | None = None) -> None:
        self._block = Block() if block is None else block
        self.requests: dict[tuple[str, str, str], Requests] = {}
        self.runs: dict[tuple[str, str], Runs] = {}
        self.rejected: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def requests_of(self, model: str, version: str, protocol: str) -> Requests:
        """The series of requests, made when it is first asked for."""
        key = (model, version, protocol)
        series = self.requests.get(key)
        if series is None:
            series = self.requests[key] = Requests(self._block)
        return series

    def runs_of(self, model: str, version: str) -> Runs:
        """The series of runs, made when it is first asked for."""
        key = (model, version)
        series = self.runs.get(key)
        if series is None:
            series = self.runs[key] = Runs(self._block)
        return series

    def count_rejected(self, reason: str) -> None:
        """One request refused before it reached a model. Reasons are error codes: few, and ours."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def count_error(self, code: str) -> None:
        """One failed request, by error code."""
        self.errors[code] = self.errors.get(code, 0) + 1
