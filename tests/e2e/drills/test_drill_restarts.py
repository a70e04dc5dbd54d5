"""Servers that are started again, and workers that are replaced, under callers of every kind: no request is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import msgspec
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from windlass.client import report
from windlass.serving import launch
from windlass.types import spec

PART = 25
GRACE_S = 10.0


def _replace_workers(server: Any) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=server.control), base_url="http://localhost") as client:
        assert client.post("/restart", timeout=60).json() == {"restarted": True}


def _replaced(server: Any, times: int, asked: Callable[..., Any], settled: Callable[..., Any]) -> Any:
    """Workers replaced that many times on one server; its account is the callers'."""
    before = settled(server)
    with asked(server.url, "slow") as mix:
        for _ in range(times):
            time.sleep(0.1)
            _replace_workers(server)
        time.sleep(0.1)
        ends = mix.stop()
    after = settled(server)
    found = {outcome: count - before[outcome] for outcome, count in after.items()}
    assert found["ok"] == ends.ok, (found, mix.ends, mix.said)
    return mix


def _stopped(wanted: spec.Spec, home: Path, times: int, asked: Callable[..., Any]) -> Any:
    """The server told to end and started again on the same port that many times, while callers go on all the time."""
    server = launch.Server(wanted, home, log=home / "log")
    again = msgspec.structs.replace(wanted, listen=server.url.removeprefix("http://"))
    try:
        with asked(server.url, "slow") as mix:
            for number in range(times):
                time.sleep(0.1 + 0.03 * (number % 4))
                started = time.monotonic()
                assert server.stop() == 0
                assert time.monotonic() - started < GRACE_S
                server = launch.Server(again, home, log=home / "log")
            time.sleep(0.2)
            mix.stop()
    finally:
        server.stop()
    return mix


def _lost(ends: report.Outcomes) -> int:
    """Neither answered nor told that the server goes."""
    return ends.failed + ends.broken + ends.expired


def _figures(mix: Any) -> dict[str, int]:
    """How the requests of each kind of caller ended, and what those were told who were not answered."""
    found = {
        f"{kind} {name}": count
        for kind, ends in mix.ends.items()
        for name, count in msgspec.structs.asdict(ends).items()
    }
    found |= {
        f"{kind} told {what}": count
        for kind, told in mix.said.items()
        for what, count in told.items()
        if what not in (0, 200, "")
    }
    return {name: count for name, count in found.items() if count}


@pytest.fixture(scope="module")
def wanted(packages: Any) -> spec.Spec:
    slow = packages.echo("slow", run_ms=4)
    return spec.Spec((slow,), listen="127.0.0.1:0", admin="127.0.0.1:0", workers=2, grace_s=GRACE_S)


def _all_kinds(mix: Any) -> report.Outcomes:
    assert all(ends.ok > 0 for ends in mix.ends.values()), mix.ends
    return sum(mix.ends.values(), report.Outcomes())


@pytest.mark.promise("P-41")
def test_workers_are_replaced_under_every_kind_of_caller(
    start_server: Callable[..., Any], wanted: spec.Spec, asked: Callable[..., Any], settled: Callable[..., Any]
) -> None:
    server = start_server(*wanted.endpoints, workers=2, grace_s=GRACE_S)
    mix = _replaced(server, 1, asked, settled)
    assert _lost(_all_kinds(mix)) == 0, (mix.ends, mix.said)


@pytest.mark.promise("P-41")
def test_a_server_is_started_again_under_every_kind_of_caller(
    wanted: spec.Spec, tmp_path: Path, asked: Callable[..., Any]
) -> None:
    mix = _stopped(wanted, tmp_path, 1, asked)
    assert _lost(_all_kinds(mix)) == 0, (mix.ends, mix.said)


def _again_and_again(kept: Any, part: Callable[[], Any]) -> None:
    while kept.left:
        started = time.monotonic()
        mix = part()
        total = _all_kinds(mix)
        kept.add(PART, requests=total.total, lost=_lost(total), seconds=time.monotonic() - started, **_figures(mix))
    found = kept.finish()
    assert found["lost"] == 0, found


@pytest.mark.soak
@pytest.mark.promise("P-41")
@pytest.mark.timeout(7_200)
def test_workers_are_replaced_hundreds_of_times(
    wanted: spec.Spec,
    start_server: Callable[..., Any],
    asked: Callable[..., Any],
    settled: Callable[..., Any],
    record: Callable[[str, int], Any],
) -> None:
    """Every worker of a server of two, 750 times."""

    def part() -> Any:
        server = start_server(*wanted.endpoints, workers=2, grace_s=GRACE_S)
        mix = _replaced(server, PART, asked, settled)
        server.server.stop()
        return mix

    _again_and_again(record("restarts", 750), part)


@pytest.mark.soak
@pytest.mark.promise("P-41")
@pytest.mark.timeout(7_200)
def test_servers_are_started_again_hundreds_of_times(
    wanted: spec.Spec, tmp_path: Path, asked: Callable[..., Any], record: Callable[[str, int], Any]
) -> None:
    """The server itself, 250 times."""
    _again_and_again(record("stops", 250), lambda: _stopped(wanted, tmp_path, PART, asked))


@pytest.mark.promise("P-43")
def test_a_stream_without_end_is_told_at_the_end_of_the_grace(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("slow", run_ms=4), grace_s=0.5)
    question = service_pb2.ModelInferRequest(model_name="slow")
    question.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    question.raw_input_contents.append(bytes(16))
    answered = threading.Event()

    def forever() -> Any:
        while True:
            yield question
            answered.wait(0.01)

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(forever(), timeout=20)
        assert not next(call).error_message
        stopping = threading.Thread(target=server.server.stop)
        started = time.monotonic()
        stopping.start()
        with pytest.raises(grpc.RpcError) as told:
            for _ in call:
                pass
        stopping.join()
    assert time.monotonic() - started < 0.5 + 1.5
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "server" in told.value.details()
