"""The access log of a running server: what was asked is told, and nobody has to read it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from windlass import telemetry
from windlass.serving import launch
from windlass.types import spec

ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@contextlib.contextmanager
def _serving(folder: Path, endpoints: tuple[spec.Endpoint, ...]) -> Iterator[tuple[launch.Server, int]]:
    """A server whose log is a pipe of one page, and the pipe's other end."""
    pipe = folder / "log"
    os.mkfifo(pipe)
    there = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(there, fcntl.F_SETPIPE_SZ, 4_096)
    wanted = spec.Spec(
        endpoints=endpoints, listen="127.0.0.1:0", admin="127.0.0.1:0", workers=1, access_log=True, grace_s=5
    )
    try:
        with launch.Server(wanted, folder, log=pipe) as server:
            yield server, there
    finally:
        os.close(there)


def _lines(there: int, until: Callable[[list[Any]], bool]) -> list[Any]:
    """Lines of JSON that come through the pipe, until they are enough or ten seconds are over."""
    text = b""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        with contextlib.suppress(BlockingIOError):
            text += os.read(there, 65_536)
        whole = text[: text.rfind(b"\n") + 1].splitlines()
        found = [json.loads(line) for line in whole if line.startswith(b"{")]
        if until(found):
            return found
        time.sleep(0.01)
    raise AssertionError(text)


def test_who_asked_what_is_told(packages: Any, tmp_path: Path) -> None:
    with _serving(tmp_path, (packages.echo("m"),)) as (server, there):
        with httpx.Client(base_url=server.url) as client:
            client.post(
                "/v2/models/m/infer?key=wl_secret",
                content=ROW,
                headers={"x-request-id": "mine-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
            ).raise_for_status()
            assert client.get("/v2/models/absent").is_error
        lines = _lines(there, lambda found: len(found) >= 2)
    told, refused = lines
    assert (told["method"], told["path"], told["status"]) == ("POST", "/v2/models/m/infer", 200)
    assert (told["request_id"], told["trace_id"], told["caller"]) == ("mine-1", TRACE, "local")
    assert (told["model"], told["version"], told["bytes_in"]) == ("m", "1", len(ROW))
    assert told["bytes_out"] > 0
    assert told["ms"] > 0
    assert refused["status"] == 404
    assert "secret" not in json.dumps(lines)


def _ask(connection: socket.socket, request: bytes, count: int) -> float:
    """Ask `count` times in one go; seconds until all are answered with success."""
    started = time.monotonic()
    connection.sendall(request * count)
    text = b""
    while text.count(b"HTTP/1.1 200") < count or not text.endswith(b"}"):
        part = connection.recv(262_144)
        assert part, text[-500:]
        text += part
    return time.monotonic() - started


@pytest.mark.promise("P-79")
def test_a_log_that_nobody_reads_stops_nothing(packages: Any, tmp_path: Path) -> None:
    asked, together = 12_000, 20
    request = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(ROW) + ROW
    endpoints = (packages.echo("m"), packages.echo("poison", fail_above=100.0))
    with _serving(tmp_path, endpoints) as (server, _), httpx.Client(base_url=server.url) as client:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 20) as connection:
            took = [_ask(connection, request, together) for _ in range(asked // together)]
        # Before the pipe was full, and when nothing more could be kept.
        early, late = sorted(took[:100])[50], sorted(took[-100:])[50]
        assert late < 2 * early + 0.005
        # What fails is told in a log too, which goes the same way.
        poison = ROW.replace(b"0.1", b"666.0")
        failed = {client.post("/v2/models/poison/infer", content=poison).status_code for _ in range(50)}
        assert failed == {500}
        client.post("/v2/models/m/infer", content=ROW).raise_for_status()
        found = httpx.get(f"{server.admin_url}/metrics").text.splitlines()
        lost = [line for line in found if line.startswith(f"{telemetry.LOG_DROPPED.name}{{")]
        assert sum(float(line.rpartition(" ")[2]) for line in lost) > asked / 4


def test_a_log_that_nobody_reads_stops_no_supervisor(packages: Any, tmp_path: Path) -> None:
    with _serving(tmp_path, (packages.echo("m"),)) as (server, there):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(there, b"." * 4_096)
        before = httpx.get(f"{server.admin_url}/status").json()["workers"]
        # It has something to say about that, and goes on although nobody hears it.
        os.kill(before[0]["pid"], signal.SIGKILL)
        give_up = time.monotonic() + 20
        while httpx.get(f"{server.admin_url}/status", timeout=5).json()["restarts"] == 0:
            assert time.monotonic() < give_up
        while httpx.get(f"{server.admin_url}/health", timeout=5).status_code != 200:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        httpx.post(f"{server.url}/v2/models/m/infer", content=ROW).raise_for_status()
