"""Rollouts on the server of this machine, while it is asked all the time: one that is taken over from a controller that
was killed, a release that cannot be loaded, a way back, and a server that had to be started again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from windlass import references, settings
from windlass.client import control, load
from windlass.packaging import archive, build, draft
from windlass.records import deployments as stored
from windlass.records import rollouts
from windlass.registry import registry as registries
from windlass.serving import launch
from windlass.storage import database
from windlass.targets import local
from windlass.types import deployment, evidence, signature

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}]}).encode()
CONTROLLER = """
import sys, threading
from pathlib import Path
from windlass import references, settings
from windlass.controller import loop
from windlass.storage import database
configuration = settings.load({"home": Path(sys.argv[1]), "serve.port": 0, "serve.admin_port": 0, "up.interval_s": 0.2})
rows = database.open_database(configuration.database_url)
loop.compose(configuration, rows, references.open_registry(configuration)).run(threading.Event())
"""


def _package(fail_above: float) -> archive.Package:
    """A model that answers `y` with `x`, [batch, 4], up to a number."""
    x = signature.TensorSpec("x", "FP32", ("batch", 4))
    y = msgspec.structs.replace(x, name="y")
    rows = np.ones((2, 4), np.float32)
    behaviour = {"inputs": [x], "outputs": [y], "fail_above": fail_above}
    made = draft.Draft(
        files={"echo.json": msgspec.json.encode(behaviour)},
        signature=signature.Signature((x,), (y,)),
        trials=(draft.Trial("ones", {"x": rows}, {"y": rows}),),
        framework="echo",
        runtime="echo",
        max_batch=64,
    )
    return build.build(made, name="m")


class Home:
    """A home with a registry, and controllers on it."""

    def __init__(self, folder: Path) -> None:
        flags = {"home": folder, "serve.port": 0, "serve.admin_port": 0, "up.interval_s": 0.2}
        self.configuration = settings.load(flags, environ={})
        self.rows = database.open_database(self.configuration.database_url)
        self.registry: registries.Registry = references.open_registry(self.configuration)
        self._children: list[subprocess.Popen[bytes]] = []

    def release(self, fail_above: float) -> deployment.Release:
        package = _package(fail_above)
        passed = (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)
        pushed = self.registry.push(package, name="m", actor="ada", evidence=passed)
        return deployment.Release("m", pushed.version, package.digest)

    def wish(self, release: deployment.Release, strategy: deployment.Strategy | None = None) -> None:
        desired = deployment.Desired("m", release, strategy or deployment.Strategy())
        with self.rows.write() as connection:
            stored.put(connection, desired, expected=None, actor="ada", now=time.time())

    def status(self) -> deployment.Status:
        with self.rows.read() as connection:
            found = stored.get(connection, "m")
        assert found is not None
        return found.status if found.status.generation == found.generation else deployment.Status()

    def rollouts(self) -> tuple[rollouts.Rollout, ...]:
        with self.rows.read() as connection:
            return rollouts.of(connection, "m")

    def until(self, what: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"{self.status()} {self.rollouts()[:1]}"
            time.sleep(0.02)

    def until_live(self, release: deployment.Release) -> None:
        self.until(lambda: self.status().live == release and self.status().phase in ("LIVE", "FAILED"))

    def start(self) -> subprocess.Popen[bytes]:
        """A controller in a process of its own."""
        line = [sys.executable, "-c", CONTROLLER, str(self.configuration.home)]
        self._children.append(subprocess.Popen(line, start_new_session=True))
        return self._children[-1]

    def observed(self) -> deployment.Observed:
        return local.Local(self.configuration).observe("m")

    def url(self) -> str:
        path = launch.find(self.configuration.home)
        assert path is not None
        talk = control.Control(path)
        found: str = talk.status()["addresses"]["listen"]
        talk.close()
        return f"{found}/v2/models/m/infer"

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        launch.stop(self.configuration.home)
        self.registry.close()
        self.rows.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.close()


def _asked(home: Home) -> load.Load:
    return load.Load(load.opened(load.http(home.url(), BODY), rate=100)).start()


def _all_answered(asking: load.Load) -> None:
    report = asking.stop()
    assert report.lost == 0
    assert set(report.statuses) == {200}
    assert report.answered > 20


def test_a_killed_controllers_rollout_is_ended_by_the_next_and_nobody_notices(home: Home) -> None:
    first, second, broken = home.release(10.0), home.release(20.0), home.release(30.0)
    child = home.start()
    home.wish(first)
    home.until_live(first)
    asking = _asked(home)
    home.wish(second, deployment.Strategy("rolling", {"batch": 50.0, "batch_s": 0.5}))
    home.until(lambda: home.status().phase == "RUNNING")
    child.kill()
    child.wait()
    home.start()
    home.until_live(second)
    assert [one.outcome for one in home.rollouts()] == ["new", "new"]
    # A release whose bytes are others cannot be loaded; what serves goes on.
    (blob,) = (home.configuration.home / "blobs").rglob(broken.digest.removeprefix("sha256:"))
    blob.chmod(0o600)
    blob.write_bytes(b"{}")
    home.wish(broken)
    home.until(lambda: home.rollouts()[0].new == broken)
    home.until(lambda: bool(home.rollouts()[0].outcome))
    assert home.rollouts()[0].outcome == "old"
    assert home.status().live == second
    # And back again, all of it.
    began = time.monotonic()
    home.wish(first)
    home.until_live(first)
    took = time.monotonic() - began
    _all_answered(asking)
    assert took < 20, f"the way back took {took:.1f} s"
    # The server is gone: it is started again, and serves what was live.
    launch.stop(home.configuration.home)
    home.until(lambda: launch.find(home.configuration.home) is not None)
    home.until(lambda: bool(home.observed().shares))
    asking = _asked(home)
    time.sleep(0.5)
    _all_answered(asking)
