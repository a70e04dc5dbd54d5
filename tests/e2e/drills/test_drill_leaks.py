"""A million requests of every kind and end: what a server holds afterwards is what it held before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from windlass.client import load, plan, report, targets

ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
KINDS = ("json", "binary", "calls", "wrong", "unknown", "poisoned", "late")
# For a million requests; the first tenth fills what is filled once.
MOST_MB = 8.0


def _body(**more: Any) -> bytes:
    return json.dumps({"inputs": [{**ROW, **more.pop("row", {})}], **more}).encode()


class Leavers:
    """Callers who leave at any moment: in the middle of their request, while it waits, while it runs."""

    def __init__(self, port: int, pause_s: float) -> None:
        self._port, self._pause_s = port, pause_s
        self._over = threading.Event()
        self.left = 0
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="leavers", daemon=True)

    def start(self) -> Leavers:
        self._thread.start()
        return self

    def stop(self) -> int:
        """How many requests they began."""
        self._over.set()
        self._thread.join()
        return self.left

    async def _run(self) -> None:
        body = _body()
        head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        chance = random.Random(1)
        while not self._over.is_set():
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            # Its head arrives always, so that there is a request.
            writer.write(head + body[: chance.randrange(2 * len(body))])
            await asyncio.sleep(chance.random() * self._pause_s)
            if chance.random() < 0.5:
                writer.transport.abort()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.left += 1


class Everything:
    """Requests of all kinds at once, until they are so many."""

    def __init__(self, server: Any) -> None:
        self._server = server
        fast, slow = f"{server.url}/v2/models/fast", f"{server.url}/v2/models/slow"
        access = targets.Access()
        array = {"x": np.ones((1, 4), np.float32)}
        self._targets: dict[str, plan.Target] = {
            "json": load.http(f"{fast}/infer", _body()),
            "binary": targets.find(f"{server.url}/fast", "oip-binary", access, given=(array,)),
            "calls": targets.find(f"{server.url}/fast", "oip-grpc", access, given=(array,)),
            "wrong": load.http(f"{fast}/infer", _body(row={"datatype": "FP64"})),
            "unknown": load.http(f"{server.url}/v2/models/none/infer", _body()),
            "poisoned": load.http(f"{server.url}/v2/models/poison/infer", _body(row={"data": [666, 0, 0, 0]})),
            "late": load.http(f"{slow}/infer", _body(parameters={"timeout": 1})),
        }

    def ask(self, seconds: float) -> tuple[dict[str, report.Report], int]:
        """For so long; the reports by kind, and how many left."""
        loads = {
            kind: load.Load(load.closed(target, connections=1, streams=2 if kind == "calls" else 1)).start()
            for kind, target in self._targets.items()
        }
        leavers = Leavers(self._server.port, 0.01).start()
        time.sleep(seconds)
        return {kind: one.stop() for kind, one in loads.items()}, leavers.stop()


def _held(server: Any) -> dict[str, float]:
    """What the worker and its supervisor hold."""
    found: dict[str, float] = {
        "worker_mb": server.rss() / 1e6,
        "fds": server.descriptors(),
        "threads": server.threads(),
    }
    status = Path(f"/proc/{server.pid}/status").read_text()
    found["supervisor_mb"] = int(status.partition("VmRSS:")[2].split()[0]) / 1e3
    found["supervisor_fds"] = sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (server.pid, server.worker)]
    found["shared"] = sum(text.count("/memfd:") + text.count("/dev/shm/") for text in maps)
    found["files"] = sum(1 for path in Path(os.environ["TMPDIR"]).rglob("*") if path.is_file())
    return found


@pytest.fixture
def server(packages: Any, start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return start_server(
        packages.echo("fast"), packages.echo("slow", run_ms=5), packages.echo("poison", fail_above=100.0), workers=1
    )


def _part(server: Any, everything: Everything, seconds: float, settled: Callable[..., Any]) -> dict[str, int]:
    """A part of the drill, with its account; how many requests there were of each kind."""
    before = settled(server)
    reports, left = everything.ask(seconds)
    after = settled(server)
    found = {outcome: count - before[outcome] for outcome, count in after.items()}
    ends = {kind: one.outcomes for kind, one in reports.items()}
    for kind in ("json", "binary", "calls"):
        assert ends[kind].ok == ends[kind].total > 0, ends
    for kind, status in (("wrong", 400), ("unknown", 404), ("poisoned", 500)):
        assert reports[kind].statuses == {status: ends[kind].total}, reports[kind].statuses
    late = ends["late"]
    assert late.expired + late.rejected == late.total > 0
    answered = sum(ends[kind].ok for kind in ends)
    total = sum(each.total for each in ends.values()) + left
    # Everything once. Some of those who left were answered before it was noticed.
    assert answered <= found["ok"] <= answered + left
    assert found["failed"] == ends["poisoned"].total
    assert sum(found[name] for name in ("ok", "failed", "expired", "cancelled", "refused")) == total, (
        found,
        ends,
        left,
    )
    return {**{kind: each.total for kind, each in ends.items()}, "left": left}


@pytest.mark.promise("P-49")
def test_requests_of_every_end_leave_nothing(server: Any, settled: Callable[..., Any]) -> None:
    everything = Everything(server)
    _part(server, everything, 1.0, settled)
    before = _held(server)
    _part(server, everything, 2.0, settled)
    after = _held(server)
    assert after["worker_mb"] - before["worker_mb"] < MOST_MB
    for name in ("fds", "threads", "shared", "files", "supervisor_fds"):
        assert after[name] <= before[name] + 1, (before, after)


@pytest.mark.soak
@pytest.mark.promise("P-49")
@pytest.mark.timeout(7_200)
def test_a_million_requests_leave_nothing(
    server: Any, settled: Callable[..., Any], record: Callable[[str, int], Any]
) -> None:
    kept = record("leaks", 1_000_000)
    everything = Everything(server)
    held: list[dict[str, float]] = []
    while kept.left:
        asked = _part(server, everything, 15.0, settled)
        held.append(_held(server))
        kept.add(sum(asked.values()), **asked)
    settled_at = max(1, len(held) // 10)
    third = max(1, (len(held) - settled_at) // 3)

    def grown(name: str) -> float:
        early, late = held[settled_at : settled_at + third], held[-third:]
        return statistics.median(h[name] for h in late) - statistics.median(h[name] for h in early)

    growth = {name: round(grown(name), 3) for name in held[0]}
    found = kept.finish(growth=growth, first=held[settled_at], last=held[-1], parts=len(held))
    assert growth["worker_mb"] < MOST_MB, found
    assert growth["supervisor_mb"] < MOST_MB, found
    for name in ("fds", "threads", "shared", "files", "supervisor_fds"):
        assert growth[name] <= 1, found
