"""optimization/parity.py and peers: what is tried is compared, what cannot be tried is skipped and never passed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from windlass import plugins
from windlass.optimization import findings, form, parity
from windlass.optimization.peers import base
from windlass.types import tensor

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(6, 4)).astype(np.float32)
X = {"x": RANDOM.normal(size=(8, 6)).astype(np.float32)}


def value(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, 1, ["batch", width])


def made(nodes: list[Any], weights: list[Any], domains: tuple[str, ...] = ()) -> form.Form:
    graph = helper.make_graph(nodes, "g", [value("x", 6)], [value("y", 4)], weights)
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return form.Form({"model.onnx": helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()})


def floats(**changes: Any) -> form.Form:
    weight = numpy_helper.from_array(WEIGHT, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    return msgspec.structs.replace(made(nodes, [weight]), **changes)


def integers() -> form.Form:
    """The same by QuantizeLinear and DequantizeLinear around the product."""
    scales = [numpy_helper.from_array(np.float32(scale), name) for name, scale in (("sx", 0.03), ("sw", 0.02))]
    zeros = [
        numpy_helper.from_array(np.uint8(128), "zx"),
        numpy_helper.from_array(np.int8(0), "zw"),
        numpy_helper.from_array(np.clip(np.round(WEIGHT / 0.02), -127, 127).astype(np.int8), "w"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
        helper.make_node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"]),
        helper.make_node("MatMul", ["dx", "dw"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    return msgspec.structs.replace(made(nodes, [*scales, *zeros]), precision="int8")


class Net(torch.nn.Module):
    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT + np.float32(off)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.weight)


def cells(found: tuple[findings.Parity, ...], role: str) -> dict[str, findings.Parity]:
    return {cell.runtime: cell for cell in found if cell.form == role}


def test_each_form_is_run_in_each_runtime_that_is_here() -> None:
    network = Net().train()
    found = parity.matrix(floats(network=network), integers(), X)
    original, chosen = cells(found, "original"), cells(found, "chosen")
    assert list(original) == list(chosen)
    told = {name: (original[name].verdict, chosen[name].verdict) for name in original}
    assert told == {
        "onnxruntime, none": ("passed", "passed"),
        "onnxruntime, basic": ("passed", "passed"),
        "onnxruntime, all": ("passed", "passed"),
        "torch": ("passed", "skipped"),
        "reference": ("passed", "passed"),
        "openvino": ("skipped", "skipped"),
    }
    for cell in found:
        assert (cell.worst is None) == (cell.verdict == "skipped")
        assert cell.words
    assert "the highest of 'y' is the same in 8 of 8 rows" in original["torch"].words
    assert original["openvino"].words == "it is not installed"
    assert network.training, "the user's network stays as it is"


def test_another_computation_fails() -> None:
    found = cells(parity.matrix(floats(network=Net(0.1)), None, X), "original")
    assert found["torch"].verdict == "failed"
    assert found["torch"].worst is not None
    assert found["torch"].worst > 0.01
    assert "chosen" not in {cell.form for cell in parity.matrix(floats(), None, X)}


def test_what_cannot_be_tried_says_why() -> None:
    fused = made([helper.make_node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")], [], ("com.microsoft",))
    weight = numpy_helper.from_array(RANDOM.normal(size=6).astype(np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")],
        "g",
        [value("x", 6)],
        [value("y", 6)],
        [weight],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    fused = msgspec.structs.replace(fused, files={"model.onnx": model}, network=torch.nn.ReLU(), precision="fp16")
    found = cells(parity.matrix(fused, None, X), "original")
    assert found["reference"].words == "it does not know BiasGelu, which are no operators of the standard"
    assert found["torch"].words == "the network is in fp32, this form in fp16"
    assert {found[name].verdict for name in ("reference", "torch")} == {"skipped"}


def test_a_peer_that_would_take_too_long_is_skipped() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 2.0
        return now[0]

    found = cells(parity.matrix(floats(), None, X, seconds=30.0, clock=clock), "original")
    assert found["reference"].verdict == "skipped"
    assert "it may take 200 s" in found["reference"].words


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Callable[[base.Run], findings.Parity]:
    """The cell of a peer that answers in its own way."""

    def cell(run: base.Run) -> findings.Parity:
        class Peer:
            name, pace = "peer", 1.0

            @classmethod
            def refusal(cls, form: form.Form) -> str:
                return ""

            @classmethod
            def open(cls, form: form.Form) -> base.Run:
                return run

        monkeypatch.setattr(plugins, "catalog", lambda: {"peers": {"peer": None}})
        monkeypatch.setattr(plugins, "load", lambda kind, name: Peer if kind == "peers" else onnx_runtime)
        return parity.matrix(floats(), None, X)[-1]

    onnx_runtime = plugins.load("runtimes", "onnx")
    return cell


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        ({}, "failed", "no 'y' of the same shape"),
        ({"y": np.zeros((8, 5), np.float32)}, "failed", "no 'y' of the same shape"),
        ({"y": np.full((8, 4), np.nan, np.float32)}, "failed", "the largest difference is inf"),
        ({"y": np.zeros((8, 4), np.float32)}, "failed", "the largest difference is 1 of the largest value"),
    ],
)
def test_wrong_answers_of_any_kind_fail(
    peer: Callable[[base.Run], findings.Parity], answer: tensor.Tensors, verdict: str, words: str
) -> None:
    cell = peer(lambda _: answer)
    assert (cell.runtime, cell.verdict) == ("peer", verdict)
    assert words in cell.words
    assert cell.worst is None or np.isfinite(cell.worst)


def test_a_peer_that_fails_is_skipped_with_its_first_line(peer: Callable[[base.Run], findings.Parity]) -> None:
    def run(_: tensor.Tensors) -> tensor.Tensors:
        raise RuntimeError("no such operator\nand a stack")

    cell = peer(run)
    assert (cell.verdict, cell.words) == ("skipped", "it fails on this form: no such operator")


def test_openvino_reads_the_graph_as_it_is_and_reports_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library: what it is told, and that its reporter cannot be imported."""
    asked: dict[str, Any] = {}

    class Port:
        def __init__(self, name: str) -> None:
            self.any_name = name

    class Compiled:
        inputs, outputs = [Port("x")], [Port("y")]

        def __call__(self, inputs: tensor.Tensors) -> Any:
            return {self.outputs[0]: inputs["x"] * 2}

    class Core:
        def read_model(self, data: bytes) -> bytes:
            return data

        def compile_model(self, model: bytes, device: str, settings: dict[str, Any]) -> Compiled:
            asked.update(model=model, device=device, settings=settings)
            return Compiled()

    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=Core))
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.delitem(sys.modules, "windlass.optimization.peers.openvino", raising=False)
    plugins.load.cache_clear()
    try:
        found = plugins.load("peers", "openvino")
        answers = found.open(floats())(X)
        assert sys.modules["openvino_telemetry"] is None
    finally:
        plugins.load.cache_clear()
        sys.modules.pop("openvino_telemetry", None)
        sys.modules.pop("windlass.optimization.peers.openvino", None)
    np.testing.assert_array_equal(answers["y"], X["x"] * 2)
    assert asked["model"] == floats().files["model.onnx"]
    assert asked["settings"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert found.refusal(floats(runtime="aoti")) == "it does not run the format of 'aoti'"
    assert found.refusal(floats(files={"model.onnx": b"", "w": b""})) != ""
