"""Windlass as it is measured: packages of the models, and a server with an API key, metrics and limits on.

Called by `bench.py`. Everything goes through the command line, as a user would do it, but for the key, which is written
into the serving spec here.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import models
import msgspec
import numpy as np
import servers

from windlass.packaging import archive, build
from windlass.packaging.capture import base, onnx_file
from windlass.security import keys
from windlass.types import spec

FOLDER = servers.ROOT / "build" / "benchmarks"
PEPPER = secrets.token_hex(32)


def package(model: models.Model, onnx: Path) -> tuple[Path, str]:
    """The package of a model's ONNX file, and its digest."""
    path = FOLDER / "packages" / f"{model.name}-{hashlib.sha256(onnx.read_bytes()).hexdigest()[:16]}.wl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        example = {name: np.repeat(value, 4, axis=0) for name, value in model.row().items()}
        draft = onnx_file.OnnxFile.capture(onnx, base.Options(example=example, max_batch=model.max_batch))
        archive.write_zip(build.build(draft, name=model.name), path)
    return path, archive.open_path(path).digest


def server(model: models.Model, onnx: Path) -> servers.Server:
    """One worker that serves one model to whoever has the key."""
    path, digest = package(model, onnx)
    identity, secret = keys.generate()
    arm = spec.Arm(digest=digest, version="1", path=str(path))
    key = spec.Key(id=identity, hmac=keys.hmac_of(secret, bytes.fromhex(PEPPER)))
    verdicts = FOLDER / "verdicts"
    verdicts.mkdir(exist_ok=True)

    def command(port: int) -> list[str]:
        wanted = spec.Spec(
            endpoints=(spec.Endpoint(name=model.name, arms=(arm,)),),
            listen=f"127.0.0.1:{port}",
            admin="127.0.0.1:0",
            verdicts=str(verdicts),
            keys=(key,),
            key_pepper=PEPPER,
        )
        file = FOLDER / f"spec-{model.name}.json"
        file.write_bytes(msgspec.json.encode(wanted))
        return [str(servers.ROOT / ".venv/bin/python"), "-m", "windlass.serving.worker", "--spec", str(file)]

    return servers.Server(
        "windlass",
        command,
        f"/v2/models/{model.name}/infer",
        headers={"authorization": f"Bearer {secret}"},
    )
