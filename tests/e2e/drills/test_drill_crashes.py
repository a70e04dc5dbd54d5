"""Workers and models that die or hang under load, again and again: who loses what, and how soon all is whole again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from windlass import references, sdk, settings
from windlass.client import load
from windlass.packaging import package as packaging
from windlass.packaging.capture import base
from windlass.runtimes import declared
from windlass.types import signature, strict_json

WORKERS = 2
# What one worker may have in flight of the callers: four who keep their connection, two who do not, four calls, a
# stream of twenty questions.
IN_FLIGHT = 4 + 2 + 4 + 20
TENSORS = declared.Tensors(
    (signature.TensorSpec("x", "FP32", ("batch", 4)),),
    (signature.TensorSpec("y", "FP32", ("batch", 4)),),
    entry="model:Model",
)
CODE = """
import ctypes


class Model:
    def predict(self, inputs):
        first = inputs["x"][0, 0]
        if first == 70001:
            ctypes.string_at(0)
        if first == 70002:
            bytearray(1 << 40)
        return {"y": inputs["x"]}
"""
SEGFAULT, MEMORY = 70_001.0, 70_002.0


def _body(first: float) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [first, 0, 0, 0]}]}
    ).encode()


@pytest.fixture(scope="module")
def server(packages: Any, start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two workers with a model that takes its time, and one of a user's own code that may crash its process."""
    home = tmp_path_factory.mktemp("code")
    source = home / "crashes"
    source.mkdir()
    (source / "model.py").write_text(CODE)
    (source / declared.FILE).write_bytes(strict_json.canonical(TENSORS))
    options = base.Options(example={"x": np.zeros((1, 4), np.float32)}, runtime="python")
    configuration = settings.load({"home": home / "home"})
    sdk.register(configuration, packaging.package(source, name="crashes", options=options))
    (coded,) = references.endpoints(configuration, ["crashes"])
    own = (home / "home" / "trusted" / "own.pub").read_text().strip()
    return start_server(packages.echo("slow", run_ms=4), coded, workers=WORKERS, trusted=(own,))


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Attacks:
    """What is done to a server, and how long it took until all of it served again."""

    def __init__(self, server: Any, workers: Callable[[Any], dict[int, Any]]) -> None:
        self._server, self._workers = server, workers
        self.killed = 0
        self.noticed_s = 0.0

    def _whole_again(self, victim: int, most_s: float) -> float:
        started = time.monotonic()
        self.noticed_s = 0.0
        while True:
            now = self._workers(self._server)
            if victim not in now and not self.noticed_s:
                self.noticed_s = time.monotonic() - started
            if victim not in now and len(now) == WORKERS:
                return time.monotonic() - started
            assert time.monotonic() - started < most_s, now
            time.sleep(0.02)

    def signal(self, number: int, most_s: float) -> float:
        """A worker gets a signal that it does not survive."""
        victim = min(self._workers(self._server))
        self.killed += 1
        models = _children(victim)
        assert models
        os.kill(victim, number)
        took = self._whole_again(victim, most_s)
        # Its models' own processes went with it.
        assert not any(_alive(pid) for pid in models)
        return took

    def model(self, first: float) -> float:
        """A request that the model does not survive: it is told so, and no worker notices."""
        before = self._workers(self._server).keys()
        url = f"{self._server.url}/v2/models/crashes/infer"
        started = time.monotonic()
        told = httpx.post(url, content=_body(first), timeout=20)
        # The process may have to wait for its start after the one before.
        assert told.status_code in (500, 503), told.text
        while httpx.post(url, content=_body(0), timeout=20).status_code != 200:
            assert time.monotonic() - started < 15
            time.sleep(0.05)
        assert self._workers(self._server).keys() == before
        return time.monotonic() - started


def _check_account(before: dict[str, int], after: dict[str, int], mix: Any, killed: int) -> Any:
    """Only what was in flight in a killed worker was broken off, and who was not answered is counted as failed."""
    ends = mix.stop()
    found = {outcome: count - before[outcome] for outcome, count in after.items()}
    lost = ends.total - ends.ok - ends.rejected
    assert ends.failed == ends.expired == 0, (mix.ends, mix.said)
    assert lost == ends.broken <= IN_FLIGHT * killed, (mix.ends, mix.said)
    return ends, found


@pytest.mark.promise("P-51")
def test_crashes_of_workers_and_models_are_contained(
    server: Any, asked: Callable[..., Any], settled: Callable[..., Any], workers: Callable[..., Any]
) -> None:
    attacks = Attacks(server, workers)
    before = settled(server)
    with asked(server.url, "slow") as mix:
        attacks.model(SEGFAULT)
        assert attacks.signal(signal.SIGSEGV, 20) < 10
        attacks.model(MEMORY)
        ends = mix.stop()
    _, found = _check_account(before, settled(server), mix, attacks.killed)
    # The server's own requests to the model that crashes are among its counts.
    assert found["ok"] >= ends.ok
    assert found["ok"] + found["failed"] <= ends.total + 60
    assert attacks.killed == 1


@pytest.mark.soak
@pytest.mark.promise("P-51")
@pytest.mark.timeout(3_600)
def test_a_crash_every_ten_seconds_for_ten_minutes(
    server: Any,
    asked: Callable[..., Any],
    settled: Callable[..., Any],
    workers: Callable[..., Any],
    record: Callable[[str, int], Any],
) -> None:
    kept = record("crashes", 60)
    attacks = Attacks(server, workers)
    kinds: list[tuple[str, Callable[[], float]]] = [
        ("kill", lambda: attacks.signal(signal.SIGKILL, 30)),
        ("segfault", lambda: attacks.signal(signal.SIGSEGV, 30)),
        ("model_segfault", lambda: attacks.model(SEGFAULT)),
        ("model_memory", lambda: attacks.model(MEMORY)),
    ]
    before = settled(server)
    slowest: dict[str, float] = {}
    target = load.http(f"{server.url}/v2/models/crashes/infer", _body(0))
    polite = load.Load(load.opened(target, rate=20)).start()
    with asked(server.url, "slow") as mix:
        while kept.left:
            started = time.monotonic()
            name, attack = kinds[kept.done % len(kinds)]
            took = attack()
            slowest[name] = max(slowest.get(name, 0.0), took)
            kept.add(1, **{f"{name}s": 1, f"{name}_s": took})
            time.sleep(max(0.0, 10 - (time.monotonic() - started)))
        beside = polite.stop().outcomes
        ends = mix.stop()
    after = settled(server)
    _, found = _check_account(before, after, mix, attacks.killed)
    figures = {"requests": ends.total, "broken": ends.broken, "rejected": ends.rejected, "beside_crashes": beside.total}
    figures |= {f"beside_{name}": getattr(beside, name) for name in ("ok", "rejected", "failed", "broken")}
    told = kept.finish(slowest_s=slowest, server_lost=found["failed"], **figures)
    assert slowest["kill"] < 2, told
    assert slowest["segfault"] < 2, told
    assert found["ok"] >= ends.ok + beside.ok


@pytest.mark.soak
@pytest.mark.promise("P-46")
@pytest.mark.timeout(3_600)
def test_workers_that_are_stopped_twenty_times(
    server: Any,
    asked: Callable[..., Any],
    settled: Callable[..., Any],
    workers: Callable[..., Any],
    record: Callable[[str, int], Any],
) -> None:
    kept = record("stopped", 20)
    attacks = Attacks(server, workers)
    slowest = noticed = 0.0
    attempts = httpx.Client(base_url=server.admin_url, timeout=20)
    with attempts, asked(server.url, "slow") as mix:
        while kept.left:
            took = attacks.signal(signal.SIGSTOP, 60)
            slowest, noticed = max(slowest, took), max(noticed, attacks.noticed_s)
            assert attempts.get("/health").status_code == 200
            kept.add(1, took_s=took)
            time.sleep(1)
        ends = mix.stop()
    figures = {"slowest_s": slowest, "noticed_s": noticed, "requests": ends.total}
    told = kept.finish(broken=ends.broken, failed=ends.failed, **figures)
    settled(server)
    assert noticed <= 5, told
    # And the start of the one that takes its place.
    assert slowest < 8, told
    assert ends.broken <= IN_FLIGHT * attacks.killed, told
    assert ends.failed == 0, told
