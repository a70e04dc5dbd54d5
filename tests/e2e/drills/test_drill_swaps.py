"""Versions that change back and forth under callers of every kind: nobody is lost, and a rollback is fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from windlass.client import control
from windlass.types import spec

PART = 50
ROLLBACK_S = 2.0
ROW = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}]}


class Versions:
    """A server of two workers whose model goes to and fro between two versions."""

    def __init__(self, server: Any, old: spec.Endpoint, new: spec.Endpoint) -> None:
        self._server = server
        self._endpoints = {"1": old, "2": new}
        self._operator = control.Control(server.control)

    def to(self, version: str) -> float:
        """Put a version in force; the seconds until it alone answers."""
        current = self._operator.current()
        wanted = msgspec.structs.replace(
            current, generation=current.generation + 1, endpoints=(self._endpoints[version],)
        )
        started = time.monotonic()
        self._operator.apply(wanted)
        took = time.monotonic() - started
        # Each asked over a connection of its own: none of them has a worker that still answers with the other.
        for _ in range(4):
            told = httpx.post(f"{self._server.url}/v2/models/slow/infer", json=ROW, timeout=20).json()
            assert told["model_version"] == version
        return took

    def close(self) -> None:
        self._operator.close()


def _swaps(versions: Versions, pairs: int, pause_s: float) -> list[float]:
    """To the new version and back; the seconds of each way back."""
    backs = []
    for _ in range(pairs):
        time.sleep(pause_s)
        versions.to("2")
        time.sleep(pause_s)
        backs.append(versions.to("1"))
    return backs


@pytest.fixture
def serve(packages: Any, start_server: Callable[..., Any]) -> Callable[[], tuple[Any, Versions]]:
    def start() -> tuple[Any, Versions]:
        old, new = packages.echo("slow", "1", run_ms=4), packages.echo("slow", "2", run_ms=4.001)
        server = start_server(old, workers=2)
        return server, Versions(server, old, new)

    return start


def _check(before: dict[str, int], after: dict[str, int], mix: Any, asked_besides: int) -> Any:
    ends = mix.stop()
    assert after["ok"] - before["ok"] == ends.ok + asked_besides, (mix.ends, mix.said)
    assert all(each.ok for each in mix.ends.values()), mix.ends
    return ends


@pytest.mark.promise("P-37")
@pytest.mark.promise("P-41")
def test_a_rollback_is_fast_and_loses_nobody(
    serve: Callable[[], tuple[Any, Versions]], asked: Callable[..., Any], settled: Callable[..., Any]
) -> None:
    server, versions = serve()
    before = settled(server)
    with asked(server.url, "slow") as mix:
        backs = _swaps(versions, 2, 0.1)
        mix.stop()
    ends = _check(before, settled(server), mix, 16)
    versions.close()
    assert max(backs) < ROLLBACK_S
    assert ends.ok == ends.total, (mix.ends, mix.said)


@pytest.mark.soak
@pytest.mark.promise("P-37")
@pytest.mark.promise("P-41")
@pytest.mark.timeout(3_600)
def test_two_hundred_swaps_and_a_hundred_rollbacks_lose_nobody(
    serve: Callable[[], tuple[Any, Versions]],
    asked: Callable[..., Any],
    settled: Callable[..., Any],
    record: Callable[[str, int], Any],
) -> None:
    kept = record("swaps", 200)
    every: list[float] = []
    while kept.left:
        server, versions = serve()
        before, started = settled(server), time.monotonic()
        with asked(server.url, "slow") as mix:
            backs = _swaps(versions, PART // 2, 0.5)
            mix.stop()
        ends = _check(before, settled(server), mix, 4 * PART)
        versions.close()
        server.server.stop()
        every += backs
        late = sum(back > ROLLBACK_S for back in backs)
        lost = ends.total - ends.ok
        kept.add(PART, requests=ends.total, lost=lost, late_rollbacks=late, seconds=time.monotonic() - started)
    slowest, median = max(every, default=0.0), statistics.median(every or [0.0])
    found = kept.finish(slowest_rollback_s=slowest, median_rollback_s=median)
    assert found["lost"] == 0, found
    assert found["late_rollbacks"] == 0, found
