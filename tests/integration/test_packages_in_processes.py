"""Packages as other processes meet them: the same bytes elsewhere, little memory for a bomb, light imports, and
what onnxruntime itself would have opened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from windlass import errors
from windlass.packaging import archive, build, draft, external_data
from windlass.storage import blobs
from windlass.types import manifest, signature


def run(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BUILD = """
import hashlib, os, sys
from pathlib import Path
import numpy as np, onnx
from onnx import helper, numpy_helper
from windlass.packaging import archive, build, draft
from windlass.types import signature

if len(sys.argv) > 2:
    os.umask(0o077)
w = (np.arange(600, dtype=np.float32).reshape(20, 30) - 300) / 7
node = helper.make_node("Gemm", ["x", "w"], ["h"], doc_string=__file__ if "__file__" in globals() else os.getcwd())
node.metadata_props.add(key="at", value=os.getcwd())
graph = helper.make_graph(
    [node, helper.make_node("Softmax", ["h"], ["y"])], "g",
    [helper.make_tensor_value_info("x", 1, ["batch", 20])],
    [helper.make_tensor_value_info("y", 1, ["batch", 30])],
    [numpy_helper.from_array(w, "w")],
)
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name=os.getcwd())
for key, value in {"b": "1", "a": "2"}.items():
    made.metadata_props.add(key=key, value=value)
x = np.linspace(-1, 1, 100, dtype=np.float32).reshape(5, 20)
e = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
spec = signature.TensorSpec
source = draft.Draft(
    files={"model.onnx": made.SerializeToString()},
    signature=signature.Signature((spec("x", "FP32", ("batch", 20)),), (spec("y", "FP32", ("batch", 30)),)),
    trials=(draft.Trial("real", {"x": x}, {"y": e / e.sum(axis=1, keepdims=True)}),),
    framework="numpy",
    transforms=(draft.TransformDraft("classify", {"output": "y", "activation": "none"}),),
    labels=tuple(f"label {i}" for i in range(30)),
)
package = build.build(source, name="twice")
path = Path(sys.argv[1]) / "out.windlass"
archive.write_zip(package, path)
print(package.digest, hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.mark.promise("P-26")
def test_the_same_input_gives_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    """Another folder, locale, time zone, hash seed, umask and user: the same digest and the same file."""
    answers = set()
    for number, environment in enumerate(
        (
            {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
            {"PYTHONHASHSEED": "1", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONUTF8": "1"},
            {"PYTHONHASHSEED": "77", "LC_ALL": "de_DE.ISO-8859-1", "TZ": "America/St_Johns", "USER": "someone"},
        )
    ):
        folder = tmp_path / f"folder {number}"
        folder.mkdir()
        answers.add(run(BUILD, str(folder), *(["umask"] if number else []), cwd=folder, **environment))
    assert len(answers) == 1


FULL = """
import os, sys
from pathlib import Path
from windlass import errors
from windlass.storage import blobs

root = Path(sys.argv[1])
store = blobs.BlobStore(root / "store")
first = store.put(b"first" * 1000)
(root / "filler").write_bytes(bytes(150_000))
refused = 0
for size in range(20_000, 200_000, 9_000):
    try:
        store.put(os.urandom(size))
    except errors.StoreReadOnly:
        raise
    except errors.Unavailable as e:
        assert "disk of the blob store is full" in e.message, e.message
        refused += 1
        assert bytes(store.read(first)) == b"first" * 1000
        assert not list((root / "store" / "incoming").iterdir())
assert refused, "the disk was never full"
(root / "filler").unlink()
for digest in list(store.digests()):
    if digest != first.digest:
        store.delete(digest)
again = store.put(os.urandom(100_000))
assert not store.read_only and list(store.scrub()) == [] and store.exists(again.digest)
print(refused)
"""


@pytest.mark.promise("P-59")
def test_a_store_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 300 KB, in a mount namespace of its own."""
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = f'mount -t tmpfs -o size=300k tmpfs "{tmp_path}" && exec "$@"'
    if subprocess.run([*mount, f'mount -t tmpfs tmpfs "{tmp_path}"'], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace of their own")
    done = subprocess.run(
        [*mount, script, "sh", sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3


WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.promise("P-21")
@pytest.mark.threat("V8", "F4")
def test_a_bomb_costs_a_process_little_memory_and_time(tmp_path: Path) -> None:
    x, y = (signature.TensorSpec(name, "FP32", ("batch",)) for name in "xy")
    zeros = bytes(63 << 20)
    ref, golden = (manifest.BlobRef(blobs.digest_of(data), len(data)) for data in (zeros, b"g"))
    package = archive.in_memory(
        manifest.Manifest(
            name="bomb",
            kind="model",
            signature=signature.Signature((x,), (y,)),
            model=manifest.ModelSpec("echo", {"echo.json": ref}),
            golden=manifest.Golden(golden, golden, 0.0, 0.0),
        ),
        {ref.digest: zeros, golden.digest: b"g"},
    )
    with zipfile.ZipFile(tmp_path / "bomb.windlass", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in package.entries():
            file.writestr(name, bytes(data))
    assert (tmp_path / "bomb.windlass").stat().st_size < 100_000
    found = json.loads(
        run(
            """
import json, resource, sys, time
from pathlib import Path
from windlass import errors
from windlass.packaging import archive
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    package = archive.open_path(Path(sys.argv[1]))
    for _ in package.entries():
        pass
    refused = ""
except errors.CorruptPackage as e:
    refused = e.message
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([refused, grown, time.process_time() - started]))
""",
            str(tmp_path / "bomb.windlass"),
        )
    )
    refused, grown_kib, seconds = found
    assert "grows more than 200 times" in refused
    assert grown_kib < 64 * 1024
    assert seconds < 1


def test_what_a_worker_imports_holds_no_framework_and_no_database() -> None:
    code = "import json, sys; from windlass.packaging import session, verify; print(json.dumps(list(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(run(code))}
    assert not loaded & {"torch", "onnx", "sqlalchemy", "fsspec", "sklearn", "transformers", "click"}


def lay(root: Path, location: str, **entries: str) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4, 3], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, "length": "48", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["batch", 4])],
        [helper.make_tensor_value_info("y", 1, ["batch", 3])],
        [tensor],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (root / "in").mkdir()
    (root / "in" / "net.onnx").write_bytes(made.SerializeToString())
    (root / "secret").write_bytes(WEIGHT.tobytes())
    return root / "in" / "net.onnx"


def plain(root: Path) -> Path:
    path = lay(root, "w.bin")
    (path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    return path


def through(root: Path, make: Callable[[Path, Path], Any], location: str = "w.bin") -> Path:
    path = lay(root, location)
    make(path.parent / "w.bin", root / "secret")
    return path


CASES: dict[str, Callable[[Path], Path]] = {
    "plain": plain,
    "parent": lambda root: lay(root, "../secret"),
    "absolute": lambda root: lay(root, str(root / "secret")),
    "proc": lambda root: lay(root, "/proc/self/exe"),
    "symlink": lambda root: through(root, lambda at, secret: at.symlink_to(secret)),
    "parent-symlink": lambda root: through(
        root, lambda at, secret: (at.parent / "sub").symlink_to(secret.parent), "sub/secret"
    ),
    "hard-link": lambda root: through(root, lambda at, secret: at.hardlink_to(secret)),
    "huge-offset": lambda root: lay(root, "net.onnx", offset=str(2**62)),
    "itself": lambda root: lay(root, "net.onnx"),
    "folder": lambda root: through(root, lambda at, _: at.mkdir()),
    "missing": lambda root: lay(root, "w.bin"),
}


def onnxruntime_loads(path: Path) -> bool:
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime raises bare exceptions of several kinds
        return False
    return True


def we_load(path: Path) -> bool:
    try:
        external_data.read_files(path)
    except errors.CorruptPackage:
        return False
    return True


@pytest.mark.promise("P-22")
@pytest.mark.threat("F5", "F6")
@pytest.mark.parametrize("case", CASES)
def test_we_refuse_all_that_onnxruntime_refuses_and_more(tmp_path: Path, case: str) -> None:
    """onnxruntime opens hard links, and a model file as its own data; here only plain files of the package pass."""
    path = CASES[case](tmp_path)
    ours, theirs = we_load(path), onnxruntime_loads(path)
    assert ours == (case == "plain")
    assert theirs or not ours
    if case == "hard-link":
        assert theirs, "onnxruntime has learned to refuse hard links: say so in the documentation"


@pytest.mark.promise("P-28")
def test_a_package_with_large_weights_runs_from_a_mapped_file(tmp_path: Path) -> None:
    """More than 64 MB of weights: kept apart in the package, mapped from the file, run by onnxruntime."""
    rows = 4_200_000
    weight = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(4, rows)
    tensor = onnx.numpy_helper.from_array(weight, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ReduceMean", ["h"], ["y"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 4])],
        [helper.make_tensor_value_info("y", 1, [])],
        [tensor],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.array([[1, 2, 3, 4]], dtype=np.float32)
    spec = signature.TensorSpec
    source = draft.Draft(
        files={"model.onnx": made.SerializeToString()},
        signature=signature.Signature((spec("x", "FP32", (1, 4)),), (spec("y", "FP32", ()),)),
        trials=(draft.Trial("real", {"x": x}, {"y": np.array((x @ weight).mean(), dtype=np.float32)}),),
        framework="numpy",
    )
    archive.write_zip(build.build(source, name="large"), tmp_path / "large.windlass")
    found = json.loads(
        run(
            """
import json, sys
from pathlib import Path
import numpy as np
from windlass.packaging import archive, session
package = archive.open_path(Path(sys.argv[1]))
files = package.model_files()
loaded = session.open(package)
y = loaded.run({"x": np.array([[1, 2, 3, 4]], dtype=np.float32)})["y"]
print(json.dumps([type(files["model.onnx.data"]).__name__, len(files["model.onnx"]), float(y)]))
""",
            str(tmp_path / "large.windlass"),
        )
    )
    assert found[0] == "memoryview"
    assert found[1] < 10_000
    assert found[2] == pytest.approx(float((x @ weight).mean()), rel=1e-3)
