"""Models that carry code under several workers: a process each, that may die alone and leaves with its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from windlass import sdk, settings
from windlass.client import load
from windlass.packaging import package as packages
from windlass.packaging.capture import base
from windlass.runtimes import declared
from windlass.serving import launch
from windlass.types import signature, strict_json

X = np.array([[3, 1, 2, 0]], dtype=np.float32)
ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [3, 1, 2, 0]}]})
SORTS = "import numpy as np\nclass Model:\n    def predict(self, inputs):\n        return {'y': np.sort(inputs['x'])}\n"
SPECS = (signature.TensorSpec("x", "FP32", ("batch", 4)), signature.TensorSpec("y", "FP32", ("batch", 4)))
TENSORS = declared.Tensors(SPECS[:1], SPECS[1:], entry="model:Model")


def _sorter(folder: Path) -> tuple[Path, base.Options]:
    """A Python class as it is."""
    source = folder / "sorter"
    source.mkdir()
    (source / "model.py").write_text(SORTS)
    (source / declared.FILE).write_bytes(strict_json.canonical(TENSORS))
    return source, base.Options(example={"x": X}, runtime="python")


def _sorting_program(folder: Path) -> tuple[Path, base.Options]:
    """The same as a program of PyTorch's."""
    torch = pytest.importorskip("torch")

    class Sorts(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sort(x).values

    torch.jit.trace(Sorts().eval(), torch.from_numpy(X)).save(str(folder / "m.pt"))
    return folder / "m.pt", base.Options(example={"x": X}, runtime="torchscript")


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[launch.Server]:
    """Two workers with the model that a maker makes."""
    source, options = request.param(tmp_path)
    home = tmp_path / "home"
    sdk.register(settings.load({"home": home}), packages.package(source, name="sorter", options=options))
    with sdk.serve("sorter", home=home, workers=2, log=tmp_path / "log") as found:
        yield found


def _processes(server: launch.Server) -> dict[int, int]:
    """The models' processes, and how often each was started again, by the worker."""
    told = httpx.get(f"{server.admin_url}/status", timeout=10).json()["workers"]
    return {each["pid"]: each["restarts"] for one in told for each in one["processes"]}


def _until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come to pass"
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.promise("P-25")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "server", [_sorter, pytest.param(_sorting_program, marks=pytest.mark.soak)], indirect=True, ids=["python", "torch"]
)
def test_a_model_that_dies_fails_what_it_was_at_and_nothing_else(server: launch.Server) -> None:
    before = _processes(server)
    assert len(before) == 2
    assert 0 not in before
    asking = load.Load(load.closed(load.http(f"{server.url}/v2/models/sorter/infer", ROW), connections=4)).start()
    for pid in before:
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
    _until(lambda: len(set(_processes(server)) - {0, *before}) == 2)
    time.sleep(0.3)
    report = asking.stop()
    assert report.answered > 0
    # A death fails the one batch that was in that process, if any; no connection, and no worker, ends with it.
    assert report.outcomes.broken == 0
    assert report.lost <= 4 * len(before)
    assert set(_processes(server).values()) == {1}
    assert httpx.get(f"{server.admin_url}/status").json()["restarts"] == 0
    answer = httpx.post(f"{server.url}/v2/models/sorter/infer", content=ROW).json()
    assert answer["outputs"][0]["data"] == [0, 1, 2, 3]
    left = [*_processes(server), *(one["pid"] for one in httpx.get(f"{server.admin_url}/status").json()["workers"])]
    assert server.stop() == 0
    _until(lambda: all(map(_gone, left)), 5)
