"""A server that is asked for ten times what it can do: what a refusal costs, how soon it is itself again, who lives.

The bars of goodput and of tenants are in `test_server_overload.py`.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnxruntime
import pytest
import uvloop
from onnx import TensorProto, helper

from windlass.client import account, generator, histogram, http_connection, load, plan, report
from windlass.packaging import draft
from windlass.types import signature

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 2, 3]}]}).encode()
ROW_MS = 5.0
CAPACITY = 1_000 / ROW_MS
TICK_S = 0.01
WIDE, DEEP = 512, 200
# More than this a second no model of milliseconds a row can do.
FLOOD = 3_000.0


def _busy() -> draft.Draft:
    """A model that computes for milliseconds a row: two hundred products with one square matrix."""
    random_ = np.random.default_rng(0)
    weights = [
        ("first", random_.normal(size=(4, WIDE)).astype(np.float32)),
        ("square", (random_.normal(size=(WIDE, WIDE)) / WIDE**0.5).astype(np.float32)),
        ("last", random_.normal(size=(WIDE, 2)).astype(np.float32)),
    ]
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"])]
    for at in range(DEEP):
        nodes.append(helper.make_node("MatMul", [f"h{at}", "square"], [f"m{at}"]))
        nodes.append(helper.make_node("Tanh", [f"m{at}"], [f"h{at + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{DEEP}", "last"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "busy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor(n, TensorProto.FLOAT, a.shape, a.tobytes(), raw=True) for n, a in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    rows = random_.normal(size=(2, 4)).astype(np.float32)
    answers = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]
    return draft.Draft(
        files={"model.onnx": model},
        signature=signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", 4)),), (signature.TensorSpec("y", "FP32", ("batch", 2)),)
        ),
        trials=(draft.Trial("rows", {"x": rows}, {"y": answers}),),
        framework="onnx",
        max_batch=8,
    )


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any) -> Any:
    """A model that waits for so long a row, one that computes, and one that does nothing."""
    longest_ms = 16 * ROW_MS
    slow = msgspec.structs.replace(packages.echo("slow", row_ms=ROW_MS), max_queue_ms=longest_ms)
    busy = msgspec.structs.replace(packages._endpoint("busy", "1", _busy(), 0), max_batch=1, max_queue_ms=longest_ms)
    return start_server(slow, busy, packages.echo("fast"), workers=1)


def _target(server: Any, model: str) -> plan.Target:
    return load.http(f"{server.url}/v2/models/{model}/infer", BODY)


def _cpu_s(pid: int) -> tuple[float, float]:
    """Processor time of a process, and of its first thread, which runs the loop."""
    found = []
    for stat in (f"/proc/{pid}/stat", f"/proc/{pid}/task/{pid}/stat"):
        fields = Path(stat).read_text().rpartition(")")[2].split()
        found.append((int(fields[11]) + int(fields[12])) * TICK_S)
    return found[0], found[1]


def _cost(server: Any, rate: float, seconds: float) -> tuple[report.Report, float, float]:
    """A load on the model that computes, and what it cost the worker: all of it, and its loop."""
    all_before, loop_before = _cpu_s(server.worker)
    found = load.open_loop(_target(server, "busy"), rate=rate, seconds=seconds)
    all_after, loop_after = _cpu_s(server.worker)
    return found, all_after - all_before, loop_after - loop_before


def _refusals(server: Any, seconds: float) -> dict[str, float]:
    """What a refusal costs, against an answer of the same model: seconds of processor time each."""
    peak = load.closed_loop(_target(server, "busy"), connections=2, seconds=seconds).throughput
    calm, all_s, loop_s = _cost(server, 0.6 * peak, 2 * seconds)
    served_s, loop_each_s = all_s / calm.answered, loop_s / calm.answered
    flood, _, loop_s = _cost(server, max(FLOOD, 10 * peak), seconds)
    refused = flood.outcomes.rejected
    assert refused > 0.5 * flood.sent
    assert refused + flood.answered == flood.sent
    each = max(0.0, loop_s - flood.answered * loop_each_s) / refused
    return {
        "peak": peak,
        "served_cpu_s": served_s,
        "refused_cpu_s": each,
        "part": each / served_s,
        "refusal_p99_s": flood.refusals.quantile(0.99),
        "goodput": flood.throughput / peak,
    }


@pytest.mark.promise("P-31")
def test_a_refusal_costs_little(server: Any) -> None:
    found = _refusals(server, 1.0)
    assert found["part"] < 0.15, found


@pytest.mark.soak
@pytest.mark.promise("P-31")
def test_the_bar_of_a_refusal(server: Any, record: Callable[[str, int], Any]) -> None:
    found = record("refusals", 1).finish(**_refusals(server, 20.0))
    assert found["part"] < 0.05, found
    assert found["refusal_p99_s"] < 0.01, found


class Retrying(generator.OpenLoop):
    """Callers who ask again, soon and for a second, when they are refused: what keeps a server down that lets it."""

    attempts = 0
    PATIENCE_S, PAUSE_S = 1.0, 0.05

    def ended(self, connection: http_connection.Connection, intended: float, outcome: int, status: int) -> None:
        if outcome != account.REJECTED or self._clock() > intended + self.PATIENCE_S:
            super().ended(connection, intended, outcome, status)
            return
        self.attempts += 1
        data = self._plan.target.requests[0].data
        self._loop.call_later(self.PAUSE_S * (0.5 + random.random()), self.again, data, intended)
        if connection.room:
            self._free(connection)


class Insistent:
    """Such callers in a thread of their own, for so many seconds."""

    def __init__(self, planned: plan.Plan) -> None:
        self._plan = planned
        self.attempts = 0
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)
        self._thread.start()

    async def _run(self) -> None:
        one = Retrying(self._plan, lambda: False)
        self.report = await one.run()
        self.attempts = one.attempts

    def wait(self) -> report.Report:
        self._thread.join()
        return self.report


def _step(server: Any, before_s: int, flood_s: int, after_s: int) -> tuple[dict[str, Any], list[Insistent]]:
    """Callers who insist, at half of what the server can do, and a flood of four times that beside them for a while."""
    target = _target(server, "slow")
    total = before_s + flood_s + after_s
    steady = Insistent(load.opened(target, rate=0.5 * CAPACITY, seconds=total))
    time.sleep(before_s)
    flood = Insistent(load.opened(target, rate=4 * CAPACITY, seconds=flood_s, seed=2))
    drowned = flood.wait()
    found = steady.wait()

    def of(first: int, last: int) -> histogram.Histogram:
        return histogram.Histogram.merged(second.latency for second in found.seconds[first:last])

    calm = of(1, before_s)
    at = before_s + flood_s
    # The first second from which on every one is as calm as it was.
    bar = max(1.5 * calm.quantile(0.9), calm.quantile(0.9) + 0.01)
    recovered = next(
        (s for s in range(at, total - 1) if all(one.latency.quantile(0.9) <= bar for one in found.seconds[s:-1])), total
    )
    ends = found.outcomes + drowned.outcomes
    figures = {
        "recovery_s": recovered - at,
        "calm_p90_s": calm.quantile(0.9),
        "calm_p99_s": calm.quantile(0.99),
        "after_p99_s": of(at + 5, total).quantile(0.99),
        "last_p50_s": of(total - 2, total).quantile(0.5),
        "last_lost": sum((one.outcomes for one in found.seconds[total - 2 :]), report.Outcomes()).rejected,
        "attempts": steady.attempts + flood.attempts,
        **msgspec.structs.asdict(ends),
    }
    return figures, [steady, flood]


def _check_step(server: Any, settled: Callable[..., Any], lengths: tuple[int, int, int]) -> dict[str, Any]:
    before = settled(server)
    figures, _ = _step(server, *lengths)
    after = settled(server)
    found = {outcome: count - before[outcome] for outcome, count in after.items()}
    assert found["ok"] == figures["ok"]
    assert found["refused"] == figures["rejected"] + figures["attempts"]
    assert figures["attempts"] > 0
    return figures


@pytest.mark.promise("P-32")
def test_it_is_itself_again_although_callers_insist(server: Any, settled: Callable[..., Any]) -> None:
    figures = _check_step(server, settled, (2, 1, 4))
    # The flood lasted for a second; three seconds later nothing of it is felt. The bar itself wants a quiet machine.
    assert figures["last_lost"] == 0, figures
    assert figures["last_p50_s"] < 0.1, figures


@pytest.mark.soak
@pytest.mark.promise("P-32")
def test_the_bar_of_recovery(server: Any, settled: Callable[..., Any], record: Callable[[str, int], Any]) -> None:
    figures = record("recovery", 1).finish(**_check_step(server, settled, (60, 30, 60)))
    assert figures["recovery_s"] <= 5, figures
    assert figures["after_p99_s"] <= 1.2 * figures["calm_p99_s"], figures


def _alive_under_load(server: Any, seconds: float) -> dict[str, Any]:
    """Ten times what one model can do and all that another can, and who asks whether the server lives."""
    floods = [
        load.Load(load.opened(_target(server, "slow"), rate=10 * CAPACITY)).start(),
        load.Load(load.closed(_target(server, "fast"), connections=64)).start(),
    ]
    restarts = httpx.get(f"{server.admin_url}/status", timeout=20).json()["restarts"]
    until = time.monotonic() + seconds
    took: list[float] = []
    failures: list[str] = []
    in_a_row = most_in_a_row = 0
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            told = str(httpx.get(f"{server.url}/v2/health/live", timeout=1.0).status_code)
        except httpx.HTTPError as e:
            told = repr(e)
        took.append(time.monotonic() - started)
        in_a_row = 0 if told == "200" else in_a_row + 1
        most_in_a_row = max(most_in_a_row, in_a_row)
        failures += [told] * bool(in_a_row)
        time.sleep(0.05)
    reports = [flood.stop() for flood in floods]
    assert httpx.get(f"{server.admin_url}/status", timeout=20).json()["restarts"] == restarts
    # Much of the first flood is refused; nothing else happens to it, or to the other.
    refused, saturating = (one.outcomes for one in reports)
    assert refused.rejected > refused.ok
    assert refused.failed + refused.broken + refused.expired == 0
    assert saturating.ok + saturating.rejected == saturating.total
    return {
        "probes": len(took),
        "failures": len(failures),
        "most_in_a_row": most_in_a_row,
        "why": failures[:3],
        "slowest_probe_s": max(took),
        "answered": refused.ok + saturating.ok,
        "refused": refused.rejected,
    }


@pytest.mark.promise("P-47")
def test_load_alone_fails_no_liveness(server: Any) -> None:
    # What restarts a container is three failures in a row.
    found = _alive_under_load(server, 2.0)
    assert found["most_in_a_row"] < 3, found


@pytest.mark.soak
@pytest.mark.promise("P-47")
@pytest.mark.timeout(1_200)
def test_ten_minutes_of_load_fail_no_liveness(server: Any, record: Callable[[str, int], Any]) -> None:
    found = record("liveness", 1).finish(**_alive_under_load(server, 600.0))
    assert found["failures"] == 0, found
