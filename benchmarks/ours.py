"""Windlass as it is measured: packages of the models, and a server with an API key, metrics and limits on.

Called by `bench.py`. Everything goes through the command line, as a user would do it; a serving spec carries the key.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

import models
import msgspec
import numpy as np
import servers

from windlass.security import keys
from windlass.types import spec

FOLDER = servers.ROOT / "build" / "benchmarks"
WINDLASS = [str(servers.ROOT / ".venv" / "bin" / "windlass"), "--home", str(FOLDER / "home")]
PEPPER = secrets.token_hex(32)


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


def server(model: models.Model, onnx: Path) -> servers.Server:
    """One worker that serves one model to whoever has the key."""
    path, digest = package(model, onnx)
    identity, secret = keys.generate()
    arm = spec.Arm(digest=digest, version="1", path=str(path))
    key = spec.Key(id=identity, hmac=keys.hmac_of(secret, bytes.fromhex(PEPPER)))

    def command(port: int) -> list[str]:
        wanted = spec.Spec(
            endpoints=(spec.Endpoint(name=model.name, arms=(arm,)),),
            listen=f"127.0.0.1:{port}",
            admin="127.0.0.1:0",
            keys=(key,),
            key_pepper=PEPPER,
        )
        file = FOLDER / f"{model.name}.spec.json"
        file.write_bytes(msgspec.json.encode(wanted))
        return [*WINDLASS, "--quiet", "serve", "--spec", str(file)]

    route = f"/v2/models/{model.name}/infer"
    return servers.Server("windlass", command, route, headers={"authorization": f"Bearer {secret}"})
