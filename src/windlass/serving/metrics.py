"""Metrics as Prometheus reads them, from the counters.

Called by the admin listener at each scrape. Must never count anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import prometheus_client
from prometheus_client import core, exposition

from windlass import telemetry
from windlass.serving import counters, pool

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4.encode()
Values: TypeAlias = Sequence[tuple[tuple[str, ...], float]]
_LABELS = ["model", "version", "protocol"]
_RUN_LABELS = ["model", "version"]


class Exporter:
    """A collector over one worker's counters and models."""

    def __init__(self, series: counters.Counters, models: pool.Pool, gauges: Callable[[], tuple[int, int]]) -> None:
        """`gauges` gives the requests in flight and the open connections."""
        self._series = series
        self._models = models
        self._gauges = gauges
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        return exposition.generate_latest(self._registry)

    def collect(self) -> Iterator[core.Metric]:
        """prometheus_client's side: one family after the other."""
        yield from self._request_families()
        yield from self._run_families()
        yield from self._triton_families()
        yield _counter(telemetry.REJECTED, ["reason"], [((k,), n) for k, n in self._series.rejected.items()])
        yield _counter(telemetry.ERRORS, ["code"], [((k,), n) for k, n in self._series.errors.items()])
        in_flight, connections = self._gauges()
        yield _gauge(telemetry.IN_FLIGHT, [], [((), in_flight)])
        yield _gauge(telemetry.CONNECTIONS, [], [((), connections)])
        yield _gauge(telemetry.GENERATION, [], [((), self._models.generation)])
        served = [((name, s.view.version), s) for name, s in self._models.served.items()]
        yield _gauge(telemetry.QUEUED, _RUN_LABELS, [(labels, s.batch.queued_rows) for labels, s in served])
        yield _gauge(telemetry.MODEL_LOAD, _RUN_LABELS, [(labels, s.loaded.seconds) for labels, s in served])
        sizes = [
            (labels, sum(b.size for b in s.loaded.session.package.manifest.model.blobs.values()))
            for labels, s in served
        ]
        yield _gauge(telemetry.MODEL_BYTES, _RUN_LABELS, sizes)

    def _request_families(self) -> Iterator[core.Metric]:
        outcomes = core.CounterMetricFamily(
            telemetry.REQUESTS.name, telemetry.REQUESTS.help, labels=[*_LABELS, "outcome"]
        )
        latency = core.HistogramMetricFamily(telemetry.LATENCY.name, telemetry.LATENCY.help, labels=_LABELS)
        for key, series in self._series.requests.items():
            for index, outcome in enumerate(counters.OUTCOMES):
                outcomes.add_metric([*key, outcome], series.outcomes[index])
            latency.add_metric(list(key), *_buckets(series.latency))
        yield outcomes
        yield latency

    def _run_families(self) -> Iterator[core.Metric]:
        for metric, attribute in ((telemetry.QUEUE, "queue"), (telemetry.RUN, "run"), (telemetry.BATCH, "batch")):
            family = core.HistogramMetricFamily(metric.name, metric.help, labels=_RUN_LABELS)
            for key, series in self._series.runs.items():
                family.add_metric(list(key), *_buckets(getattr(series, attribute)))
            yield family

    def _triton_families(self) -> Iterator[core.Metric]:
        every = self._models.statistics()
        for metric, value in (
            (telemetry.TRITON_SUCCESS, lambda s: s.success_count),
            (telemetry.TRITON_FAILURE, lambda s: s.fail_count),
            (telemetry.TRITON_COUNT, lambda s: s.inference_count),
            (telemetry.TRITON_EXECUTIONS, lambda s: s.execution_count),
            (telemetry.TRITON_DURATION, lambda s: s.success_ns // 1000),
            (telemetry.TRITON_QUEUE, lambda s: s.queue_ns // 1000),
            (telemetry.TRITON_COMPUTE, lambda s: s.compute_infer_ns // 1000),
        ):
            # Triton's names end without `_total`, so they are written as they are.
            family = core.Metric(metric.name, metric.help, "unknown")
            for s in every:
                labels = {"model": s.name, "version": s.version}
                family.add_sample(metric.name, labels, value(s))  # type: ignore[no-untyped-call]
            yield family


def _counter(metric: telemetry.Metric, labels: list[str], values: Values) -> core.CounterMetricFamily:
    family = core.CounterMetricFamily(metric.name, metric.help, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def _gauge(metric: telemetry.Metric, labels: list[str], values: Values) -> core.GaugeMetricFamily:
    family = core.GaugeMetricFamily(metric.name, metric.help, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def _buckets(histogram: counters.Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the sum, as prometheus_client wants them."""
    cumulative = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        cumulative += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(cumulative)))
    return buckets, histogram.total
