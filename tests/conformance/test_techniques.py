"""Every technique of the catalogue against one suite: it refuses with a sentence, or makes what can be served."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from windlass import errors, plugins
from windlass.optimization import form as forms
from windlass.optimization import parameters
from windlass.optimization.techniques import base
from windlass.packaging import external_data, onnx_bytes, session
from windlass.packaging.capture import onnx_graph
from windlass.runtimes import base as runtimes
from windlass.types import signature, tensor

NAMES = tuple(plugins.catalog()["techniques"])
# What compiles for minutes, or is trained: they are applied once, with their defaults.
TRAINS = tuple(name for name in NAMES if plugins.load("techniques", name).trains)
PLAIN = tuple(name for name in NAMES if name not in TRAINS and name != "aoti")


class Case(NamedTuple):
    """A form as a package holds it, what it is called by, and rows for it."""

    form: forms.Form
    signature: signature.Signature
    rows: tensor.Tensors

    def materials(self, folder: Path) -> base.Materials:
        return base.Materials(self.signature, (self.rows,), folder)


class Graph:
    """Writes a small network by hand, as exporters write large ones."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(7)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, positive: bool = False) -> str:
        value = self._random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant((np.abs(value) + 0.5 if positive else value).astype(np.float32))

    def constant(self, value: Any) -> str:
        self._weights.append(numpy_helper.from_array(np.asarray(value), f"w{len(self._weights)}"))
        return self._weights[-1].name

    def __call__(self, operator: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any) -> str:
        names = [output or f"v{len(self._nodes)}", *(f"v{len(self._nodes)}_{i}" for i in range(1, outputs))]
        # Exporters leave nodes without names, and give two the same.
        self._nodes.append(helper.make_node(operator, list(inputs), names, name="", **attributes))
        return names[0]

    def case(self, name: str, rows: tensor.Array, answer: tuple[int | str, ...]) -> Case:
        datatype = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}[rows.dtype]
        kind = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}[datatype]
        shape = ("batch", *rows.shape[1:])
        graph = helper.make_graph(
            self._nodes,
            "g",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, answer)],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        files = onnx_bytes.canonical({"model.onnx": model.SerializeToString()})
        told = signature.Signature(
            (signature.TensorSpec(name, datatype, shape),), (signature.TensorSpec("y", "FP32", answer),)
        )
        return Case(forms.Form({at: bytes(data) for at, data in files.items()}), told, {name: rows})


def reals(*shape: int) -> tensor.Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def mlp() -> Case:
    g = Graph()
    hidden = g("Relu", g("Gemm", "x", g.weight(96, 80), g.weight(96), transB=1))
    hidden = g("Sigmoid", g("Add", g("MatMul", hidden, g.weight(96, 72)), g.weight(72)))
    g("Gemm", hidden, g.weight(72, 10), g.weight(10), output="y")
    return g.case("x", reals(24, 80), ("batch", 10))


def convolutions() -> Case:
    g = Graph()
    x = g("Conv", "x", g.weight(16, 3, 3, 3), pads=[1, 1, 1, 1])
    x = g("Relu", g("BatchNormalization", x, *(g.weight(16, positive=True) for _ in range(4))))
    depthwise = g("Conv", x, g.weight(16, 1, 3, 3), g.weight(16), pads=[1, 1, 1, 1], group=16)
    clipped = g("Clip", depthwise, g.constant(np.float32(0)), g.constant(np.float32(6)))
    x = g("Relu", g("Add", g("Conv", clipped, g.weight(16, 16, 1, 1), g.weight(16)), x))
    x = g("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g("Conv", g("Concat", x, g("Sigmoid", x), axis=1), g.weight(16, 32, 3, 3))
    x = g("ReduceMean", x, g.constant(np.array([-1, -2])), keepdims=1)
    x = g("Reshape", x, g.constant(np.array([0, 16])))
    g("Gemm", x, g.weight(16, 5), g.weight(5), output="y")
    return g.case("x", reals(8, 3, 12, 12), ("batch", 5))


def upward() -> Case:
    """A picture from a picture: the last convolution is what the model answers."""
    g = Graph()
    x = g("Relu", g("Conv", "x", g.weight(8, 2, 3, 3), g.weight(8), pads=[1, 1, 1, 1]))
    x = g("ConvTranspose", x, g.weight(8, 8, 2, 2), strides=[2, 2])
    g("Conv", x, g.weight(2, 8, 1, 1), output="y")
    return g.case("x", reals(4, 2, 6, 6), ("batch", 2, 12, 12))


def tokens() -> Case:
    """A table of words, attention of one head, two answers."""
    g = Graph()
    x = g("Gather", g.weight(1100, 64), "x")
    x = g("LayerNormalization", x, g.weight(64, positive=True), g.weight(64), axis=-1)
    query, key, value = (g("MatMul", x, g.weight(64, 64)) for _ in range(3))
    score = g("Softmax", g("MatMul", query, g("Transpose", key, perm=[0, 2, 1])), axis=-1)
    x = g("Add", x, g("MatMul", g("MatMul", score, value), g.weight(64, 64)))
    x = g("ReduceMean", g("Gelu", x), g.constant(np.array([1])), keepdims=0)
    g("Gemm", x, g.weight(64, 2), g.weight(2), output="y")
    return g.case("x", np.random.default_rng(3).integers(0, 1100, (8, 6)), ("batch", 2))


def recurrent() -> Case:
    g = Graph()
    x = g("Transpose", "x", perm=[1, 0, 2])
    x = g("LSTM", x, g.weight(1, 64, 16), g.weight(1, 64, 16), g.weight(1, 128), outputs=2, hidden_size=16)
    x = g("Squeeze", x, g.constant(np.array([1])))
    last = g("Gather", x, g.constant(np.array(-1)), axis=0)
    g("MatMul", last, g.weight(16, 3), output="y")
    return g.case("x", reals(8, 5, 16), ("batch", 3))


def sums() -> Case:
    """Nothing to optimize."""
    g = Graph()
    g("Add", "x", g.weight(4), output="y")
    return g.case("x", reals(8, 4), ("batch", 4))


CASES: dict[str, Callable[[], Case]] = {
    made.__name__: functools.cache(made) for made in (mlp, convolutions, upward, tokens, recurrent, sums)
}
# Cosine to the original's answers that defaults must reach on random weights, where it is less than 0.99.
LEAST = {"quantize_weights": 0.95, "low_rank": 0.5}


@pytest.fixture(scope="module")
def live(trainable: ModuleType) -> Case:
    """A form with its network behind it."""
    rows = trainable.lesson(8, 8).inputs
    return Case(trainable.form(trainable.network(), Path()), trainable.SIGNATURE, rows)


def technique(name: str) -> type[base.Technique]:
    found: type[base.Technique] = plugins.load("techniques", name)
    return found


def answers(form: forms.Form, rows: tensor.Tensors) -> tensor.Array:
    model = session.load_model(form.runtime, form.files, runtimes.Options())
    try:
        (found,) = model.run(rows).values()
    finally:
        model.unload()
    return found


def check(made: forms.Form, case: Case, name: str, **given: Any) -> None:
    """The rules of packages hold, it answers any number of rows, and its step says every parameter.

    A recipe then means the same when defaults change.
    """
    assert made.steps == (forms.Step(name, parameters.complete(technique(name), case.form, given)),)
    external_data.check(made.files)
    onnx_graph.check(made.files["model.onnx"], case.signature)
    assert made.runtime == "onnx"
    for count in (1, 3):
        some = {name: rows[:count] for name, rows in case.rows.items()}
        assert len(answers(made, some)) == count


def likeness(made: forms.Form, case: Case) -> float:
    ours, theirs = (answers(form, case.rows).ravel().astype(np.float64) for form in (made, case.form))
    return float(ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


@pytest.mark.parametrize("case_name", CASES)
@pytest.mark.parametrize("name", PLAIN)
def test_it_refuses_with_a_sentence_or_makes_what_can_be_served(name: str, case_name: str, tmp_path: Path) -> None:
    case, chosen = CASES[case_name](), technique(name)
    why, materials = chosen.refusal(case.form, case.materials(tmp_path)), case.materials(tmp_path)
    if why:
        assert why.endswith(".")
        with pytest.raises((errors.Unsupported, errors.UsageError)):
            chosen.apply(case.form, {}, materials)
        return
    before = dict(case.form.files)
    try:
        made = chosen.apply(case.form, {}, materials)
    except errors.Unsupported as e:
        # Only trying shows that there is nothing to gain.
        assert str(e).endswith(".")  # noqa: PT017
        return
    check(made, case, name)
    assert onnx_bytes.canonical(made.files) == made.files
    assert likeness(made, case) > LEAST.get(name, 0.99)
    assert case.form.files == before
    assert case.form.steps == ()
    assert made.digest != case.form.digest
    assert all(left.why for left in made.left)
    assert chosen.apply(case.form, {}, materials).files == made.files


@pytest.mark.parametrize("name", PLAIN)
def test_each_choice_of_each_dimension_can_be_made(name: str, tmp_path: Path) -> None:
    chosen, tried = technique(name), 0
    for make in CASES.values():
        case = make()
        materials = case.materials(tmp_path)
        if chosen.refusal(case.form, materials):
            continue
        for dimension in chosen.dimensions(case.form):
            for choice in dimension.choices[1:]:
                try:
                    made = chosen.apply(case.form, {dimension.name: choice}, materials)
                except (errors.Unsupported, errors.UsageError) as e:
                    assert str(e)  # noqa: PT017 - two choices may not go together
                    continue
                check(made, case, name, **{dimension.name: choice})
                assert likeness(made, case) > LEAST.get(name, 0.9)
                tried += 1
    assert tried


@pytest.mark.parametrize("name", NAMES)
def test_wrong_parameters_are_named(name: str, live: Case, trainable: ModuleType, tmp_path: Path) -> None:
    case, chosen = live, technique(name)
    known = [dimension for dimension in chosen.dimensions(case.form) if dimension.choices]
    materials = trainable.materials(tmp_path, student=trainable.network)
    with pytest.raises(errors.UsageError, match="no parameter"):
        chosen.apply(case.form, {"nonsense": 1}, materials)
    for dimension in known:
        with pytest.raises(errors.UsageError, match=f"Did you mean '{dimension.name}'"):
            chosen.apply(case.form, {f"{dimension.name}s": dimension.choices[0]}, materials)
        with pytest.raises(errors.UsageError, match="is one of"):
            chosen.apply(case.form, {dimension.name: "nonsense"}, materials)


@pytest.mark.parametrize("name", [name for name in PLAIN if hasattr(technique(name), "nodes")])
def test_nodes_can_be_left_out(name: str, tmp_path: Path) -> None:
    case, chosen = mlp(), technique(name)
    materials = case.materials(tmp_path)
    nodes = chosen.nodes(case.form)  # type: ignore[attr-defined]
    assert len(set(nodes)) == len(nodes) > 1
    whole = chosen.apply(case.form, {}, materials)
    without = chosen.apply(case.form, {"exclude": [nodes[0]]}, materials)
    assert nodes[0] in {left.node for left in without.left}
    assert without.size > whole.size
    alone = chosen.apply(case.form, {"exclude": list(nodes[1:])}, materials)
    check(alone, case, name, exclude=list(nodes[1:]))
    assert likeness(alone, case) > likeness(whole, case)
    with pytest.raises(errors.UsageError, match="Did you mean"):
        chosen.apply(case.form, {"exclude": [nodes[0] + "_"]}, materials)


@pytest.mark.parametrize("name", PLAIN)
def test_what_runs_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    case = mlp()
    elsewhere = msgspec.structs.replace(case.form, runtime="echo", files={"echo.json": b"{}"})
    assert technique(name).refusal(elsewhere, case.materials(tmp_path)).endswith(".")


@pytest.mark.parametrize("name", TRAINS)
def test_what_trains_gives_a_form_and_leaves_the_network(
    name: str, live: Case, trainable: ModuleType, tmp_path: Path
) -> None:
    case, chosen, net = live, technique(name), live.form.network
    materials = trainable.materials(
        tmp_path,
        lesson=trainable.lesson(128, 64),
        student=functools.partial(trainable.network, width=8),
    )
    without = msgspec.structs.replace(materials, lesson=None)
    assert chosen.refusal(case.form, without).endswith(".")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    made = chosen.apply(case.form, {}, materials)
    check(made, case, name)
    assert all(bool((net.state_dict()[key] == value).all()) for key, value in before.items())
