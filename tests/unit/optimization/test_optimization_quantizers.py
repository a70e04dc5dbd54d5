"""What each technique on the graph does beyond the suite of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import graphs, parameters
from windlass.optimization.techniques import base, half, quantize_dynamic, quantize_static, quantize_weights
from windlass.packaging import onnx_bytes
from windlass.types import signature

TOLD = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch", 64)),), (signature.TensorSpec("y", "FP32", ("batch", 64)),)
)
ROWS = {"x": np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)}
MATERIALS = base.Materials(TOLD, (ROWS,), Path())


def form(body: str, opset: int = 20, **weights: Any) -> forms.Form:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[batch, 64] x) => (float[batch, 64] y) {{ {body} }}'
    made = parser.parse_model(text)
    random = np.random.default_rng(2)
    for name, value in weights.items():
        array = random.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return forms.Form({n: bytes(d) for n, d in onnx_bytes.canonical({"model.onnx": made.SerializeToString()}).items()})


def test_one_input_of_several_products_is_quantized_once_in_a_run() -> None:
    original = form("a = MatMul (x, v) b = MatMul (x, w) y = Add (a, b)", v=(64, 64), w=(64, 64))
    made = graphs.read(quantize_dynamic.DynamicQuantization.apply(original, {}, MATERIALS))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 1
    # Their sum is no bias, though onnxruntime would fold it into a Gemm.
    assert kinds.count("MatMulInteger") == 2
    loaded = [graphs.kind(node) for node in graphs.optimized(made, "extended").graph.node]
    assert loaded.count("com.microsoft.MatMulIntegerToFloat") == 2


def test_convolutions_are_left_by_what_has_no_kernel_for_them() -> None:
    body = "a = Reshape (x, there) c = Conv (a, k) d = Reshape (c, back) y = MatMul (d, w)"
    more = {"there": np.array([0, 1, 8, 8]), "back": np.array([0, 64])}
    original = form(body, k=(1, 1, 1, 1), w=(64, 64), **more)
    for technique in (quantize_dynamic.DynamicQuantization, quantize_weights.WeightQuantization):
        made = technique.apply(original, {}, MATERIALS)
        assert [left.operator for left in made.left] == ["Conv"]


def test_what_is_quantized_already_or_too_old_is_refused() -> None:
    original = form("y = MatMul (x, w)", w=(64, 64))
    for technique in (
        quantize_static.StaticQuantization,
        quantize_dynamic.DynamicQuantization,
        quantize_weights.WeightQuantization,
    ):
        made = technique.apply(original, {}, MATERIALS)
        assert "already" in quantize_static.StaticQuantization.refusal(made, MATERIALS)
        assert "opset 12" in technique.refusal(form("y = MatMul (x, w)", 12, w=(64, 64)), MATERIALS)


def test_static_quantization_needs_rows_and_types_that_go_together() -> None:
    original, static = form("y = MatMul (x, w)", w=(64, 64)), quantize_static.StaticQuantization
    assert "rows" in static.refusal(original, base.Materials(TOLD, (), Path()))
    with pytest.raises(errors.UsageError, match="signed activations"):
        static.apply(original, {"activations": "QInt8", "weights": "QUInt8"}, MATERIALS)
    with pytest.raises(errors.Unsupported, match="every node is excluded"):
        static.apply(original, {"exclude": list(static.nodes(original))}, MATERIALS)


def test_a_graph_of_tables_alone_has_nothing_left_without_them() -> None:
    told = signature.Signature(
        (signature.TensorSpec("x", "INT64", ("batch", 3)),), (signature.TensorSpec("y", "FP32", ("batch", 3, 64)),)
    )
    made = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (int64[batch, 3] x) => (float[batch, 3, 64] y) '
        "{ a = Gather (table, x) y = Relu (a) }"
    )
    table = np.random.default_rng(2).standard_normal((1100, 64)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(table, "table"))
    files = onnx_bytes.canonical({"model.onnx": made.SerializeToString()})
    original = forms.Form({name: bytes(data) for name, data in files.items()})
    materials = base.Materials(told, ({"x": np.zeros((2, 3), np.int64)},), Path())
    technique = quantize_weights.WeightQuantization
    assert technique.apply(original, {}, materials).size < original.size / 5
    with pytest.raises(errors.Unsupported, match="does not apply"):
        technique.apply(original, {"tables": False}, materials)


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    made = graphs.read(half.Half.apply(form("y = MatMul (x, w)", w=weight), {"kind": "bfloat16"}, MATERIALS))
    (stored,) = [one for one in made.graph.initializer if one.data_type == onnx.TensorProto.BFLOAT16]
    assert stored.raw_data == weight.astype(ml_dtypes.bfloat16).tobytes()


def test_numbers_that_16_bits_cannot_hold_stay_whole() -> None:
    weight = np.full((64, 64), 1e5, np.float32)
    original = form("a = MatMul (x, w) y = MatMul (a, v)", w=weight, v=(64, 64))
    made = half.Half.apply(original, {}, MATERIALS)
    assert [left.node for left in made.left] == ["w"]
    assert half.Half.apply(original, {"kind": "bfloat16"}, MATERIALS).left == ()


STATIC = {one.name: one.choices for one in quantize_static.StaticQuantization.dimensions(forms.Form({}))}
CHOICES = tuple(choice for choices in STATIC.values() for choice in choices)


@given(
    st.sampled_from(sorted(STATIC)) | st.text(max_size=20),
    st.sampled_from(CHOICES) | st.integers(0, 1) | st.text(max_size=5) | st.none(),
)
def test_any_parameter_is_a_choice_or_an_error(name: str, value: Any) -> None:
    original = forms.Form({}, runtime="echo")
    technique = quantize_static.StaticQuantization
    # Numbers are no booleans.
    fits = name in STATIC and (not STATIC[name] or (value in STATIC[name] and type(value) is not int))
    if fits:
        assert parameters.complete(technique, original, {name: value})[name] == value
    else:
        with pytest.raises(errors.UsageError):
            parameters.complete(technique, original, {name: value})


def test_true_is_not_one() -> None:
    with pytest.raises(errors.UsageError, match="one of true, false"):
        parameters.complete(quantize_dynamic.DynamicQuantization, forms.Form({}, runtime="echo"), {"per_channel": 1})
    for wrong in ("x", [1], None):
        with pytest.raises(errors.UsageError, match="list of the names"):
            parameters.excluded({"exclude": wrong}, ("a",))
