"""How a server of several workers ends: told to stop, killed, or served with models that kill it."""

from __future__ import annotations

import contextlib
import os
import signal
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
from windlass.types import spec

ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})
WORKERS = 2


def _wanted(*endpoints: spec.Endpoint, **more: Any) -> spec.Spec:
    return spec.Spec(endpoints, listen="127.0.0.1:0", admin="127.0.0.1:0", workers=WORKERS, **more)


def _status(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.admin_url}/status").json()
    return found


def _until(condition: Callable[[], Any], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come to pass"
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def _restarts(packages: Any, tmp_path: Path, times: int) -> None:
    endpoints = (packages.mlp("m"), packages.echo("slow", run_ms=10))
    for number in range(times):
        server = launch.Server(_wanted(*endpoints), tmp_path / str(number), log=tmp_path / "log")
        workers = [one["pid"] for one in _status(server)["workers"]]
        target = load.http(f"{server.url}/v2/models/slow/infer", ROW)
        asking = load.Load(load.closed(target, connections=8)).start()
        try:
            time.sleep(0.2 + 0.05 * (number % 3))
            assert server.stop() == 0
        finally:
            report = asking.stop()
        assert report.answered > 0
        # What was sent before the door closed was answered; who came later was told that nobody is there.
        assert report.outcomes.failed == report.outcomes.rejected == report.outcomes.expired == 0
        assert all(_gone(pid) for pid in workers)


@pytest.mark.promise("P-41")
def test_stopping_several_workers_under_load_loses_nothing(packages: Any, tmp_path: Path) -> None:
    _restarts(packages, tmp_path, 1)


@pytest.mark.promise("P-52")
def test_a_killed_supervisor_leaves_nobody_and_can_be_started_again(packages: Any, tmp_path: Path) -> None:
    wanted = _wanted(packages.echo("m"))
    server = launch.Server(wanted, tmp_path / "home", log=tmp_path / "log")
    workers = [one["pid"] for one in _status(server)["workers"]]
    # One that could not even see that its supervisor is gone.
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    _until(lambda: all(_gone(pid) for pid in workers), 2)
    server.stop()
    started = time.monotonic()
    again = msgspec.structs.replace(wanted, listen=server.url.removeprefix("http://"))
    with launch.Server(again, tmp_path / "home", log=tmp_path / "log") as other:
        assert other.url == server.url
        assert httpx.post(f"{other.url}/v2/models/m/infer", content=ROW).status_code == 200
    assert time.monotonic() - started < 5


@pytest.mark.promise("P-51")
def test_models_that_crash_their_workers_give_way_to_the_last_good_ones(packages: Any, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    first = _wanted(packages.echo("m", "good"), state=state)
    with launch.Server(first, tmp_path / "home", log=tmp_path / "log") as server:
        operator = control.Control(server.control)
        current = operator.current()
        bad = msgspec.structs.replace(current, generation=2, endpoints=(packages.echo("m", "bad", row_ms=0.001),))
        operator.apply(bad)
        killed: set[int] = set()

        def crash() -> bool:
            """As the models would: whoever serves them dies at once."""
            told = _status(server)
            for one in told["workers"]:
                if one["generation"] == 2 and one["pid"] not in killed:
                    killed.add(one["pid"])
                    os.kill(one["pid"], signal.SIGKILL)
            return bool(told["fell_back"])

        _until(crash, 10)
        _until(lambda: [one["generation"] for one in _status(server)["workers"]] == [1, 1], 10)
        told = operator.status()
        assert "generation 2 crashed" in told["fell_back"]
        assert told["models"][0]["version"] == "good"
        with pytest.raises(errors.GateRefused, match="crashed its workers"):
            operator.apply(msgspec.structs.replace(bad, generation=3))
        operator.close()
    # Nor does a server that is started again with them.
    with launch.Server(msgspec.structs.replace(bad, control=""), tmp_path / "home", log=tmp_path / "log") as server:
        told = _status(server)
        assert "generation 2 crashed" in told["fell_back"]
        assert told["models"][0]["version"] == "good"
