"""Windlass as it is measured: packages of the models, and a server with an API key, metrics and limits on.

Called by `bench.py` and the scenarios. Everything goes through the command line, as a user would do it; a serving
spec carries the key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import calls
import load
import models
import msgspec
import numpy as np
import onnxruntime
import servers

from windlass.client import control
from windlass.client import plan as plans
from windlass.security import keys
from windlass.serving import launch
from windlass.types import spec

FOLDER = servers.ROOT / "build" / "benchmarks"
WINDLASS = [str(servers.ROOT / ".venv" / "bin" / "windlass"), "--home", str(FOLDER / "home")]
PEPPER = secrets.token_hex(32)


@functools.cache
def package(model: models.Model, onnx: Path) -> tuple[Path, str]:
    """The package of a model's ONNX file, and its digest; made anew for every run."""
    path, example = FOLDER / f"{model.name}.windlass", FOLDER / f"{model.name}.npz"
    np.savez(example, **{name: np.repeat(value, 4, axis=0) for name, value in model.row().items()})
    path.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *WINDLASS,
            "--json",
            "--quiet",
            "package",
            str(onnx),
            f"--name={model.name}",
            f"--example={example}",
            f"--max-batch={model.max_batch}",
            f"--output={path}",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return path, json.loads(done.stdout)["digest"]


def server(
    model: models.Model,
    path: Path,
    digest: str,
    *,
    cores: tuple[int, ...] = (load.SERVER_CORE,),
    max_queue_s: float = 0.0,
) -> servers.Server:
    """One worker a core that serve one model to whoever has the key; `max_queue_s` as in a spec (0: the default)."""
    identity, secret = keys.generate()
    key = spec.Key(id=identity, hmac=keys.hmac_of(secret, bytes.fromhex(PEPPER)))

    served = msgspec.structs.replace(endpoint(model.name, path, digest), max_queue_ms=1_000 * max_queue_s)

    def command(port: int) -> list[str]:
        wanted = spec.Spec(
            endpoints=(served,),
            listen=f"127.0.0.1:{port}",
            admin="127.0.0.1:0",
            keys=(key,),
            key_pepper=PEPPER,
            workers=len(cores),
        )
        file = FOLDER / f"{model.name}.spec.json"
        file.write_bytes(msgspec.json.encode(wanted))
        return [*WINDLASS, "--quiet", "serve", "--spec", str(file)]

    route = f"/v2/models/{model.name}/infer"
    return servers.Server("windlass", command, route, headers={"authorization": f"Bearer {secret}"}, cores=cores)


def endpoint(name: str, path: Path, digest: str, version: str = "1") -> spec.Endpoint:
    """A name that one package answers."""
    return spec.Endpoint(name=name, arms=(spec.Arm(digest=digest, version=version, path=str(path)),))


def over_grpc(server: servers.Server) -> servers.Server:
    """The same server, asked over gRPC."""
    return dataclasses.replace(server, path=calls.PATH, ask=calls.ask)


@dataclass(frozen=True)
class Subject:
    """A model that Windlass serves, a request for it, and the right answer to it."""

    model: models.Model
    onnx: Path
    server: servers.Server
    request: load.Request
    expected: np.ndarray

    def running(self) -> contextlib.AbstractContextManager[servers.Running]:
        """The server, started afresh."""
        return servers.running(self.server, self.onnx, self.request, self.expected)

    def target(self, alive: servers.Running, request: load.Request | None = None) -> plans.Target:
        """The request, or another one, with the key."""
        return load.target(alive.url, (request or self.request).along(self.server.headers))


def subject(name: str, *, cores: tuple[int, ...] = (load.SERVER_CORE,), max_queue_s: float = 0.0) -> Subject:
    """A model packaged and served once, so that no round starts with one that is not known yet. Binary tensors."""
    model = models.MODELS[name]
    onnx = models.export(model, FOLDER / "models")
    request, expected = load.binary_request(model.row()), answer(onnx, model.row())
    own = server(model, *package(model, onnx), cores=cores, max_queue_s=max_queue_s)
    made = Subject(model, onnx, own, request, expected)
    with made.running():
        return made


def control_of(alive: servers.Running) -> control.Control:
    """The control socket of our server that listens there."""
    home = FOLDER / "home"
    return control.Control(next(one.control for one in launch.running(home) if f"//{one.listen}/" in alive.url))


def answer(onnx: Path, row: models.Arrays) -> np.ndarray:
    """What onnxruntime answers, flat."""
    return np.asarray(onnxruntime.InferenceSession(str(onnx)).run(None, row)[0]).ravel()
