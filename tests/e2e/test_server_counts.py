"""What two workers count is one account, and a killed one's requests stay in it."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import orjson
import pytest

from windlass import telemetry
from windlass.serving.metrics import totals

ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})


def _until(found: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (result := found()) and time.monotonic() < give_up:
        time.sleep(0.02)
    return result


def _successes(client: httpx.Client) -> int:
    """As a connection of its own is told, by whichever worker took it."""
    told = client.get("/v2/models/fast/stats").raise_for_status().json()
    return int(told["model_stats"][0]["inference_stats"]["success"]["count"])


def _busy(server: Any) -> tuple[float, float] | None:
    """Requests in flight and rows that wait, once there are several of each."""
    found = server.metrics()
    told = found[(telemetry.IN_FLIGHT.name,)], found[(telemetry.QUEUED.name, "slow", "", "1")]
    return told if min(told) > 3 else None


@pytest.mark.promise("P-51")
def test_all_workers_counts_are_one_account(start_server: Callable[..., Any], packages: Any) -> None:
    # One row a run: those that wait are there to be seen.
    alone = msgspec.structs.replace(packages.echo("slow", run_ms=200), max_batch=1)
    server = start_server(packages.echo("fast"), alone, workers=2)
    fast, slow = 60, 24
    # Each request on a connection of its own: both workers get some.
    client = httpx.Client(base_url=server.url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
    for _ in range(fast):
        client.post("/v2/models/fast/infer", content=ROW).raise_for_status()
    assert {_successes(client) for _ in range(12)} == {fast}

    def ask(_: int) -> int:
        try:
            return client.post("/v2/models/slow/infer", content=ROW).status_code
        except httpx.TransportError:
            return 0

    with concurrent.futures.ThreadPoolExecutor(slow) as pool:
        asking = [pool.submit(ask, n) for n in range(slow)]
        flying, waiting = _until(lambda: _busy(server))
        before = server.outcomes()
        os.kill(server.workers()[0], signal.SIGKILL)
        answers = [one.result() for one in asking]
    assert 0 < waiting < flying <= slow
    # A worker takes no more than it can answer soon.
    assert set(answers) <= {0, 200, 503}
    answered, gone, refused = (answers.count(status) for status in (200, 0, 503))
    found = _until(lambda: (now := server.outcomes())["ok"] == fast + answered and now["failed"] and now)
    assert found["refused"] == refused
    # What was cut off before it was read was never admitted.
    lost = found["failed"]
    assert 0 < lost <= gone
    assert found["ok"] >= before["ok"]
    metrics = server.metrics()
    assert metrics[(telemetry.ERRORS.name, totals.LOST)] == lost
    assert metrics[(telemetry.IN_FLIGHT.name,)] == 0
    assert metrics[(telemetry.RESTARTS.name,)] == 1
    assert _successes(client) == fast
    client.close()
