"""Graphs prepared and quantized: what is folded, what is named, what onnxruntime then runs on integers."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from windlass import errors
from windlass.optimization import calibration, graphs, pairs
from windlass.optimization import form as forms
from windlass.packaging import onnx_bytes
from windlass.types import signature

SQUARE = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch", 4, 8, 8)),), (signature.TensorSpec("y", "FP32", ("batch", 4, 8, 8)),)
)


def model(body: str, y: str = "batch, 4, 8, 8", **weights: Any) -> onnx.ModelProto:
    made = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 4, 8, 8] x) => (float[{y}] y) {{ {body} }}'
    )
    random = np.random.default_rng(5)
    for name, value in weights.items():
        array = random.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def form(made: onnx.ModelProto) -> forms.Form:
    return forms.Form(
        {name: bytes(data) for name, data in onnx_bytes.canonical({"model.onnx": made.SerializeToString()}).items()}
    )


def rows(count: int = 6) -> Any:
    return {"x": np.random.default_rng(2).standard_normal((count, 4, 8, 8)).astype(np.float32)}


def run(made: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(made.SerializeToString()).run(None, rows())[0]


def quantized(
    original: forms.Form, exclude: tuple[str, ...] = (), **settings: Any
) -> tuple[pairs.Plan, onnx.ModelProto]:
    prepared = graphs.prepared(original)
    plan = pairs.plan(prepared, exclude)
    ranges = calibration.ranges(prepared, plan.ranges, [rows()], "minmax", key=original.digest)
    return plan, pairs.quantize(prepared, plan, ranges, pairs.Settings(**settings))


RESIDUAL = """
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = BatchNormalization (a, scale, shift, mean, variance)  c = Relu (b)
  d = Conv (c, w2, b2)  e = Add (d, c)  f = Relu (e)
  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)  h = Conv (p, w3, b2)
  m = ReduceMean <keepdims = 1> (h, axes)  s = Reshape (m, shape)  y = Gemm (s, w4, b4)
"""
RESIDUAL_WEIGHTS = {
    "w1": (4, 4, 3, 3),
    "w2": (4, 4, 1, 1),
    "w3": (4, 4, 1, 1),
    "b2": (4,),
    "w4": (4, 3),
    "b4": (3,),
    "scale": (4,),
    "shift": (4,),
    "mean": (4,),
    "variance": np.full(4, 0.5, np.float32),
    "axes": np.array([2, 3]),
    "shape": np.array([0, 4]),
}


def residual() -> onnx.ModelProto:
    return model(RESIDUAL, "batch, 3", **RESIDUAL_WEIGHTS)


def test_a_prepared_graph_computes_the_same_without_normalization() -> None:
    original = residual()
    prepared = graphs.prepared(form(original))
    kinds = [node.op_type for node in prepared.graph.node]
    assert "BatchNormalization" not in kinds
    assert "GlobalAveragePool" in kinds
    assert "ReduceMean" not in kinds
    names = [node.name for node in prepared.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
    np.testing.assert_allclose(run(prepared), run(original), rtol=1e-4, atol=1e-5)
    assert graphs.prepared(form(original)) == prepared


def test_between_two_products_all_stays_on_integers() -> None:
    plan, made = quantized(form(residual()))
    assert len(plan.products) == 4
    assert {name.split("_")[0] for name in plan.riders} == {"Add", "MaxPool", "ReduceMean", "Reshape"}
    assert plan.left == ()
    onnx.checker.check_model(made)
    assert graphs.health(made).standalone == 0
    assert graphs.health(made).integer >= 6
    loaded = [node.op_type for node in graphs.optimized(made, "extended").graph.node]
    assert not {"Conv", "Gemm", "Relu", "Add", "DequantizeLinear"} & set(loaded)
    original = run(residual())
    assert np.abs(run(made) - original).max() < 0.1 * np.abs(original).max()


def test_a_smaller_plan_needs_no_other_ranges() -> None:
    prepared = graphs.prepared(form(residual()))
    whole = pairs.plan(prepared)
    for node in whole.nodes:
        assert set(pairs.plan(prepared, [node]).ranges) <= set(whole.ranges)
        assert set(pairs.plan(prepared, set(whole.nodes) - {node}).ranges) <= set(whole.ranges)
        assert node in {left.node for left in pairs.plan(prepared, [node]).left}


@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_convolution_that_is_the_answer_keeps_its_name(activations: str, per_channel: bool) -> None:
    original = model("a = Relu (x) y = Conv (a, w, b)", w=(4, 4, 1, 1), b=(4,))
    _, made = quantized(form(original), activations=activations, per_channel=per_channel)
    assert [value.name for value in made.graph.output] == ["y"]
    onnx.checker.check_model(made)
    loaded = [node.op_type for node in graphs.optimized(made, "extended").graph.node]
    assert "QLinearConv" in loaded
    expected = run(original)
    assert np.abs(run(made) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_that_32_bits_would_not_hold_coarsens_its_weights(per_channel: bool) -> None:
    small = np.random.default_rng(3).standard_normal((4, 4, 1, 1)).astype(np.float32) * np.float32(1e-7)
    original = model("y = Conv (x, w, b)", w=small, b=np.array([50.0, -60.0, 70.0, 80.0], np.float32))
    _, made = quantized(form(original), per_channel=per_channel)
    expected = run(original)
    assert np.abs(run(made) - expected).max() < 0.02 * np.abs(expected).max()


def test_an_inner_value_that_is_an_answer_too_stays_readable() -> None:
    made = model("a = Conv (x, w) b = Relu (a) c = Conv (b, w) y = Add (c, a)", w=(4, 4, 1, 1))
    made.graph.output.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ("batch", 4, 8, 8)))
    _, integer = quantized(form(made))
    onnx.checker.check_model(integer)
    assert [value.name for value in integer.graph.output] == ["y", "a"]
    expected = run(made)
    assert np.abs(run(integer) - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        ("y = Conv (x, s)", {}, "computed"),
        ("y = ConvTranspose (x, w)", {"w": (4, 4, 1, 1)}, "no integer kernel"),
        ("y = MatMul (x, w)", {"w": (4, 8, 8)}, "3 dimensions"),
        ("y = Conv (x, w, c)", {"w": (4, 4, 1, 1)}, "bias is computed"),
    ],
)
def test_what_cannot_be_quantized_is_left_with_the_reason(body: str, weights: Any, why: str) -> None:
    fixed = "c = ReduceMax <keepdims = 0> (x, axes) " if "c" in body.split("(")[1] else ""
    fixed += "s = Slice (x, from, to) " if "s)" in body else ""
    constants = {"axes": np.array([0, 2, 3]), "from": np.array([0, 0, 0, 0]), "to": np.array([4, 4, 1, 1])}
    prepared = graphs.prepared(form(model(fixed + body, **weights, **constants)))
    plan = pairs.plan(prepared)
    assert plan.nodes == ()
    assert [why in left.why for left in plan.left] == [True]


def test_a_form_that_breaks_the_rules_of_packages_is_not_made() -> None:
    original = form(model("y = Relu (x)"))
    burned = model("y = Relu (x)")
    for value in (*burned.graph.input, *burned.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(errors.Unsupported, match="burned"):
        graphs.made(original, burned, forms.Step("half"), expected=SQUARE)
    with pytest.raises(errors.Unsupported, match="refuses the graph"):
        graphs.optimized(model("y = Nonsense (x)"), "basic")


def test_weights_that_lie_beside_a_graph_are_read() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 4, 1, 1)).astype(np.float32)
    inside = model("y = Conv (x, w)", w=weight)
    beside = model("y = Conv (x, w)", w=weight)
    constant = beside.graph.initializer[0]
    data, constant.raw_data = constant.raw_data, b""
    constant.data_location = onnx.TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="model.onnx.data")
    apart = forms.Form({"model.onnx": beside.SerializeToString(), "model.onnx.data": data})
    assert numpy_helper.to_array(graphs.read(apart).graph.initializer[0]).tolist() == weight.tolist()
    assert graphs.prepared(apart).SerializeToString() == graphs.prepared(form(inside)).SerializeToString()


def test_what_is_too_large_or_no_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = form(model("y = Relu (x)"))
    assert graphs.refusal(original) == ""
    assert "runs in 'echo'" in graphs.refusal(msgspec.structs.replace(original, runtime="echo"))
    monkeypatch.setattr(graphs, "MAX_BYTES", 10)
    assert "cannot be rewritten" in graphs.refusal(original)
    with pytest.raises(errors.Unsupported, match="cannot be rewritten"):
        graphs.read(original)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Elu", "Tanh", "Sigmoid", "Softplus"])
def test_what_follows_a_product_does_not_make_it_compute_on_floats(activation: str) -> None:
    layers = f"s = Reshape (x, shape)  a = Gemm (s, w1, b1)  b = {activation} (a)  y = Gemm (b, w2, b2)"
    weights = {"w1": (256, 32), "w2": (32, 3), "b1": (32,), "b2": (3,), "shape": np.array([0, 256])}
    original = form(model(layers, "batch, 3", **weights))
    last = graphs.prepared(original).graph.node[-1].name
    plan, made = quantized(original, exclude=(last,))
    assert len(plan.products) == 1
    ran = graphs.optimized(made, "extended")
    # Its weights would be dequantized at each run.
    assert graphs.health(ran).integer == 1
    assert "FusedGemm" not in [node.op_type for node in ran.graph.node if node.name != last]
    expected = run(graphs.read(original))
    np.testing.assert_allclose(run(made), expected, rtol=0, atol=0.03 * np.abs(expected).max())
