"""Versions that change, servers that stop, updates that fail: under load, and nobody's request is lost."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import orjson
import pytest

from windlass import errors
from windlass.client import control, load
from windlass.serving import launch
from windlass.types import spec, strict_json

BODY = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.1] * 30}]})
ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})


def _asking(server: Any, model: str = "m", body: bytes = BODY, connections: int = 8) -> load.Load:
    target = load.http(f"{server.url}/v2/models/{model}/infer", body)
    return load.Load(load.closed(target, connections=connections, observe=True)).start()


def _next(server: Any, generation: int, *endpoints: spec.Endpoint) -> spec.Spec:
    return msgspec.structs.replace(server.wanted, generation=generation, endpoints=endpoints)


@pytest.mark.promise("P-37")
@pytest.mark.promise("P-39")
def test_twenty_swaps_and_some_failed_ones_lose_nothing(
    start_server: Callable[..., Any], packages: Any, tmp_path: Path
) -> None:
    versions = [packages.mlp("m", str(n), seed=n % 2) for n in range(1, 22)]
    server = start_server(versions[0])
    operator = control.Control(server.control)
    whole = Path(versions[1].arms[0].path).read_bytes()
    broken = tmp_path / "broken.windlass"
    broken.write_bytes(whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :])
    asking = _asking(server)
    took = []
    for generation, endpoint in enumerate(versions[1:], 2):
        if generation % 5 == 0:
            bad = msgspec.structs.replace(
                endpoint, arms=(msgspec.structs.replace(endpoint.arms[0], path=str(broken), version="bad"),)
            )
            with pytest.raises((errors.CorruptPackage, errors.WindlassError)):
                operator.apply(_next(server, generation, bad))
        started = time.perf_counter()
        operator.apply(_next(server, generation, endpoint))
        took.append(time.perf_counter() - started)
        # From the acknowledgement on, only the new version answers.
        told = httpx.get(f"{server.url}/v2/models/m").json()
        assert told["versions"] == [endpoint.arms[0].version]
    report = asking.stop()
    assert report.lost == 0
    assert report.sent == report.answered == server.outcomes()["ok"]
    assert "bad" not in report.versions
    assert len(report.versions) > 10
    with pytest.raises(errors.Conflict):
        operator.apply(_next(server, 21, versions[0]))
    assert operator.status()["generation"] == 21
    operator.close()


@pytest.fixture(scope="module")
def old(start_server: Callable[..., Any], packages: Any) -> Any:
    """A server that tests try to update."""
    return start_server(packages.echo("m", "1"))


@pytest.mark.promise("P-39")
@pytest.mark.promise("P-60")
@pytest.mark.parametrize("kind", ["flipped", "truncated", "swapped", "missing"])
def test_broken_bytes_never_serve_and_the_old_version_does(old: Any, packages: Any, tmp_path: Path, kind: str) -> None:
    other = packages.echo("m", kind, row_ms=0.001)
    operator = control.Control(old.control)
    serving = operator.current()
    (good,) = serving.endpoints
    data = Path(other.arms[0].path).read_bytes()
    path = tmp_path / "update.windlass"
    if kind != "missing":
        path.write_bytes(
            {
                "flipped": data[:-400] + bytes([data[-400] ^ 1]) + data[-399:],
                "truncated": data[: len(data) // 2],
                "swapped": Path(packages.echo("m", "1").arms[0].path).read_bytes(),
            }[kind]
        )
    bad = msgspec.structs.replace(other, arms=(msgspec.structs.replace(other.arms[0], path=str(path)),))
    asking = _asking(old, body=ROW, connections=2)
    with pytest.raises(errors.WindlassError) as refused:
        operator.apply(msgspec.structs.replace(serving, generation=serving.generation + 1, endpoints=(bad,)))
    # On a busy machine the load may not have begun: it asks for a while longer.
    time.sleep(0.5)
    report = asking.stop()
    assert report.lost == 0
    assert set(report.versions) == {good.arms[0].version}
    assert str(refused.value)
    status = operator.status()
    assert (status["generation"], status["ready"]) == (serving.generation, True)
    # The same server takes the good bytes of the same version afterwards.
    operator.apply(msgspec.structs.replace(serving, generation=serving.generation + 1, endpoints=(other,)))
    assert operator.status()["models"][0]["version"] == kind
    operator.close()


def test_an_endpoint_that_cannot_be_added_is_told_and_forgotten(old: Any, packages: Any, tmp_path: Path) -> None:
    good, extra = packages.echo("m"), packages.echo("extra")
    server = old
    missing = msgspec.structs.replace(
        extra, arms=(msgspec.structs.replace(extra.arms[0], path=str(tmp_path / "none.windlass")),)
    )
    operator = control.Control(server.control)
    with pytest.raises(errors.WindlassError):
        operator.apply(_next(server, 52, good, missing))
    operator.apply(_next(server, 53, good))
    assert httpx.post(f"{server.url}/v2/models/extra/infer", content=ROW).status_code == 404
    assert [m["name"] for m in operator.status()["models"]] == ["m"]
    operator.apply(_next(server, 54, good, extra))
    assert httpx.post(f"{server.url}/v2/models/extra/infer", content=ROW).status_code == 200
    operator.apply(_next(server, 55, good))
    assert httpx.post(f"{server.url}/v2/models/extra/infer", content=ROW).status_code == 404
    operator.close()


def _restarts(packages: Any, tmp_path: Path, times: int) -> None:
    # Both kinds of models: in the loop, and in a thread.
    endpoints = (packages.mlp("m"), packages.echo("slow", run_ms=10))
    for number in range(times):
        home = tmp_path / str(number)
        wanted = spec.Spec(endpoints=endpoints, listen="127.0.0.1:0", admin="127.0.0.1:0")
        server = launch.Server(wanted, home, log=tmp_path / "log")
        asking = [_asking(server), _asking(server, "slow", ROW, 4)]
        time.sleep(0.2 + 0.05 * (number % 3))
        status = server.stop()
        reports = [one.stop() for one in asking]
        assert status == 0
        for report in reports:
            assert report.answered > 0
            # Every request that was sent was answered, and well: none was broken off.
            assert report.lost == 0
            assert report.sent == report.answered


@pytest.mark.promise("P-41")
def test_stopping_under_load_loses_nothing(packages: Any, tmp_path: Path) -> None:
    _restarts(packages, tmp_path, 3)


@pytest.mark.promise("P-43")
def test_a_request_longer_than_the_grace_is_told(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("slow", run_ms=800), grace_s=0.2)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        asked = threads.submit(lambda: httpx.post(f"{server.url}/v2/models/slow/infer", content=ROW, timeout=20))
        time.sleep(0.2)
        started = time.monotonic()
        assert server.server.stop() == 0
        took = time.monotonic() - started
        answer = asked.result()
    assert answer.status_code == 503
    assert "stopping" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1
    assert took < 2.0


def test_not_ready_comes_before_closed(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("m"), pre_stop_s=1.0)
    with httpx.Client(base_url=server.url) as client, httpx.Client(base_url=server.admin_url) as admin:
        assert client.get("/v2/health/ready").status_code == 200
        assert admin.get("/health").status_code == 200
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        deadline = time.monotonic() + 0.9
        while client.get("/v2/health/ready").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        assert admin.get("/health").status_code == 503
        assert client.post("/v2/models/m/infer", content=ROW).status_code == 200
        stopping.join()
        with pytest.raises(httpx.TransportError):
            client.get("/v2/health/live")
    assert not Path(server.control).exists()


def test_a_server_that_is_still_loading_can_be_stopped(packages: Any, tmp_path: Path) -> None:
    wanted = spec.Spec(
        endpoints=(packages.echo("m", run_ms=0), *(packages.echo(f"slow{n}", run_ms=700) for n in range(4))),
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        grace_s=5.0,
    )
    path = launch.prepare(wanted, tmp_path / "home")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(launch.command(path), stderr=log)
    socket_path = Path(strict_json.decode(path.read_bytes(), spec.Spec, what="spec").control)
    deadline = time.monotonic() + 20
    while not socket_path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    operator = control.Control(str(socket_path))
    assert operator.status()["ready"] is False
    operator.close()
    started = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("text", ['{"endpoints": 3}', "not json", '{"endpoints": [], "lisssten": "a:1"}', None])
def test_a_spec_that_is_none_is_told_in_a_sentence(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text)
    done = subprocess.run(launch.command(path), capture_output=True, text=True, check=False)
    assert done.returncode == errors.UsageError.exit_code
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_in_a_sentence(start_server: Callable[..., Any], packages: Any, tmp_path: Path) -> None:
    server = start_server(packages.echo("m"))
    wanted = msgspec.structs.replace(server.wanted, listen=server.url.removeprefix("http://"))
    with pytest.raises(errors.Unavailable, match="cannot listen on"):
        launch.Server(wanted, tmp_path / "home")


@pytest.mark.promise("P-49")
def test_loading_again_and_again_does_not_leak(start_server: Callable[..., Any], packages: Any) -> None:
    endpoints = [packages.mlp("m", str(n), seed=n) for n in range(2)]
    server = start_server(endpoints[0])
    operator = control.Control(server.control)

    def swaps(first: int, count: int) -> None:
        for generation in range(first, first + count):
            operator.apply(_next(server, generation, endpoints[generation % 2]))

    swaps(3, 10)
    before = (server.rss(), server.descriptors(), server.threads())
    swaps(20, 30)
    after = (server.rss(), server.descriptors(), server.threads())
    operator.close()
    assert after[0] - before[0] < 30 * 200_000
    assert after[1] <= before[1] + 1
    assert after[2] <= before[2] + 1
