"""A real server that is asked for more than it can do: what it answers, whom it refuses, what is left afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from windlass.client import load, plan, report
from windlass.security import keys
from windlass.types import spec

ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 2, 3]}
PEPPER = "5a" * 32
ROW_MS = 5.0
# What one instance of a model with so long a row can do in a second.
CAPACITY = 1_000 / ROW_MS


class Drill:
    """A server of one worker with a slow model, two callers, and the account of all that they asked."""

    def __init__(self, start_server: Callable[..., Any], packages: Any) -> None:
        texts = {}
        known = []
        for name in "ab":
            identity, texts[name] = keys.generate()
            known.append(spec.Key(identity, keys.hmac_of(texts[name], bytes.fromhex(PEPPER))))
        slow = msgspec.structs.replace(packages.echo("slow", row_ms=ROW_MS), max_queue_ms=16 * ROW_MS)
        self.server = start_server(slow, keys=tuple(known), key_pepper=PEPPER, workers=1)
        self._headers = {name: {"authorization": f"Bearer {text}"} for name, text in texts.items()}
        self._asked = report.Outcomes()

    def target(self, caller: str, timeout_ms: int = 0) -> plan.Target:
        """One row of the slow model, with a deadline or none."""
        more = {"parameters": {"timeout": timeout_ms * 1_000}} if timeout_ms else {}
        body = json.dumps({"inputs": [ROW], **more}).encode()
        return load.http(f"{self.server.url}/v2/models/slow/infer", body, headers=self._headers[caller])

    def ask(self, part: float, seconds: float, caller: str = "a", timeout_ms: int = 0) -> report.Report:
        """Random arrivals at a part of the capacity."""
        return self.ended(load.open_loop(self.target(caller, timeout_ms), rate=part * CAPACITY, seconds=seconds))

    def flood(self, part: float) -> load.Load:
        """The same in the background, from the caller `a`; stop it and tell `ended`."""
        return load.Load(load.opened(self.target("a"), rate=part * CAPACITY)).start()

    def ended(self, found: report.Report) -> report.Report:
        """Put into the account; every request had an outcome of a few."""
        ends = found.outcomes
        assert ends.ok + ends.rejected + ends.expired + ends.not_sent == found.scheduled
        self._asked += ends
        return found

    def check_settled(self) -> None:
        """What was seen here was counted there, and nothing waits or runs."""
        until = time.monotonic() + 10
        while self.server.metrics()[("windlass_in_flight",)] and time.monotonic() < until:
            time.sleep(0.05)
        found, asked = self.server.outcomes(), self._asked
        assert found["ok"] == asked.ok
        assert found["refused"] + found["expired"] == asked.rejected + asked.expired
        metrics = self.server.metrics()
        assert metrics[("windlass_in_flight",)] == 0
        assert all(value == 0 for key, value in metrics.items() if key[0] == "windlass_queued")


@pytest.fixture(scope="module")
def drill(start_server: Callable[..., Any], packages: Any) -> Drill:
    """One server for all drills: each begins where nothing is left of the one before."""
    return Drill(start_server, packages)


@pytest.mark.promise("P-30")
@pytest.mark.promise("P-31")
def test_a_flood_is_refused_and_what_is_let_in_is_answered(drill: Drill) -> None:
    flood = drill.ask(6.0, 1.5)
    after = drill.ask(0.5, 1.0)
    drill.check_settled()
    assert flood.answered > 0.7 * CAPACITY * 1.5
    # A queue of sixteen runs, and what a busy machine adds; without the bound it would be seconds.
    assert flood.latency.quantile(0.95) < 0.3
    assert flood.refusals.quantile(0.5) < 0.01
    assert flood.outcomes.rejected > 0.5 * flood.scheduled
    # Nothing of it is left.
    assert after.outcomes.ok > 0.95 * after.scheduled
    assert after.latency.quantile(0.5) < 0.05


@pytest.mark.promise("P-36")
def test_a_flood_of_one_caller_leaves_another_its_part(drill: Drill) -> None:
    flood = drill.flood(5.0)
    beside = drill.ask(0.2, 2.0, caller="b")
    drowned = drill.ended(flood.stop())
    drill.check_settled()
    assert beside.outcomes.ok > 0.95 * beside.scheduled
    # The run that goes on, its own, and what a busy machine adds; behind the other's queue it would be sixteen.
    assert beside.latency.quantile(0.5) < 0.03
    assert drowned.outcomes.rejected > 0.5 * drowned.scheduled


@pytest.mark.promise("P-33")
@pytest.mark.parametrize("timeout_ms", [1, 50])
def test_no_answer_is_later_than_its_deadline(drill: Drill, timeout_ms: int) -> None:
    flood = drill.ask(3.0, 0.8, timeout_ms=timeout_ms)
    drill.check_settled()
    late = timeout_ms / 1_000 + 0.02
    if timeout_ms < ROW_MS:
        assert not flood.answered
    else:
        assert flood.latency.quantile(0.9) < late
    assert not flood.refusals.count or flood.refusals.quantile(0.9) < late


def test_many_who_wait_for_their_answers_are_not_refused(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("mild", row_ms=2.0))
    target = load.http(f"{server.url}/v2/models/mild/infer", json.dumps({"inputs": [ROW]}).encode())
    # From the first request after the start on.
    for connections in (64, 8):
        found = load.closed_loop(target, connections=connections, seconds=0.8)
        assert found.answered > connections
        assert found.lost == 0


@pytest.mark.soak
@pytest.mark.promise("P-30")
@pytest.mark.promise("P-31")
@pytest.mark.promise("P-32")
@pytest.mark.timeout(600)
def test_the_bars_of_overload(drill: Drill, record: Callable[[str, int], Any]) -> None:
    peak = drill.ask(1.0, 15.0).throughput
    calm = drill.ask(0.8, 30.0).latency.quantile(0.99)
    floods = {}
    for part in (2.0, 4.0, 10.0):
        flood = drill.ask(part, 15.0)
        floods[f"{part:g}x"] = {
            "goodput": flood.throughput / peak,
            "p99": flood.latency.quantile(0.99) / calm,
            "refusal_p99_s": flood.refusals.quantile(0.99),
        }
    # From five seconds after the flood on.
    time.sleep(5.0)
    after = drill.ask(0.8, 30.0).latency.quantile(0.99)
    drill.check_settled()
    found = record("overload", 1).finish(peak=peak, calm_p99_s=calm, after_p99_s=after, floods=floods)
    assert all(one["goodput"] > 0.9 for one in floods.values()), found
    assert all(one["p99"] < 2.0 for one in floods.values()), found
    assert all(one["refusal_p99_s"] < 0.01 for one in floods.values()), found
    assert after < 1.2 * calm, found


@pytest.mark.soak
@pytest.mark.promise("P-36")
@pytest.mark.timeout(600)
def test_the_bar_between_tenants(drill: Drill, record: Callable[[str, int], Any]) -> None:
    alone = drill.ask(0.2, 60.0, caller="b").latency.quantile(0.99)
    flood = drill.flood(20 * 0.25)
    beside = drill.ask(0.2, 60.0, caller="b").latency.quantile(0.99)
    drill.ended(flood.stop())
    drill.check_settled()
    found = record("tenants", 1).finish(alone_p99_s=alone, beside_p99_s=beside, part=beside / alone)
    assert beside < 1.3 * alone, found
