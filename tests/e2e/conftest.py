"""Packages that are made in a moment, servers in processes of their own, and a client that sends any bytes.

Used by the tests of the running server. Every server is stopped by its own process id.
"""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from prometheus_client import parser

from windlass.client import machine
from windlass.packaging import archive, build, draft
from windlass.serving import launch
from windlass.types import manifest, signature, spec

WIDTH = 4
SOAK = Path(__file__).parents[2] / "build" / "soak"


def _echo(**behaviour: Any) -> draft.Draft:
    x = signature.TensorSpec("x", "FP32", ("batch", WIDTH))
    y = msgspec.structs.replace(x, name="y")
    rows = np.ones((2, WIDTH), np.float32)
    return draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": [x], "outputs": [y], **behaviour})},
        signature=signature.Signature((x,), (y,)),
        trials=(draft.Trial("ones", {"x": rows}, {"y": rows}),),
        framework="echo",
        runtime="echo",
        max_batch=64,
    )


def _mlp(seed: int) -> draft.Draft:
    """Three layers, 30 to 2, with weights from a seed."""
    random = np.random.default_rng(seed)
    sizes = (30, 64, 32, 2)
    nodes, weights = [], []
    previous = "x"
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        for name, array in (
            (f"w{i}", random.normal(size=(a, b)).astype(np.float32)),
            (f"b{i}", random.normal(size=b).astype(np.float32)),
        ):
            weights.append(helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True))
        last = i == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [previous, f"w{i}", f"b{i}"], ["y" if last else f"g{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [f"h{i}"]))
        previous = f"h{i}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    rows = random.normal(size=(8, 30)).astype(np.float32)
    answers = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]
    return draft.Draft(
        files={"model.onnx": model},
        signature=signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", 30)),), (signature.TensorSpec("y", "FP32", ("batch", 2)),)
        ),
        trials=(draft.Trial("rows", {"x": rows}, {"y": answers}),),
        framework="onnx",
        max_batch=32,
    )


class Packages:
    """Makes endpoints out of packages in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def echo(self, name: str, version: str = "1", max_body: int = 0, **behaviour: Any) -> spec.Endpoint:
        """An endpoint that answers `y` with `x`, [batch, 4]; see `runtimes.echo` for its behaviours."""
        return self._endpoint(name, version, _echo(**behaviour), max_body)

    def mlp(self, name: str, version: str = "1", seed: int = 0) -> spec.Endpoint:
        """An endpoint that takes `x`, [batch, 30], and gives `y`, [batch, 2]."""
        return self._endpoint(name, version, _mlp(seed), 0)

    def _endpoint(self, name: str, version: str, drafted: draft.Draft, max_body: int) -> spec.Endpoint:
        limits = manifest.Limits(max_batch=drafted.max_batch, max_body=max_body) if max_body else None
        package = build.build(drafted, name=name, limits=limits)
        path = self.folder / f"{name}-{version}-{package.digest[-8:]}.windlass"
        if not path.exists():
            archive.write_zip(package, path)
        return spec.Endpoint(name, (spec.Arm(package.digest, version, str(path)),), threads=1)


class Running:
    """A running server, and what tests ask of it."""

    def __init__(self, server: launch.Server, wanted: spec.Spec) -> None:
        self.server = server
        self.wanted = wanted
        self.url, self.admin_url, self.pid, self.control = server.url, server.admin_url, server.pid, server.control
        (self.worker, *_) = self.workers()
        self.port = int(server.url.rpartition(":")[2])

    def connect(self, timeout_s: float = 20.0) -> socket.socket:
        """A plain connection to the port that callers use."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def send(self, data: bytes, timeout_s: float = 20.0) -> bytes:
        """All that is answered to these bytes until the server closes."""
        with self.connect(timeout_s) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            return self.read(connection)

    @staticmethod
    def read(connection: socket.socket) -> bytes:
        """All that comes until the other side closes."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                found += part
        return found

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample: its name and label values, sorted by label, to its number."""
        text = httpx.get(f"{self.admin_url}/metrics").text
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }

    def outcomes(self) -> dict[str, int]:
        """Requests that reached an endpoint, by outcome, and in `refused` all that were refused before or behind."""
        found = dict.fromkeys(("ok", "failed", "expired", "cancelled", "rejected", "refused"), 0)
        text = httpx.get(f"{self.admin_url}/metrics").text
        for family in parser.text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "windlass_requests_total":
                    found[sample.labels["outcome"]] += int(sample.value)
                elif sample.name == "windlass_rejected_total":
                    found["refused"] += int(sample.value)
        return found

    def workers(self) -> list[int]:
        """The processes that answer."""
        return [one["pid"] for one in httpx.get(f"{self.admin_url}/status").json()["workers"]]

    def rss(self) -> int:
        """Resident bytes of the first worker."""
        lines = Path(f"/proc/{self.worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    def descriptors(self) -> int:
        """Open file descriptors of the first worker."""
        return len(list(Path(f"/proc/{self.worker}/fd").iterdir()))

    def threads(self) -> int:
        """Threads of the first worker."""
        return len(list(Path(f"/proc/{self.worker}/task").iterdir()))

    def alive(self) -> bool:
        """Whether the first worker and the supervisor run."""
        return all(Path(f"/proc/{pid}/stat").exists() for pid in (self.pid, self.worker))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Makes packages."""
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Starts a server on free ports for a spec's fields; all are stopped when the module is done."""
    with contextlib.ExitStack() as stack:

        def start(*endpoints: spec.Endpoint, **settings: Any) -> Running:
            home = tmp_path_factory.mktemp("home")
            settings = {"workers": 1, **settings}
            wanted = spec.Spec(endpoints=endpoints, listen="127.0.0.1:0", admin="127.0.0.1:0", **settings)
            server = stack.enter_context(launch.Server(wanted, home, log=home / "log"))
            return Running(server, wanted)

        yield start


class Record:
    """How far a long drill has come, and what came of each time that it was done: `build/soak/<name>.json`.

    A drill that was broken off goes on from there. `figures` add up over its parts.
    """

    def __init__(self, name: str, total: int) -> None:
        self._path = SOAK / f"{name}.json"
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.done: int = found.get("done", 0)
        self.figures = collections.Counter(found.get("figures", {}))
        self._results = found.get("results", [])
        self._total = total

    @property
    def left(self) -> int:
        """What is still to do."""
        return max(0, self._total - self.done)

    def add(self, done: int, **figures: float) -> None:
        """A part is done."""
        self.done += done
        self.figures.update(figures)
        self._write()

    def finish(self, **figures: Any) -> dict[str, Any]:
        """All is done: the figures of all parts, and these, are kept with the machine and the date."""
        found = {**self.figures, **figures}
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._results.append({"date": date, "done": self.done, "figures": found, "machine": machine.facts()})
        self.done = 0
        self.figures.clear()
        self._write()
        return found

    def _write(self) -> None:
        SOAK.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(
            json.dumps({"done": self.done, "figures": dict(self.figures), "results": self._results}, indent=1)
        )
        fresh.replace(self._path)


@pytest.fixture
def record() -> Callable[[str, int], Record]:
    """Opens the record of a long drill by its name, with the number of its parts."""
    return Record
