"""The exposition: what Prometheus reads is what was counted, whatever a model is called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import parser

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.serving.metrics import exposition as metrics

FACTS = metrics.Facts(7, (metrics.Model("m", "1", "", 0.5, 1_024),), restarts=2, heartbeats=(("1", 0.25), ("2", 60.0)))


def read(series: counters.Counters, facts: metrics.Facts = FACTS) -> dict[tuple[Any, ...], float]:
    text = metrics.Exporter(lambda: series, lambda: facts).text().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(metric: telemetry.Metric, *values: str, name: str = "", **more: str) -> tuple[Any, ...]:
    return (name or metric.name, *sorted({**dict(zip(metric.labels, values, strict=False)), **more}.items()))


def test_what_was_counted_is_what_is_told() -> None:
    series = counters.Counters()
    requests = series.requests_of("m", "1", "p", "b", 1)
    requests.admitted[0] += 5
    requests.outcomes[counters.OK] += 2
    requests.outcomes[counters.REJECTED] += 1
    requests.latency.observe(0.0007)
    requests.latency.observe(0.3)
    # Another generation of the same arm: one line in the dashboard.
    again = series.requests_of("m", "1", "p", "b", 2)
    again.admitted[0] += 1
    again.outcomes[counters.OK] += 1
    again.latency.observe(99.0)
    runs = series.runs_of("m", "1", "b")
    runs.ran(3, 0.25, [0.1], 1.0)
    runs.ran(65, 0.25, [0.2, 0.3], 1.0)
    runs.queued[0] = 4
    series.count_error("internal")
    series.count_rejected("overloaded")
    series.gauge(telemetry.CONNECTIONS)[0] = 11
    runs.saved[1] += 13
    series.counter(telemetry.LOG_DROPPED, "full")[0] += 12
    found = read(series)
    assert found[labels(telemetry.REQUESTS, "m", "1", "b", "p", "ok")] == 3
    assert found[labels(telemetry.REQUESTS, "m", "1", "b", "p", "rejected")] == 1
    latency = telemetry.LATENCY.name
    assert found[labels(telemetry.LATENCY, "m", "1", "b", "p", name=f"{latency}_bucket", le="0.001")] == 1
    assert found[labels(telemetry.LATENCY, "m", "1", "b", "p", name=f"{latency}_bucket", le="0.5")] == 2
    assert found[labels(telemetry.LATENCY, "m", "1", "b", "p", name=f"{latency}_bucket", le="+Inf")] == 3
    assert found[labels(telemetry.LATENCY, "m", "1", "b", "p", name=f"{latency}_count")] == 3
    assert found[labels(telemetry.LATENCY, "m", "1", "b", "p", name=f"{latency}_sum")] == pytest.approx(99.3007)
    batch = telemetry.BATCH.name
    told = [labels(telemetry.BATCH, "m", "1", "b", name=f"{batch}_bucket", le=f"{n}.0") for n in (2, 4, 64, 128)]
    assert [found[label] for label in told] == [0, 1, 1, 2]
    assert found[labels(telemetry.BATCH, "m", "1", "b", name=f"{batch}_sum")] == 68
    assert found[labels(telemetry.QUEUE, "m", "1", "b", name=f"{telemetry.QUEUE.name}_count")] == 3
    assert found[labels(telemetry.RUN, "m", "1", "b", name=f"{telemetry.RUN.name}_sum")] == 0.5
    assert found[labels(telemetry.QUEUED, "m", "1", "b")] == 4
    assert found[labels(telemetry.ERRORS, "internal")] == 1
    assert found[labels(telemetry.REJECTED, "overloaded")] == 1
    assert found[labels(telemetry.IN_FLIGHT)] == 2
    assert found[labels(telemetry.CONNECTIONS)] == 11
    assert found[labels(telemetry.LOG_DROPPED, "full")] == 12
    assert found[labels(telemetry.SAVED, "m", "1", "b", "cancelled")] == 13
    assert found[labels(telemetry.GENERATION)] == 7
    assert found[labels(telemetry.RESTARTS)] == 2
    assert found[labels(telemetry.HEARTBEAT, "2")] == 60
    assert found[labels(telemetry.MODEL_BYTES, "m", "1", "")] == 1_024
    assert found[labels(telemetry.MODEL_LOAD, "m", "1", "")] == 0.5
    assert found[labels(telemetry.OVERFLOWED)] == 0


def test_existing_dashboards_find_tritons_names() -> None:
    series = counters.Counters()
    requests = series.requests_of("m", "1", "p")
    requests.outcomes[counters.OK] += 4
    requests.outcomes[counters.FAILED] += 1
    requests.latency.observe(0.5)
    series.runs_of("m", "1").ran(6, 0.25, [0.125], 1.0)
    found = read(series)
    wanted = {
        telemetry.TRITON_SUCCESS: 4,
        telemetry.TRITON_FAILURE: 1,
        telemetry.TRITON_COUNT: 6,
        telemetry.TRITON_EXECUTIONS: 1,
        telemetry.TRITON_DURATION: 500_000,
        telemetry.TRITON_QUEUE: 125_000,
        telemetry.TRITON_COMPUTE: 250_000,
    }
    assert {metric: found[labels(metric, "m", "1")] for metric in wanted} == wanted


def test_what_nobody_asked_has_no_series() -> None:
    assert not any("overflow" in str(key[1:]) for key in read(counters.Counters()))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8), st.text(max_size=8)), max_size=5))
def test_no_name_breaks_the_format(names: list[tuple[str, str, str]]) -> None:
    series = counters.Counters()
    wanted: dict[tuple[Any, ...], int] = {}
    for name, version, protocol in names:
        series.requests_of(name, version, protocol).outcomes[counters.OK] += 1
        key = labels(telemetry.REQUESTS, name, version, "", protocol, "ok")
        wanted[key] = wanted.get(key, 0) + 1
    found = read(series)
    assert {key: found[key] for key in wanted} == wanted
