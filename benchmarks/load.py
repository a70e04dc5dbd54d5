"""Load on a server: one request as bytes, sent from a core of its own: by wrk in a closed loop, or as `account`s tell.

Called by `bench.py` and the scenarios. A closed loop of c connections sends the next request when the answer is there:
its latency says nothing about a server above its capacity. Open loops are Windlass's own load generator's.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from windlass.client import load as asking
from windlass.client import plan as plans
from windlass.client import report as reports

HERE = Path(__file__).parent
SERVER_CORE, LOAD_CORE = 0, 1
DATATYPES = {"float32": "FP32", "int64": "INT64"}
# Below this many answers a 99th percentile is an anecdote.
P99_NEEDS = 1000


@dataclass(frozen=True)
class Request:
    """What is sent: the body, and the headers beside the usual ones."""

    body: bytes
    headers: dict[str, str]

    def along(self, headers: dict[str, str]) -> Request:
        """The same request with further headers."""
        return Request(self.body, self.headers | headers)


@dataclass(frozen=True)
class Sample:
    """One measurement. Times are microseconds; `p99_us` is None where there were too few answers.

    `cpu_us` is the server's processor time for a request, which a busy machine disturbs less than it does the rate.
    """

    server: str
    model: str
    connections: int
    round: int
    requests: int
    seconds: float
    rate: float
    p50_us: float
    p99_us: float | None
    cpu_us: float
    errors: int


class Alive(Protocol):
    """What is measured: a server that runs."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    def cpu_s(self) -> float: ...


def json_request(rows: dict[str, np.ndarray]) -> Request:
    """The Open Inference Protocol's JSON: numbers as short as a float32 allows."""
    inputs = [
        {
            "name": name,
            "shape": list(value.shape),
            "datatype": DATATYPES[str(value.dtype)],
            "data": [json.loads(str(number)) for number in value.ravel()],
        }
        for name, value in rows.items()
    ]
    return Request(json.dumps({"inputs": inputs}).encode(), {"content-type": "application/json"})


def binary_request(rows: dict[str, np.ndarray]) -> Request:
    """The same with the protocol's binary tensors, both ways."""
    inputs = [
        {
            "name": name,
            "shape": list(value.shape),
            "datatype": DATATYPES[str(value.dtype)],
            "parameters": {"binary_data_size": value.nbytes},
        }
        for name, value in rows.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return Request(
        head + b"".join(value.tobytes() for value in rows.values()),
        {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))},
    )


def ask(url: str, request: Request) -> np.ndarray:
    """Send it once; the first output, flat, as float32."""
    message = urllib.request.Request(url, request.body, request.headers)
    with urllib.request.urlopen(message, timeout=30) as answer:
        body = answer.read()
        length = answer.headers.get("inference-header-content-length")
    if length is not None:
        return np.frombuffer(body[int(length) :], np.float32)
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()


def wrk(url: str, request: Request, connections: int, seconds: float) -> dict[str, float]:
    """One closed loop; wrk's own counts."""
    with tempfile.TemporaryDirectory() as folder:
        body, headers = Path(folder, "body"), Path(folder, "headers")
        body.write_bytes(request.body)
        headers.write_text("".join(f"{name}: {value}\n" for name, value in request.headers.items()))
        done = subprocess.run(
            [
                "taskset",
                "-c",
                str(LOAD_CORE),
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{max(1, round(seconds))}s",
                "--timeout",
                "30s",
                "-s",
                str(HERE / "wrk.lua"),
                url,
            ],
            env={**os.environ, "BENCH_BODY": str(body), "BENCH_HEADERS": str(headers)},
            capture_output=True,
            text=True,
            check=True,
        )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


Generator = Callable[[str, Request, int, float], dict[str, float]]


def measure(
    alive: Alive, model: str, request: Request, connections: int, seconds: float, turn: int, generator: Generator = wrk
) -> Sample:
    """Warm up for a fifth of the time, then measure."""
    generator(alive.url, request, connections, seconds / 5)
    before = alive.cpu_s()
    said = generator(alive.url, request, connections, seconds)
    cpu_s = alive.cpu_s() - before
    taken = said["duration_us"] / 1e6
    return Sample(
        server=alive.name,
        model=model,
        connections=connections,
        round=turn,
        requests=int(said["requests"]),
        seconds=taken,
        rate=said["requests"] / taken,
        p50_us=said["p50_us"],
        p99_us=said["p99_us"] if said["requests"] >= P99_NEEDS else None,
        cpu_us=cpu_s / max(1, said["requests"]) * 1e6,
        errors=int(said["errors"]),
    )


def target(url: str, request: Request) -> plans.Target:
    """The request for Windlass's own load generator."""
    headers = dict(request.headers)
    return asking.http(url, request.body, content_type=headers.pop("content-type"), headers=headers)


def account(found: reports.Report, *, refusing: bool = False) -> dict[str, Any]:
    """What is kept of an open or a closed loop. Times are microseconds, `p99_us` None where there were too few answers.

    `failed` are all that were sent and not answered well; a server that is `refusing` may say 429 or 503.
    """
    latency, refusals, outcomes = found.latency, found.refusals, found.outcomes
    return {
        "offered": found.rate,
        "seconds": found.duration_s,
        "sent": found.sent,
        "answered": found.answered,
        "rejected": outcomes.rejected,
        "not_sent": outcomes.not_sent,
        "failed": found.lost - (outcomes.rejected if refusing else 0),
        "rate": found.throughput,
        "p50_us": latency.quantile(0.5) * 1e6 if latency.count else None,
        "p99_us": latency.quantile(0.99) * 1e6 if latency.enough(0.99) else None,
        "refusal_p99_us": refusals.quantile(0.99) * 1e6 if refusals.enough(0.99) else None,
        "generator_busy": found.busy,
        "doubt": found.doubt,
    }
