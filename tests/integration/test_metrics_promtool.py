"""Prometheus' own tool reads the exposition and finds nothing to say, but of the names that are Triton's."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.serving.metrics import exposition as metrics


def test_promtool_accepts_every_line() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    series = counters.Counters()
    for name in ("m", 'quoted "name"\\\n'):
        requests = series.requests_of(name, "1", "p", "b", 1)
        requests.admitted[0] += 2
        requests.outcomes[counters.OK] += 1
        requests.latency.observe(0.001)
        series.runs_of(name, "1").ran(3, 0.5, [0.25], 1.0)
    for metric in vars(telemetry).values():
        if isinstance(metric, telemetry.Metric) and len(metric.labels) == 1 and metric.name.endswith("_total"):
            series.counter(metric, "some")[0] += 1
    facts = metrics.Facts(1, (metrics.Model("m", "1", "", 0.5, 9),), heartbeats=(("1", 0.5),))
    text = metrics.Exporter(lambda: series, lambda: facts).text()
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    said = found.stderr.decode().splitlines()
    # Its own names for them: microseconds.
    assert [line for line in said if not line.startswith("nv_inference_")] == []
    assert {line.split()[0] for line in said} == {
        telemetry.TRITON_DURATION.name,
        telemetry.TRITON_QUEUE.name,
        telemetry.TRITON_COMPUTE.name,
    }
