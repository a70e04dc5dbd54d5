"""Models that carry code: packaged as they are, signed, and run in a confined process that may die."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click import testing

from windlass import errors, references, sdk, settings
from windlass.cli import main
from windlass.packaging import contained
from windlass.packaging import package as packages
from windlass.packaging.capture import base
from windlass.runtimes import base as runtimes
from windlass.runtimes import declared
from windlass.security import signing
from windlass.serving.routing import loader
from windlass.types import signature, spec, strict_json

SPECS = (signature.TensorSpec("x", "FP32", ("batch", 4)),)
TENSORS = declared.Tensors(SPECS, (signature.TensorSpec("y", "FP32", ("batch", 4)),), entry="model:Model")
X = np.array([[3, 1, 2, 0]], dtype=np.float32)
SORTS = "import numpy as np\nclass Model:\n    def predict(self, inputs):\n        return {'y': np.sort(inputs['x'])}\n"
MISCHIEF = """
import os, socket, time
import numpy as np
class Model:
    def predict(self, inputs):
        x = inputs["x"]
        what = int(x[0, 0])
        if what == 1: os.kill(os.getpid(), 9)
        if what == 2: raise ValueError("no such luck: /etc/passwd")
        if what == 3: return {"y": x.astype("float64")}
        if what == 4: return {"z": x}
        if what == 5: socket.socket()
        if what == 6: open("/etc/hostname").read()
        if what == 7: os.fork()
        if what == 8:
            for fd in range(3, 20):
                try: os.ftruncate(fd, 0)
                except OSError: pass
        return {"y": x}
"""


def files(code: str) -> dict[str, bytes]:
    return {"model.py": code.encode(), declared.FILE: strict_json.canonical(TENSORS)}


@pytest.fixture(scope="module")
def mischief() -> Iterator[contained.Contained]:
    model = contained.load("python", files(MISCHIEF), runtimes.Options())
    yield model
    model.unload()


def asked(what: int) -> np.ndarray:
    return np.array([[what, 1, 2, 3]], dtype=np.float32)


@pytest.mark.promise("P-25")
class TestMischief:
    """A model may do what it likes to itself: the process that serves is not touched, and the next run is answered."""

    @pytest.mark.parametrize(
        ("what", "reason"),
        [
            (2, "no such luck"),
            (3, "FP64"),
            (4, "no array for 'y'"),
            (5, "not permitted"),
            (6, "Permission denied"),
            (7, "not permitted"),
        ],
    )
    def test_a_run_that_fails_says_why(self, mischief: contained.Contained, what: int, reason: str) -> None:
        with pytest.raises(errors.InternalError, match=reason):
            mischief.run({"x": asked(what)})
        np.testing.assert_array_equal(mischief.run({"x": asked(0)})["y"], asked(0))

    def test_a_dead_process_fails_its_run_and_is_started_again(self, mischief: contained.Contained) -> None:
        with pytest.raises(errors.InternalError, match="ended during the run"):
            mischief.run({"x": asked(1)})
        np.testing.assert_array_equal(mischief.run({"x": asked(0)})["y"], asked(0))

    def test_shared_memory_cannot_be_cut_off(self, mischief: contained.Contained) -> None:
        np.testing.assert_array_equal(mischief.run({"x": asked(8)})["y"], asked(8))


def test_a_process_that_keeps_dying_waits_for_its_next_start() -> None:
    now = [100.0]
    model = contained.Contained("python", files(MISCHIEF), runtimes.Options(), clock=lambda: now[0])
    try:
        for _ in range(2):
            with pytest.raises(errors.InternalError):
                model.run({"x": asked(1)})
        with pytest.raises(errors.Unavailable, match="started again"):
            model.run({"x": asked(0)})
        now[0] += 10
        np.testing.assert_array_equal(model.run({"x": asked(0)})["y"], asked(0))
    finally:
        model.unload()


def test_a_process_that_dies_while_nobody_asks_is_there_again_before_anybody_does() -> None:
    made: list[contained.Contained] = []
    # Whoever loads it may go; its process stays.
    loading = threading.Thread(target=lambda: made.append(contained.load("python", files(SORTS), runtimes.Options())))
    loading.start()
    loading.join()
    (model,) = made
    try:
        first = model.pid
        np.testing.assert_array_equal(model.run({"x": X})["y"], np.sort(X))
        assert model.pid == first
        os.kill(first, signal.SIGKILL)
        give_up = time.monotonic() + 20
        while model.pid in (0, first):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        np.testing.assert_array_equal(model.run({"x": X})["y"], np.sort(X))
        assert model.restarts == 1
    finally:
        model.unload()
    assert model.pid == 0


def test_unload_leaves_no_process_and_no_descriptor() -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    model = contained.load("python", files(SORTS), runtimes.Options())
    np.testing.assert_array_equal(model.run({"x": X})["y"], np.sort(X))
    model.unload()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_what_cannot_be_loaded_says_so() -> None:
    with pytest.raises(errors.CorruptPackage, match="cannot be made"):
        contained.load("python", files("raise RuntimeError('at import')"), runtimes.Options())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a Python class in it, packaged as it is."""
    folder = tmp_path_factory.mktemp("contained")
    source = folder / "sorter"
    source.mkdir()
    (source / "model.py").write_text(SORTS)
    (source / declared.FILE).write_bytes(strict_json.canonical(TENSORS))
    options = base.Options(example={"x": X}, runtime="python")
    with pytest.raises(errors.UsageError, match="runs only where you ask"):
        packages.package(source, name="sorter", options=msgspec.structs.replace(options, runtime="onnx"))
    made = packages.package(source, name="sorter", options=options)
    sdk.register(settings.load({"home": folder / "home"}), made)
    return folder / "home"


def arm_of(home: Path) -> spec.Endpoint:
    return references.endpoints(settings.load({"home": home}), ["sorter"])[0]


@pytest.mark.promise("P-66")
def test_only_what_a_listed_key_signed_is_loaded(home: Path, tmp_path: Path) -> None:
    endpoint = arm_of(home)
    own = (home / "trusted" / "own.pub").read_text().strip()
    loaded = loader.load(endpoint, str(tmp_path), (own,))
    try:
        assert (loaded.apart, loaded.inline) == (True, False)
        np.testing.assert_array_equal(loaded.session.run({"x": X})["y"], np.sort(X))
    finally:
        loaded.session.close()
    with pytest.raises(errors.NotAllowed, match="no listed key"):
        loader.load(endpoint, str(tmp_path), ("00" * 32,))
    bare = msgspec.structs.replace(endpoint, arms=(msgspec.structs.replace(endpoint.arms[0], signature=""),))
    with pytest.raises(errors.NotAllowed, match="not signed"):
        loader.load(bare, str(tmp_path), (own,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_runs_as_itself(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.jit.script(torch.nn.Linear(4, 3).eval())
    module.save(str(tmp_path / "m.pt"))
    made = packages.package(
        tmp_path / "m.pt", name="linear", options=base.Options(example={"input": X}, runtime="torchscript")
    )
    manifest = json.loads(bytes(next(data for name, data in made.package.entries() if name == "manifest.json")))
    assert manifest["model"]["runtime"] == "torchscript"
    assert [e.verdict for e in made.evidence] == ["passed", "passed"]


def run(home: Path, *arguments: str) -> testing.Result:
    """One command of the CLI."""
    return testing.CliRunner().invoke(main.cli, ["--home", str(home), *arguments])


def test_a_signature_goes_along_with_an_exported_package(home: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "sorter.windlass", tmp_path / "other"
    assert run(home, "models", "export", "sorter", str(file)).exit_code == 0
    assert run(other, "models", "import", str(file)).exit_code == 0
    endpoint = references.endpoints(settings.load({"home": other}), ["sorter"])[0]
    key = (home / "trusted" / "own.pub").read_text().strip()
    assert signing.check(endpoint.arms[0].signature, endpoint.arms[0].digest, (key,)) == key
    references.signature_file(file).unlink()
    unsigned = run(tmp_path / "third", "models", "import", str(file))
    assert unsigned.exit_code == 0
    assert "nobody signed it" in unsigned.stderr


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_compiled_program_runs_behind_the_walls(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (torch.rand(5, 4),), dynamic_shapes=({0: batch},))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    declares = {declared.FILE: strict_json.canonical(TENSORS)}
    compiled = {"model.pt2": (tmp_path / "model.pt2").read_bytes(), **declares}
    model = contained.load("aoti", compiled, runtimes.Options())
    try:
        ours, theirs = model.run({"x": X})["y"], module(torch.from_numpy(X)).detach().numpy()
    finally:
        model.unload()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
