"""Views, heads and a directory for the protocols' unit tests: no server, no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.protocols import base, plain
from windlass.types import contract, directory, fields, inference, manifest, signature, tensor

Spec = tuple[str, str, tuple[int | str, ...]]


class Bare:
    """No transforms: tensors in, tensors out."""

    fields: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    inline_bytes = 1 << 62

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        return columns

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        return outputs


def build_view(
    inputs: tuple[Spec, ...] = (("x", "FP32", ("batch", 30)),),
    outputs: tuple[Spec, ...] = (("y", "FP32", ("batch", 2)),),
    *,
    name: str = "mlp",
    labels: tuple[str, ...] = (),
    transformer: fields.Transformer | None = None,
    limits: manifest.Limits | None = None,
    infer: inference.Infer = lambda call: None,
) -> directory.ModelView:
    declared = signature.Signature(
        tuple(signature.TensorSpec(*spec) for spec in inputs), tuple(signature.TensorSpec(*spec) for spec in outputs)
    )
    known = limits or manifest.Limits(max_elements=1_000_000)
    return directory.ModelView(
        name=name,
        version="1",
        versions=("1",),
        platform="onnxruntime_onnx",
        signature=declared,
        contract=contract.Contract(declared, max_rows=known.max_batch, max_elements=known.max_elements),
        limits=known,
        transformer=transformer or Bare(),
        labels=labels,
        infer=infer,
        lease=directory.Lease(),
    )


class Models:
    """A `ModelDirectory` with the given views."""

    def __init__(self, *views: directory.ModelView) -> None:
        self.views = {view.name: view for view in views}
        self.is_live = True
        self.is_ready = True
        self.loading: set[str] = set()
        self.load_error: errors.WindlassError | None = None
        self.loads: list[tuple[str, str]] = []

    def find(self, name: str, version: str = "") -> directory.ModelView:
        if name in self.loading:
            raise errors.Unavailable(f"the model '{name}' is loading")
        if name not in self.views or version not in ("", self.views[name].version):
            raise errors.NotFound(f"Request for unknown model: '{name}' is not found")
        return self.views[name]

    def states(self) -> tuple[directory.ModelState, ...]:
        ready = [directory.ModelState(v.name, v.version, "READY") for v in self.views.values()]
        return (*ready, directory.ModelState("sleeper", "2", "UNAVAILABLE", "not loaded"))

    def live(self) -> bool:
        return self.is_live

    def ready(self) -> bool:
        return self.is_ready

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:
        return tuple(
            directory.ModelStatistics(v.name, v.version, 10, 4, 8, 800, 1, 50, 200, 400, {1: (2, 100), 4: (2, 300)}, 7)
            for v in self.views.values()
            if name in ("", v.name)
        )

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        return {"placement": "inline", "max_queue": 100}

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        self.loads.append(("load", name))
        done(self.load_error)

    def unload(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        self.loads.append(("unload", name))
        done(self.load_error)


def build_head(path: str = "/", method: str = "POST", **headers: str) -> base.Head:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return base.Head(method, path, "", {b"host": b"localhost:8000", **named})


def answer_rows(request: inference.InferRequest, view: directory.ModelView) -> inference.InferResponse:
    """A response of the right shapes: row i of each output holds i, i + 1, ..."""
    outputs: tensor.Tensors = {}
    for spec in view.signature.outputs:
        shape = tuple(size if isinstance(size, int) else request.rows for size in spec.shape)
        values = np.arange(int(np.prod(shape)))
        if spec.datatype == "BYTES":
            outputs[spec.name] = np.array([b"t%d" % v for v in values], dtype=object).reshape(shape)
        else:
            outputs[spec.name] = values.astype(tensor.dtype(spec.datatype)).reshape(shape)
    return inference.InferResponse(outputs, "1")


@pytest.fixture
def make_view() -> Callable[..., directory.ModelView]:
    return build_view


@pytest.fixture
def make_head() -> Callable[..., base.Head]:
    return build_head


@pytest.fixture
def make_models() -> type[Models]:
    return Models


@pytest.fixture
def respond() -> Callable[[inference.InferRequest, directory.ModelView], inference.InferResponse]:
    return answer_rows


@pytest.fixture
def get_page() -> Callable[..., tuple[int | None, Any]]:
    """The status and the document that the plain protocol answers to a GET of one of its routes."""

    def get(head: base.Head, path: str, models: Any, **parameters: str) -> tuple[int | None, Any]:
        table = {route.path: route.action for route in plain.Plain().routes() if route.method == "GET"}
        action = table[path]
        assert isinstance(action, base.QueryRoute)
        found = action.answer(head, parameters, b"", models)
        assert isinstance(found, base.Answer)
        return found.status, json.loads(found.body)

    return get
