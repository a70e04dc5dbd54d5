"""Updates under load: those that fail leave what serves; more workers, and fewer, lose nobody; what has no share is
loaded all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import orjson
import pytest

from windlass import errors
from windlass.client import control, load
from windlass.packaging import archive
from windlass.runtimes import declared
from windlass.security import signing
from windlass.storage import blobs
from windlass.types import manifest, signature, spec, strict_json, tensor_codec

ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})
SPECS = (signature.TensorSpec("x", "FP32", ("batch", 4)), signature.TensorSpec("y", "FP32", ("batch", 4)))
ONES = np.ones((2, 4), np.float32)
MODEL = """
class Model:
    def __init__(self):
        {}
    def predict(self, inputs):
        return {{'y': inputs['x']}}
"""
CRASH = "import ctypes; ctypes.string_at(0)"
HUNGRY = "self.memory = b'x' * (1 << 42)"


def _arm(folder: Path, kind: str, files: dict[str, bytes], runtime: str, key: Any = None, factor: int = 1) -> spec.Arm:
    parts = {**files, "inputs": tensor_codec.pack({"x": ONES}), "outputs": tensor_codec.pack({"y": factor * ONES})}
    refs = {name: manifest.BlobRef(blobs.digest_of(part), len(part)) for name, part in parts.items()}
    value = manifest.Manifest(
        name="m",
        kind="model",
        signature=signature.Signature(SPECS[:1], SPECS[1:]),
        model=manifest.ModelSpec(runtime=runtime, blobs={name: refs[name] for name in files}),
        golden=manifest.Golden(refs["inputs"], refs["outputs"], rtol=1e-3, atol=1e-5),
    )
    package = archive.in_memory(value, {ref.digest: parts[name] for name, ref in refs.items()})
    path = folder / f"{kind}.windlass"
    archive.write_zip(package, path)
    signed = signing.sign(key, "m", package.digest) if key is not None else ""
    return spec.Arm(package.digest, kind, str(path), signature=signed)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, tuple[spec.Arm, str]]]:
    """The public key that a server trusts; arms that cannot be loaded, and what is said of each."""
    folder = tmp_path_factory.mktemp("updates")
    key = signing.own_key(folder)
    echo = {"echo.json": msgspec.json.encode({"inputs": SPECS[:1], "outputs": SPECS[1:]})}

    def code(statement: str) -> dict[str, bytes]:
        tensors = declared.Tensors(SPECS[:1], SPECS[1:], entry="model:Model")
        return {"model.py": MODEL.format(statement).encode(), declared.FILE: strict_json.canonical(tensors)}

    corrupt = _arm(folder, "corrupt", echo, "echo")
    data = Path(corrupt.path).read_bytes()
    Path(corrupt.path).write_bytes(data[:-400] + bytes([data[-400] ^ 1]) + data[-399:])
    return signing.public(key), {
        "corrupt": (corrupt, ""),
        "unsigned": (_arm(folder, "unsigned", code("pass"), "python"), "not signed"),
        "golden": (_arm(folder, "golden", echo, "echo", factor=2), "golden"),
        "crash": (_arm(folder, "crash", code(CRASH), "python", key), ""),
        "memory": (_arm(folder, "memory", code(HUNGRY), "python", key), "emory"),
    }


@pytest.fixture
def operator() -> Iterator[Callable[[Any], control.Control]]:
    opened: list[control.Control] = []

    def connect(server: Any) -> control.Control:
        opened.append(control.Control(server.control))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def _asking(server: Any) -> load.Load:
    target = load.http(f"{server.url}/v2/models/m/infer", ROW)
    return load.Load(load.closed(target, connections=4, observe=True)).start()


def _with(talk: control.Control, arms: tuple[spec.Arm, ...], **more: Any) -> None:
    current = talk.current()
    endpoint = msgspec.structs.replace(current.endpoints[0], arms=arms)
    talk.apply(msgspec.structs.replace(current, generation=current.generation + 1, endpoints=(endpoint,), **more))


@pytest.mark.promise("P-39")
def test_an_update_that_fails_leaves_what_serves_and_says_why(
    start_server: Callable[..., Any],
    packages: Any,
    failing: tuple[str, dict[str, tuple[spec.Arm, str]]],
    operator: Callable[[Any], control.Control],
) -> None:
    trusted, updates = failing
    old = packages.echo("m", run_ms=5.0)
    server = start_server(old, workers=2, trusted=(trusted,))
    talk = operator(server)
    asking = _asking(server)
    for kind, (arm, words) in updates.items():
        candidate = msgspec.structs.replace(arm, share=0.0)
        with pytest.raises(errors.WindlassError):
            _with(talk, (old.arms[0], candidate))
        status = talk.status()
        assert (status["generation"], status["ready"], status["restarts"]) == (1, True, 0)
        (refused,) = status["refused"]["arms"]
        assert (refused["name"], refused["arm"], refused["digest"]) == ("m", kind, arm.digest)
        assert refused["reason"]
        assert words in refused["reason"]
        assert status["refused"]["reason"].startswith("generation 2 was refused: ")
    # What has no share is loaded and warm, and not asked; then it has all at once.
    new = packages.echo("m", "2", run_ms=5.001).arms[0]
    _with(talk, (old.arms[0], msgspec.structs.replace(new, share=0.0)))
    status = talk.status()
    assert {(one["version"], one["state"]) for one in status["models"]} == {("1", "READY"), ("2", "READY")}
    assert status["refused"] == {"reason": "", "arms": []}
    before = asking.stop()
    assert (before.lost, set(before.versions)) == (0, {"1"})
    asking = _asking(server)
    started = time.perf_counter()
    _with(talk, (msgspec.structs.replace(old.arms[0], share=0.0), new))
    took = time.perf_counter() - started
    told = {httpx.post(f"{server.url}/v2/models/m/infer", content=ROW).json()["model_version"] for _ in range(8)}
    after = asking.stop()
    assert (after.lost, told) == (0, {"2"})
    assert took < 2.0


@pytest.mark.promise("P-45")
def test_workers_come_and_go_under_load_and_nobody_is_lost(
    start_server: Callable[..., Any], packages: Any, operator: Callable[[Any], control.Control]
) -> None:
    old = packages.echo("m", run_ms=5.0)
    server = start_server(old, workers=1)
    talk = operator(server)
    asking = _asking(server)

    def states() -> list[str]:
        return [one["state"] for one in talk.status()["workers"]]

    for workers in (3, 1, 2):
        _with(talk, old.arms, workers=workers)
        for _ in range(600):
            if states() == ["serving"] * workers:
                break
            time.sleep(0.05)
        assert states() == ["serving"] * workers
        # Whoever comes now is answered by one of these.
        assert httpx.post(f"{server.url}/v2/models/m/infer", content=ROW).is_success
    report = asking.stop()
    assert report.lost == 0
    assert server.outcomes()["ok"] == report.answered + 3
    assert talk.status()["restarts"] == 0
