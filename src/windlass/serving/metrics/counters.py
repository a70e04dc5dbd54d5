"""Counters of the data plane: slots of 64 bits in a region of memory, written by the loop's thread only.

Counted by exchanges and batchers, read by `totals` and `metrics`. Plain slots, so that another process may read them,
and so that what was counted outlives the process that counted it. Must never format, lock or allocate on the hot path.
"""

from __future__ import annotations

import bisect
from typing import Any

from windlass import telemetry
from windlass.serving.metrics import regions
from windlass.types import directory

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OK, FAILED, EXPIRED, CANCELLED, REJECTED = range(5)
OUTCOMES = ("ok", "failed", "expired", "cancelled", "rejected")
# Why a request left the queue before its run, which was saved.
LATE, LEFT = range(2)
SAVED = ("expired", "cancelled")
# Runs are told by their exact rows up to here, then by the next power of two.
EXACT_ROWS = 64
ROWS = (*range(1, EXACT_ROWS + 1), *(EXACT_ROWS << n for n in range(1, 15)))
_POWER = EXACT_ROWS.bit_length() - 1

# What each slot of a kind is: (n) a count, (s) a sum of doubles, (m) the latest or largest, (g) a gauge, which ends
# with its worker.
_TIMES = "n" * (len(SECONDS) + 1) + "s"
KINDS = {
    "requests": "n" * len(OUTCOMES) + "nn" + _TIMES,
    "runs": "n" + _TIMES + _TIMES + "nn" * len(ROWS) + "m" + "g" + "n" * len(SAVED),
    "counter": "n",
    "gauge": "g",
}
# What finds no more room is counted under this label.
OVERFLOW = "overflow"
# An endpoint's requests are told apart by so many generations of its weights; an arm's before are counted together.
GENERATIONS = 64
EARLIER = -1
_NO_LABELS = {"requests": ("", "", "", "0000000000"), "runs": ("", ""), "counter": (), "gauge": ()}


class Histogram:
    """Counts per bucket, and the sum of the values in a slot of its own that holds a double."""

    __slots__ = ("_sum", "bounds", "counts")

    def __init__(self, region: regions.Region, start: int, bounds: tuple[float, ...]) -> None:
        """On the `len(bounds) + 2` slots from `start` on."""
        self.bounds = bounds
        end = start + len(bounds) + 1
        self.counts = region.words[start:end]
        self._sum = region.doubles[end : end + 1]

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
    """Requests of one (model, version, protocol, arm, generation of its weights): admitted, their outcomes, the time
    to answer the ok ones, how many of those were slow. What is admitted and has no outcome is in flight, or was lost
    with its worker.
    """

    __slots__ = ("admitted", "latency", "outcomes", "slow")

    def __init__(self, region: regions.Region, start: int) -> None:
        admitted = start + len(OUTCOMES)
        self.outcomes = region.words[start:admitted]
        self.admitted = region.words[admitted : admitted + 1]
        self.slow = region.words[admitted + 1 : admitted + 2]
        self.latency = Histogram(region, admitted + 2, SECONDS)

    @property
    def in_flight(self) -> int:
        """Requests that have no outcome yet."""
        return max(0, self.admitted[0] - sum(self.outcomes))


class Runs:
    """Runs of one (model, version, arm): rows inferred, times, and the runs and nanoseconds by rows of a run.

    `last_ms` is when the last one ended (wall-clock); `queued` is a gauge of the rows that wait for a run; `saved` are
    requests that left before theirs, by the index of `SAVED`.
    """

    __slots__ = ("_batches", "last_ms", "queue", "queued", "rows", "run", "saved")

    def __init__(self, region: regions.Region, start: int) -> None:
        times = len(_TIMES)
        self.rows = region.words[start : start + 1]
        self.queue = Histogram(region, start + 1, SECONDS)
        self.run = Histogram(region, start + 1 + times, SECONDS)
        batches = start + 1 + 2 * times
        last = batches + 2 * len(ROWS)
        self._batches = region.words[batches:last]
        self.last_ms = region.words[last : last + 1]
        self.queued = region.words[last + 1 : last + 2]
        self.saved = region.words[last + 2 : last + 2 + len(SAVED)]

    def ran(self, rows: int, run_s: float, waited: list[float], now: float) -> None:
        """Count one run of `rows` rows that took `run_s`, whose calls `waited` (seconds), at wall-clock `now`."""
        self.rows[0] += rows
        self.run.observe(run_s)
        index = rows - 1 if rows <= EXACT_ROWS else EXACT_ROWS - 1 + ((rows - 1).bit_length() - _POWER)
        index = 2 * min(index, len(ROWS) - 1)
        batches = self._batches
        batches[index] += 1
        batches[index + 1] += int(run_s * 1e9)
        self.last_ms[0] = int(now * 1000)
        self.queue.observe_all(waited)

    @property
    def batches(self) -> dict[int, tuple[int, int]]:
        """Runs and their nanoseconds by rows; above `EXACT_ROWS` by the next power of two."""
        counts = self._batches.tolist()
        return {
            rows: (count, spent) for rows, count, spent in zip(ROWS, counts[::2], counts[1::2], strict=True) if count
        }


_NONE: tuple[list[Requests], list[Runs]] = ([], [])


class Counters:
    """All counters of one region. A series lives as long as the region, so that its counts never go back.

    When the region is full, further series of a kind are counted together under the label `overflow`.
    """

    def __init__(self, region: regions.Region | None = None) -> None:
        """On memory of its own unless a region is given; what was counted there before goes on."""
        self.region = regions.private() if region is None else region
        self.requests: dict[tuple[str, ...], Requests] = {}
        self.runs: dict[tuple[str, ...], Runs] = {}
        self.single: dict[str, dict[tuple[str, ...], memoryview]] = {"counter": {}, "gauge": {}}
        self._rejected: dict[str, memoryview] = {}
        self._errors: dict[str, memoryview] = {}
        self._versions: dict[tuple[str, str], tuple[list[Requests], list[Runs]]] = {}
        self._starts: dict[tuple[str, tuple[str, ...]], int] = {}
        for series in self.region.series()[0]:
            self._starts[series.kind, series.key] = series.start
            self._found(series.kind, series.key, series.start)
        self._overflowed = self.counter(telemetry.OVERFLOWED)
        self._rest = {kind: self.declare(kind, (OVERFLOW, *rest)) for kind, rest in _NO_LABELS.items()}

    def requests_of(self, model: str, version: str, protocol: str, arm: str = "", generation: int = 0) -> Requests:
        """The series of requests, made when it is first asked for. `arm` is empty where an endpoint has one only."""
        # As long as any other, so that one can take another's place.
        key = (model, version, protocol, arm, f"{generation:010d}")
        series = self.requests.get(key)
        if series is None:
            start = self.adopt("requests", key)
            series = self.requests.get(key) or Requests(self.region, start)
        return series

    def runs_of(self, model: str, version: str, arm: str = "") -> Runs:
        """The series of runs, made when it is first asked for."""
        key = (model, version, arm)
        series = self.runs.get(key)
        if series is None:
            start = self.declare("runs", key)
            series = self.runs.get(key) or Runs(self.region, start)
        return series

    def counter(self, metric: telemetry.Metric, *labels: str) -> memoryview:
        """The one slot of a count that only grows; `labels` are the values of the metric's labels."""
        return self._slot("counter", (metric.name, *labels))

    def gauge(self, metric: telemetry.Metric, *labels: str) -> memoryview:
        """The one slot of a whole number that goes up and down; workers' are added, and end with the worker."""
        return self._slot("gauge", (metric.name, *labels))

    def count_rejected(self, reason: str) -> None:
        """One request refused before it reached a model. Reasons are error codes: few, and ours."""
        slot = self._rejected.get(reason)
        if slot is None:
            slot = self._rejected[reason] = self.counter(telemetry.REJECTED, reason)
        slot[0] += 1

    def count_error(self, code: str) -> None:
        """One failed request, by error code."""
        slot = self._errors.get(code)
        if slot is None:
            slot = self._errors[code] = self.counter(telemetry.ERRORS, code)
        slot[0] += 1

    @property
    def rejected(self) -> dict[str, int]:
        """Requests refused, by reason."""
        return self._by_label(telemetry.REJECTED)

    @property
    def errors(self) -> dict[str, int]:
        """Failed requests, by error code."""
        return self._by_label(telemetry.ERRORS)

    def statistics(self, model: str, version: str) -> directory.ModelStatistics:
        """What protocols tell of one version: counts and nanoseconds, over all of its arms and protocols."""
        requests, runs = self._versions.get((model, version), _NONE)
        batches: dict[int, tuple[int, int]] = {}
        for one in runs:
            for rows, (count, spent) in one.batches.items():
                before = batches.get(rows, (0, 0))
                batches[rows] = (before[0] + count, before[1] + spent)
        return directory.ModelStatistics(
            name=model,
            version=version,
            inference_count=sum(one.rows[0] for one in runs),
            execution_count=sum(count for count, _ in batches.values()),
            success_count=sum(one.outcomes[OK] for one in requests),
            success_ns=sum(one.latency.nanoseconds for one in requests),
            fail_count=sum(one.outcomes[FAILED] + one.outcomes[EXPIRED] for one in requests),
            fail_ns=0,
            queue_ns=sum(one.queue.nanoseconds for one in runs),
            compute_infer_ns=sum(one.run.nanoseconds for one in runs),
            batches=batches,
            last_inference_ms=max((one.last_ms[0] for one in runs), default=0),
        )

    def arms(self, endpoint: str) -> dict[tuple[str, int], list[Requests]]:
        """The requests of an endpoint by arm and generation of the arm's weights, one series for each protocol."""
        found: dict[tuple[str, int], list[Requests]] = {}
        for (model, _, _, arm, generation), series in self.requests.items():
            if model == endpoint:
                found.setdefault((arm, int(generation)), []).append(series)
        return found

    def versions(self) -> list[tuple[str, str]]:
        """Every (model, version) that has counts."""
        return [key for key in self._versions if key != (OVERFLOW, "")]

    def declare(self, kind: str, key: tuple[str, ...]) -> int:
        """The first slot of a series, made unless it is there; of the series `overflow` where there is no room."""
        start = self._starts.get((kind, key))
        if start is None:
            start = self.region.declare(kind, key, len(KINDS[kind]))
            if start is None:
                self._overflowed[0] += 1
                return self._rest[kind]
            self._starts[kind, key] = start
            self._found(kind, key, start)
        return start

    def adopt(self, kind: str, key: tuple[str, ...]) -> int:
        """The same, but a generation of an endpoint beyond the last few takes the place of the first of them.

        What was counted there goes to its arm's generation `EARLIER`, and so does what is older than all of them.
        """
        if kind != "requests" or (kind, key) in self._starts or int(key[-1]) <= 0:
            return self.declare(kind, key)
        kept = sorted((one[-1], one) for one in self.requests if one[0] == key[0] and int(one[-1]) > 0)
        before = sorted({generation for generation, _ in kept} | {key[-1]})[:-GENERATIONS]
        if not before:
            return self.declare(kind, key)
        if key[-1] in before:
            return self.declare(kind, _earlier(key))
        # Whatever is still under way is to end where it began; and a key takes the place of one of its length.
        size = regions.size(key)
        for generation, old in kept:
            if generation in before and regions.size(old) == size and not self.requests[old].in_flight:
                return self._replace(old, key, self.declare(kind, _earlier(old)))
        return self.declare(kind, key)

    def _replace(self, old: tuple[str, ...], key: tuple[str, ...], to: int) -> int:
        region, start = self.region, self._starts.pop(("requests", old))
        with region.changing():
            for offset, code in enumerate(KINDS["requests"]):
                slots: memoryview[Any] = region.doubles if code == "s" else region.words
                slots[to + offset] += slots[start + offset]
                slots[start + offset] = 0
            region.rename(regions.Series("requests", start, old), key)
        moved = self.requests.pop(old)
        self._versions[old[0], old[1]][0].remove(moved)
        self._found("requests", key, start)
        self._starts["requests", key] = start
        return start

    def _found(self, kind: str, key: tuple[str, ...], start: int) -> None:
        """Keep the series, to be found by its key."""
        if kind == "requests":
            requests = self.requests[key] = Requests(self.region, start)
            self._versions.setdefault((key[0], key[1]), ([], []))[0].append(requests)
        elif kind == "runs":
            runs = self.runs[key] = Runs(self.region, start)
            self._versions.setdefault((key[0], key[1]), ([], []))[1].append(runs)
        else:
            self.single[kind][key] = self.region.words[start : start + 1]

    def _slot(self, kind: str, key: tuple[str, ...]) -> memoryview:
        found = self.single[kind].get(key)
        if found is None:
            start = self.declare(kind, key)
            found = self.region.words[start : start + 1]
        return found

    def _by_label(self, metric: telemetry.Metric) -> dict[str, int]:
        found = self.single["counter"].items()
        return {key[1]: slot[0] for key, slot in found if key[0] == metric.name and slot[0]}


def _earlier(key: tuple[str, ...]) -> tuple[str, ...]:
    """Where the generations of an arm are counted that are told apart no more."""
    return (*key[:-1], f"{EARLIER:010d}")
