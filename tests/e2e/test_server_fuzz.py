"""Malformed requests by the thousand, over HTTP/1.1, HTTP/2 and gRPC: refused, never a crash, never a leak."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from windlass.serving import launch
from windlass.types import spec

FUZZING = Path(__file__).with_name("fuzzing")
# How many requests of each kind; the last four go over HTTP/2.
SHORT = {"heads": 1_500, "plain": 2_000, "rest": 2_500, "grpc": 2_500, "stream": 1_500, "sequences": 200}
ROUND = {"heads": 4_800, "plain": 12_800, "rest": 10_000, "grpc": 8_000, "stream": 4_000, "sequences": 400}
ROUNDS = 25
# Of all workers: pictures and inflated bodies come and go by up to 40 MiB. Small leaks are looked for in the drills.
MEMORY = 128 << 20


def _served() -> Any:
    made = importlib.util.spec_from_file_location("served", FUZZING / "served.py")
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


class Fuzzed:
    """The server, the keys that it knows, and what it takes: bytes, descriptors and threads of each worker."""

    def __init__(self, server: launch.Server, home: Path, keys: list[str]) -> None:
        self.server = server
        self.home = home
        self.keys = keys
        self.pids = [one["pid"] for one in self.status()["workers"]]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.server.admin_url}/status").json()
        return found

    def taken(self) -> list[tuple[int, int, int]]:
        found = []
        for process in (Path(f"/proc/{pid}") for pid in self.pids):
            line = next(one for one in (process / "status").read_text().splitlines() if one.startswith("VmRSS"))
            counts = (len(list((process / folder).iterdir())) for folder in ("fd", "task"))
            found.append((int(line.split()[1]) << 10, *counts))
        return found  # type: ignore[return-value]

    def drive(self, counts: dict[str, int], seed: str) -> Counter[str]:
        """Ask badly, two kinds at a time; what was seen, by kind. Fails on an answer that may not be."""

        def one(kind: str) -> dict[str, Any]:
            line = [sys.executable, str(FUZZING / "drive.py"), self.server.url.rpartition(":")[2], kind, seed]
            done = subprocess.run(
                [*line, str(counts[kind]), ",".join(self.keys)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{kind}: {done.stderr[-2_000:]}"
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            reports = dict(zip(counts, pool.map(one, counts), strict=True))
        violations = [f"{kind}: {one}" for kind, report in reports.items() for one in report["violations"]]
        assert not violations, "\n".join(violations)
        return Counter({f"{kind} {what}": n for kind, report in reports.items() for what, n in report["seen"].items()})

    def check(self, before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]) -> None:
        """The same processes, as large as they were, with nothing under way and nothing unexpected in the log."""
        status = self.status()
        assert status["restarts"] == 0
        assert [one["pid"] for one in status["workers"]] == self.pids
        for metrics in iter(self._metrics, None):
            under_way = [value for name, value in metrics if name in ("windlass_in_flight", "windlass_queued")]
            if not any(under_way):
                break
            time.sleep(0.1)
        # Every request that was admitted had its one outcome, and no outcome was a fault.
        assert not [one for one in metrics if 'outcome="failed"' in one[0] and one[1]]
        grown = sum(memory for memory, *_ in after) - sum(memory for memory, *_ in before)
        assert grown < MEMORY, f"the workers grew by {grown >> 20} MiB"
        for (_, *counts), (_, *had) in zip(after, before, strict=True):
            assert all(now <= then + 4 for now, then in zip(counts, had, strict=True))
        _check_log(self.home / "log")

    def _metrics(self) -> list[tuple[str, float]]:
        lines = httpx.get(f"{self.server.admin_url}/metrics").text.splitlines()
        return [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines if line[:1] != "#"]


def _extreme(sizes: list[list[tuple[int, int, int]]], kind: Callable[..., int]) -> list[tuple[int, int, int]]:
    """The largest or smallest of each number of each worker."""
    return [tuple(kind(column) for column in zip(*worker, strict=True)) for worker in zip(*sizes, strict=True)]  # type: ignore[misc]


def _check_log(path: Path) -> None:
    """Every line behind the greeting is one JSON object: no caller has written a line of its own."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("{"):
                assert json.loads(line)["request_id"]
            else:
                assert re.match(r"\d workers|serving |metrics on |spec |numbers|model ", line), line


@pytest.fixture
def fuzzed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterable[Fuzzed]:
    """Two workers with models of every kind; for the long run also one that carries code."""
    served = _served()
    keys, known = served.callers()
    endpoints = served.models(tmp_path)
    if request.node.get_closest_marker("soak"):
        endpoints = (*endpoints, served.coded(tmp_path))
    wanted = spec.Spec(
        endpoints=endpoints,
        repository=(served.echo(tmp_path, "spare"),),
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        workers=2,
        state=str(tmp_path / "state"),
        access_log=True,
        **known,
    )
    with launch.Server(wanted, tmp_path, log=tmp_path / "log") as server:
        yield Fuzzed(server, tmp_path, keys)


@pytest.mark.promise("P-36c")
@pytest.mark.promise("P-49")
@pytest.mark.threat("V4")
@pytest.mark.threat("V7")
@pytest.mark.threat("V8")
@pytest.mark.threat("V18")
def test_ten_thousand_malformed_requests(fuzzed: Fuzzed) -> None:
    """Over HTTP/1.1 and HTTP/2, from callers of every kind, to models of every kind."""
    # As much once before: what grows on then is a leak.
    fuzzed.drive(SHORT, "first")
    before = fuzzed.taken()
    seen = fuzzed.drive(SHORT, "short")
    assert seen.total() >= 10_000
    for what in (
        "plain 200",
        "plain 400",
        "plain 429",
        "rest 200",
        "rest 404",
        "grpc grpc 0",
        "grpc grpc 3",
        "stream answered",
    ):
        assert seen[what] > 0, f"no {what}: {seen}"
    fuzzed.check(before, fuzzed.taken())


@pytest.mark.soak
@pytest.mark.promise("P-36c")
@pytest.mark.promise("P-49")
def test_a_million_malformed_requests(fuzzed: Fuzzed, pytestconfig: pytest.Config) -> None:
    """In rounds that are remembered: what was asked before an interruption need not be asked again."""
    cache = pytestconfig.cache
    assert cache is not None
    first = cache.get("fuzzing/rounds", 0)
    fuzzed.drive({kind: count // 4 for kind, count in ROUND.items()}, "first")
    seen, sizes = Counter[str](), [fuzzed.taken()]
    for number in range(first, ROUNDS):
        started = time.monotonic()
        seen += fuzzed.drive(ROUND, str(number))
        cache.set("fuzzing/rounds", number + 1)
        sizes.append(fuzzed.taken())
        taken = [memory >> 20 for memory, *_ in sizes[-1]]
        sys.stderr.write(f"round {number}: {time.monotonic() - started:.0f} s, workers of {taken} MiB\n")
    sys.stderr.write(json.dumps(dict(sorted(seen.items()))))
    # A body that is inflated to megabytes comes and goes; what stays is below it.
    half = len(sizes) // 2
    early, late = sizes[: half + 1], sizes[half:]
    fuzzed.check(_extreme(early, max), _extreme(late, min))
    cache.set("fuzzing/rounds", 0)


@pytest.mark.promise("P-36e")
def test_an_answer_is_the_same_alone_and_in_any_batch(start_server: Callable[..., Any], packages: Any) -> None:
    """Rows asked alone, then as parts of batches that other requests fill: the same numbers."""
    server = start_server(packages.mlp("m"))
    random_rows = np.random.default_rng(5).normal(size=(64, 30)).astype(np.float32)

    def asked(rows: np.ndarray[Any, Any], last: bool) -> bytes:
        row = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        body = json.dumps({"inputs": [row]}).encode()
        lines = "Host: 127.0.0.1\r\nX-Server-Timing: 1\r\n" + ("Connection: close\r\n" if last else "")
        return f"POST /v2/models/m/infer HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def answers(sizes: list[int]) -> tuple[list[np.ndarray[Any, Any]], set[int]]:
        data, start = b"", 0
        for number, size in enumerate(sizes):
            data += asked(random_rows[start : start + size], number == len(sizes) - 1)
            start += size
        told = server.send(data)
        found = [json.loads(text)["outputs"][0] for text in re.findall(rb'\{"model_name".*?\]\}\]\}', told)]
        batches = {int(n) for n in re.findall(rb"batch;desc=(\d+)", told)}
        return [np.array(one["data"], np.float32).reshape(one["shape"]) for one in found], batches

    alone = np.concatenate([answers([1])[0][0]] + [answers([i, 1])[0][1] for i in range(1, 6)])
    for sizes in ([1] * 6, [2, 1, 3], [3, 3], [1, 2, 17], [32], [1] * 40, [17, 1, 2, 3]):
        found, batches = answers(sizes)
        assert [len(one) for one in found] == sizes
        np.testing.assert_allclose(np.concatenate(found)[:6], alone, rtol=1e-5, atol=1e-6)
        assert len(sizes) == 1 or max(batches) > max(sizes)
        assert max(batches) <= 32
