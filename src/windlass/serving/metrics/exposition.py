"""Metrics as Prometheus reads them, from the counters.

Called by the admin listener at each scrape, on its loop: a line is formatted once and by hand, for prometheus_client's
way takes some ten times as long. Must never count anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.types import directory

# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
# Upper bounds of the batch histogram; runs are counted by their rows, exactly enough for these.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Values: TypeAlias = Iterable[tuple[Sequence[str], float]]
Buckets: TypeAlias = tuple[list[int], float]
# Counts that whoever counts declares as he needs them.
_DECLARED = {m.name: m for m in vars(telemetry).values() if isinstance(m, telemetry.Metric)}
_TRITON: tuple[tuple[telemetry.Metric, Callable[[directory.ModelStatistics], int]], ...] = (
    (telemetry.TRITON_SUCCESS, lambda s: s.success_count),
    (telemetry.TRITON_FAILURE, lambda s: s.fail_count),
    (telemetry.TRITON_COUNT, lambda s: s.inference_count),
    (telemetry.TRITON_EXECUTIONS, lambda s: s.execution_count),
    (telemetry.TRITON_DURATION, lambda s: s.success_ns // 1000),
    (telemetry.TRITON_QUEUE, lambda s: s.queue_ns // 1000),
    (telemetry.TRITON_COMPUTE, lambda s: s.compute_infer_ns // 1000),
)
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Model(msgspec.Struct, frozen=True):
    """What a loaded version costs: seconds until its first answer, and the bytes of its files."""

    name: str
    version: str
    variant: str
    load_s: float
    bytes: int


class Facts(msgspec.Struct, frozen=True):
    """What is no count: the spec's generation in force, the models, and the workers.

    `heartbeats` are seconds since each worker's loop last turned, by its name.
    """

    generation: int
    models: tuple[Model, ...] = ()
    restarts: int = 0
    heartbeats: tuple[tuple[str, float], ...] = ()


class Exporter:
    """The exposition of one server's counters."""

    def __init__(self, read: Callable[[], counters.Counters], facts: Callable[[], Facts]) -> None:
        """`read` gives the counters, of one worker or the totals of all; `facts` the rest, as it is now."""
        self._read = read
        self._facts = facts

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        lines = [line for family in self._families() for line in family]
        return ("\n".join(lines) + "\n").encode(errors="replace")

    def _families(self) -> Iterator[Iterable[str]]:
        totals = self._read()
        facts = self._facts()
        yield from _request_families(totals)
        yield from _run_families(totals)
        yield from _triton_families(totals)
        yield from _declared_families(totals)
        yield _gauge(telemetry.IN_FLIGHT, [((), sum(one.in_flight for one in totals.requests.values()))])
        yield _gauge(telemetry.GENERATION, [((), facts.generation)])
        labels = [((m.name, m.version, m.variant), m) for m in facts.models]
        yield _gauge(telemetry.MODEL_LOAD, [(label, m.load_s) for label, m in labels])
        yield _gauge(telemetry.MODEL_BYTES, [(label, m.bytes) for label, m in labels])
        yield _counter(telemetry.RESTARTS, [((), facts.restarts)])
        yield _gauge(telemetry.HEARTBEAT, [((name,), age) for name, age in facts.heartbeats])


def _request_families(totals: counters.Counters) -> Iterator[Iterable[str]]:
    outcomes: dict[tuple[str, ...], list[int]] = {}
    latency: dict[tuple[str, ...], Buckets] = {}
    for (model, version, protocol, arm, _), one in totals.requests.items():
        # Generations of an arm's weights are told apart to those who decide, not to dashboards.
        labels = (model, version, arm, protocol)
        if one.admitted[0] or any(one.outcomes):
            outcomes[labels] = _sum(outcomes.get(labels), one.outcomes.tolist())
            _add(latency, labels, one.latency)
    named = [
        ((*labels, name), count)
        for labels, counts in outcomes.items()
        for name, count in zip(counters.OUTCOMES, counts, strict=True)
    ]
    yield _counter(telemetry.REQUESTS, named)
    yield _histogram(telemetry.LATENCY, counters.SECONDS, latency)


def _run_families(totals: counters.Counters) -> Iterator[Iterable[str]]:
    queue: dict[tuple[str, ...], Buckets] = {}
    run: dict[tuple[str, ...], Buckets] = {}
    batch: dict[tuple[str, ...], Buckets] = {}
    queued: list[tuple[Sequence[str], float]] = []
    saved: list[tuple[Sequence[str], float]] = []
    for labels, one in totals.runs.items():
        if labels[0] == counters.OVERFLOW and not one.rows[0]:
            continue
        _add(queue, labels, one.queue)
        _add(run, labels, one.run)
        counts = [0] * (len(BATCHES) + 1)
        for rows, (count, _) in one.batches.items():
            counts[next((i for i, bound in enumerate(BATCHES) if rows <= bound), len(BATCHES))] += count
        batch[labels] = counts, float(one.rows[0])
        queued.append((labels, one.queued[0]))
        saved += [((*labels, why), count) for why, count in zip(counters.SAVED, one.saved, strict=True)]
    yield _histogram(telemetry.QUEUE, counters.SECONDS, queue)
    yield _histogram(telemetry.RUN, counters.SECONDS, run)
    yield _histogram(telemetry.BATCH, BATCHES, batch)
    yield _gauge(telemetry.QUEUED, queued)
    yield _counter(telemetry.SAVED, saved)


def _triton_families(totals: counters.Counters) -> Iterator[Iterable[str]]:
    every = [totals.statistics(model, version) for model, version in totals.versions()]
    for metric, value in _TRITON:
        # Triton's names end without `_total`.
        yield _simple(metric, "untyped", [((s.name, s.version), value(s)) for s in every])


def _declared_families(totals: counters.Counters) -> Iterator[Iterable[str]]:
    for kind, family in (("counter", _counter), ("gauge", _gauge)):
        values: dict[str, list[tuple[Sequence[str], float]]] = {}
        for (name, *labels), slot in totals.single[kind].items():
            values.setdefault(name, []).append((labels, slot[0]))
        for name, found in values.items():
            if name in _DECLARED:
                yield family(_DECLARED[name], found)


def _counter(metric: telemetry.Metric, values: Values) -> Iterator[str]:
    return _simple(metric, "counter", values)


def _gauge(metric: telemetry.Metric, values: Values) -> Iterator[str]:
    return _simple(metric, "gauge", values)


def _simple(metric: telemetry.Metric, kind: str, values: Values) -> Iterator[str]:
    yield from _head(metric, kind)
    name = metric.name
    for labels, value in values:
        yield f"{name}{{{_labels(metric, labels)}}} {float(value)}" if labels else f"{name} {float(value)}"


def _histogram(
    metric: telemetry.Metric, bounds: Sequence[float], values: dict[tuple[str, ...], Buckets]
) -> Iterator[str]:
    yield from _head(metric, "histogram")
    name = metric.name
    ends = [*(f'le="{float(bound)}"}} ' for bound in bounds), 'le="+Inf"} ']
    for labels, (counts, total) in values.items():
        told = _labels(metric, labels)
        start = f"{name}_bucket{{{told},"
        cumulative = 0
        for end, count in zip(ends, counts, strict=True):
            cumulative += count
            yield f"{start}{end}{float(cumulative)}"
        yield f"{name}_count{{{told}}} {float(cumulative)}"
        yield f"{name}_sum{{{told}}} {float(total)}"


def _head(metric: telemetry.Metric, kind: str) -> tuple[str, str]:
    return f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {kind}"


def _labels(metric: telemetry.Metric, values: Sequence[str]) -> str:
    pairs = zip(metric.labels, values, strict=True)
    return ",".join([f'{name}="{value.translate(_ESCAPED)}"' for name, value in pairs])


def _add(found: dict[tuple[str, ...], Buckets], labels: tuple[str, ...], histogram: counters.Histogram) -> None:
    before = found.get(labels)
    counts = histogram.counts.tolist()
    if before is not None:
        counts, total = _sum(before[0], counts), before[1] + histogram.total
        found[labels] = counts, total
    else:
        found[labels] = counts, histogram.total


def _sum(one: list[int] | None, other: list[int]) -> list[int]:
    return other if one is None else [a + b for a, b in zip(one, other, strict=True)]
