"""The local server for the suite of targets, one for all of its tests, and the networks for the suite of techniques.

Must never hold what another suite needs.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from windlass import references, settings
from windlass.client import control
from windlass.packaging import build, draft
from windlass.registry import registry as registries
from windlass.serving import launch
from windlass.targets import local
from windlass.types import deployment, evidence, signature

BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}]}
NAMES = ("m", "other")
WITHIN_S = 10.0


def _push(registry: registries.Registry, number: int) -> deployment.Release:
    x = signature.TensorSpec("x", "FP32", ("batch", 4))
    y = msgspec.structs.replace(x, name="y")
    rows = np.ones((2, 4), np.float32)
    made = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": [x], "outputs": [y], "fail_above": 100.0 + number})},
        signature=signature.Signature((x,), (y,)),
        trials=(draft.Trial("ones", {"x": rows}, {"y": rows}),),
        framework="echo",
        runtime="echo",
        max_batch=8,
    )
    package = build.build(made, name="m")
    passed = (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)
    return deployment.Release(
        "m", registry.push(package, name="m", actor="ada", evidence=passed).version, package.digest
    )


class Server:
    """The target, and its server as callers and operators see it."""

    def __init__(self, home: Path) -> None:
        flags = {"home": home, "serve.port": 0, "serve.admin_port": 0}
        configuration = settings.load(flags, environ={})
        registry = references.open_registry(configuration)
        self._releases = tuple(_push(registry, number) for number in range(4))
        registry.close()
        # What was seen a moment ago is long past by the next look.
        later = itertools.count(time.time(), 60.0)
        template = msgspec.structs.replace(local.like_settings(configuration), workers=1)
        self.target = local.Local(configuration, template=template, clock=lambda: float(next(later)))
        (blob,) = (home / "blobs").rglob(self._releases[3].digest.removeprefix("sha256:"))
        blob.chmod(0o600)
        blob.write_bytes(b"{}")
        self._versions = itertools.count(1)
        self._home = home
        # It runs from now on.
        self.target.apply(deployment.Wanted("m", (deployment.Arm(self.releases()[0]),), salt="s"))
        self.clean()

    def releases(self) -> tuple[deployment.Release, ...]:
        """Three that can be run and one that cannot, under versions of their own: counts of others are not theirs."""
        return tuple(msgspec.structs.replace(one, version=next(self._versions)) for one in self._releases)

    def ask(self, name: str, requests: int) -> None:
        """So many requests, until they are counted and written down."""
        path = launch.find(self._home.absolute())
        assert path is not None
        talk = control.Control(path)
        try:
            url = talk.status()["addresses"]["listen"]
        finally:
            talk.close()
        before = self._seen(name)
        with httpx.Client(timeout=20) as client:
            for _ in range(requests):
                assert client.post(f"{url}/v2/models/{name}/infer", json=BODY).status_code == 200
        logged = requests if len(self.target.observe(name).shares) > 1 else 0
        deadline = time.monotonic() + WITHIN_S
        while (now := self._seen(name)) != (before[0] + requests, before[1] + logged):
            assert time.monotonic() < deadline, (before, now)
            time.sleep(0.05)

    def _seen(self, name: str) -> tuple[int, int]:
        segments = self.target.observe(name).segments
        counted = sum(counts.ok for one in segments for counts in one.counts.values())
        return counted, len(list(self.target.exposures(name, 0.0)))

    def clean(self) -> None:
        """For the next test: nothing runs."""
        for name in NAMES:
            self.target.remove(name)

    def close(self) -> None:
        launch.stop(self._home.absolute(), timeout_s=20.0)


@pytest.fixture(scope="module")
def _local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("local"))
    yield made
    made.close()


@pytest.fixture
def in_local(_local_server: Server) -> Iterator[tuple[Any, tuple[deployment.Release, ...], Callable[[str, int], None]]]:
    """The target, its releases, the last of which cannot be run, and how to ask."""
    yield _local_server.target, _local_server.releases(), _local_server.ask
    _local_server.clean()


@pytest.fixture(scope="session")
def trainable() -> ModuleType:
    """`trainable.py`: small networks with something to learn."""
    path = Path(__file__).with_name("trainable.py")
    made = importlib.util.spec_from_file_location("windlass_trainable", path)
    if made is None or made.loader is None:
        raise RuntimeError("the networks to train are not beside the tests")
    module = importlib.util.module_from_spec(made)
    sys.modules["windlass_trainable"] = module
    made.loader.exec_module(module)
    return module
