"""The ONNX graph: names, versions, dimensions and files, on graphs small enough to write by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from windlass import errors
from windlass.packaging import onnx_bytes
from windlass.packaging.capture import onnx_graph
from windlass.types import signature

FLOAT = TensorProto.FLOAT


def graph(
    nodes: list[Any],
    outputs: dict[str, list[Any]],
    *,
    inputs: dict[str, list[Any]] | None = None,
    weights: dict[str, Any] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    given = inputs or {"x": ["batch", 2]}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (weights or {}).items()],
    )
    options = {"ir_version": 10, "opset_imports": [helper.make_opsetid("", 20)], **more}
    return helper.make_model(made, **options)


def signed(inputs: dict[str, Any], outputs: dict[str, Any]) -> signature.Signature:
    def specs(tensors: dict[str, Any]) -> tuple[signature.TensorSpec, ...]:
        return tuple(signature.TensorSpec(name, "FP32", shape) for name, shape in tensors.items())

    return signature.Signature(specs(inputs), specs(outputs))


def names(model: ir.Model) -> list[str | None]:
    return [value.name for node in model.graph for value in node.outputs]


def chain() -> ir.Model:
    """x -> embedding -> (Relu) -> out: the inner value bears the name that the output shall have."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["embedding"]),
        helper.make_node("Relu", ["embedding"], ["out"]),
    ]
    return onnx_graph.parse(graph(nodes, {"out": ["batch", 2]}, weights={"w": [[2.0, 3.0]]}).SerializeToString())


def test_an_inner_value_gives_way_to_a_public_name() -> None:
    model = chain()
    onnx_graph.rename(model, ["x"], ["embedding"])
    assert names(model)[-1] == "embedding"
    assert len(set(names(model))) == 2
    data = onnx_graph.files(model)[onnx_graph.MODEL_FILE]
    assert onnx_graph.check(data, signed({"x": ("batch", 2)}, {"embedding": ("batch", 2)})) == {
        "ir_version": 10,
        "opset": 20,
    }


def test_a_weight_gives_way_to_a_public_name() -> None:
    model = chain()
    onnx_graph.rename(model, ["w"], ["x"])
    assert [value.name for value in model.graph.inputs] == ["w"]
    assert [value.name for value in model.graph.outputs] == ["x"]
    everything = [*model.graph.initializers, "w", *names(model)]
    assert len(set(everything)) == len(everything)
    onnx.checker.check_model(onnx.ModelProto.FromString(onnx_graph.files(model)[onnx_graph.MODEL_FILE]))


def test_an_input_handed_through_gets_a_value_of_its_own() -> None:
    model = onnx_graph.parse(graph([], {"x": ["batch", 2]}).SerializeToString())
    onnx_graph.rename(model, ["x"], ["same"])
    assert names(model) == ["same"]
    assert [node.op_type for node in model.graph] == ["Identity"]


@pytest.mark.parametrize(("inputs", "outputs"), [(["a"], ["a"])])
def test_an_output_that_is_called_as_an_input_is_refused(inputs: list[str], outputs: list[str]) -> None:
    with pytest.raises(errors.CaptureFailed, match="not unique"):
        onnx_graph.rename(chain(), inputs, outputs)


def test_a_name_defined_twice_is_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    with pytest.raises(errors.GateRefused, match="'y' is defined twice"):
        onnx_graph.check(
            graph(nodes, {"y": ["batch", 2]}).SerializeToString(), signed({"x": ("batch", 2)}, {"y": ("batch", 2)})
        )


RELU = [helper.make_node("Relu", ["x"], ["y"])]


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ({"x": [4, 2]}, {"y": [4, 2]}, r"'x' has the size 4 burned into the graph at axis 0"),
        ({"x": ["batch", 2]}, {"y": [4, 2]}, r"'y' has the size 4 burned"),
        ({"x": ["batch", 3]}, {"y": ["batch", 2]}, r"'x' has the size 3 in the graph at axis 1"),
        ({"x": ["batch"]}, {"y": ["batch", 2]}, r"'x' is FP32\['batch'\] in the graph"),
        ({"x": ["batch", 2]}, {"z": ["batch", 2]}, r"the graph's outputs are z"),
    ],
)
def test_a_graph_that_is_not_what_the_signature_says_is_refused(
    inputs: dict[str, Any], outputs: dict[str, Any], says: str
) -> None:
    nodes = [helper.make_node("Relu", ["x"], list(outputs))]
    data = graph(nodes, outputs, inputs=inputs).SerializeToString()
    with pytest.raises(errors.GateRefused, match=says):
        onnx_graph.check(data, signed({"x": ("batch", 2)}, {"y": ("batch", 2)}))


def test_versions_are_read_from_the_file() -> None:
    expected = signed({"x": ("batch", 2)}, {"y": ("batch", 2)})
    newest = graph(RELU, {"y": ["batch", 2]}, ir_version=14, opset_imports=[helper.make_opsetid("", 28)])
    with pytest.raises(errors.GateRefused, match="IR version 14 and opset 28"):
        onnx_graph.check(newest.SerializeToString(), expected)
    old = graph(RELU, {"y": ["batch", 2]}, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    assert onnx_graph.check(old.SerializeToString(), expected) == {"ir_version": 8, "opset": 17}


def test_an_ir_version_that_is_too_new_is_lowered_and_an_opset_is_not() -> None:
    model = onnx_graph.parse(graph(RELU, {"y": ["batch", 2]}, ir_version=14).SerializeToString())
    (note,) = onnx_graph.pin(model)
    assert model.ir_version == 10
    assert "14 was lowered to 10" in note
    assert onnx_graph.pin(model) == ()
    newest = graph(RELU, {"y": ["batch", 2]}, opset_imports=[helper.make_opsetid("", 28)])
    with pytest.raises(errors.CaptureFailed, match="opset 28"):
        onnx_graph.pin(onnx_graph.parse(newest.SerializeToString()))


def test_dimensions_get_the_names_that_people_know() -> None:
    model = onnx_graph.parse(
        graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            {"y": ["s1", "s1 + s2"]},
            inputs={"x": ["s1", "s1 + s2"]},
        ).SerializeToString()
    )
    onnx_graph.rename_dimensions(model, {"s1": "batch", "s2": "length"})
    assert onnx_graph.specs(model.graph.outputs)[0].shape == ("batch", "batch + length")


def test_axes_of_a_file_are_named_consistently() -> None:
    model = onnx_graph.parse(graph(RELU, {"y": ["N", "L"]}, inputs={"x": ["N", "L"]}).SerializeToString())
    onnx_graph.name_dimensions(model, {"x": {0: "batch", 1: "length"}}, outputs="batch")
    assert onnx_graph.specs(model.graph.inputs)[0].shape == ("batch", "length")
    assert onnx_graph.specs(model.graph.outputs)[0].shape == ("batch", "length")


@pytest.mark.parametrize(("shape", "axis"), [([4, 2], 0), (["N", 2], 1), (["N", 2], 5)])
def test_an_axis_of_fixed_size_cannot_be_named(shape: list[Any], axis: int) -> None:
    model = onnx_graph.parse(graph(RELU, {"y": shape}, inputs={"x": shape}).SerializeToString())
    with pytest.raises(errors.CaptureFailed, match="burned into the graph"):
        onnx_graph.name_dimensions(model, {"x": {axis: "batch"}})


def weighty() -> ir.Model:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = graph(nodes, {"y": ["batch", 512]}, weights={"w": np.arange(1024).reshape(2, 512)})
    return onnx_graph.parse(made.SerializeToString())


def test_small_weights_stay_inside_and_large_ones_lie_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(onnx_graph.files(weighty())) == ["model.onnx"]
    monkeypatch.setattr(onnx_bytes, "INLINE_BELOW", 4096)
    apart = onnx_graph.files(weighty())
    assert list(apart) == ["model.onnx", "model.onnx.data"]
    assert len(apart["model.onnx.data"]) >= 4096
    assert len(apart["model.onnx"]) < 1024
    again = onnx_graph.files(weighty())
    assert again == apart
    # A model that was read with its weights beside it keeps them there.
    assert list(onnx_graph.files(onnx_graph.parse(apart["model.onnx"]))) == ["model.onnx"]


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"not a model at all"])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(errors.InvalidInput, match="not an ONNX model"):
        onnx_graph.parse(data)


def test_what_is_no_plain_tensor_is_refused() -> None:
    info = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    made = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 2])],
        [info],
    )
    model = onnx_graph.parse(helper.make_model(made, ir_version=10).SerializeToString())
    with pytest.raises(errors.Unsupported, match="'y'"):
        onnx_graph.specs(model.graph.outputs)


def test_a_tensor_of_unknown_shape_is_refused() -> None:
    made = graph(RELU, {"y": ["batch", 2]})
    made.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx_graph.parse(made.SerializeToString())
    with pytest.raises(errors.CaptureFailed, match="what shape 'y' has"):
        onnx_graph.specs(model.graph.outputs)
