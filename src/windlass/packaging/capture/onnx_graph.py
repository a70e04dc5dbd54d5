"""The ONNX graph itself: public names kept apart from inner ones, versions pinned, bytes that are the same every time.

Used by the capture sources that make or read ONNX, and by `packaging/package.py` for the structural checks.
Must never run a model or open a file that was not handed to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from windlass import errors
from windlass.packaging import external_data, onnx_bytes
from windlass.security import temporary
from windlass.types import signature

# What is written: every supported onnxruntime reads it. The libraries' own defaults run ahead of onnxruntime.
IR_VERSION = 10
OPSET = 20
MODEL_FILE = external_data.MODEL_FILE

_DATATYPES = {
    ir.DataType.BOOL: "BOOL",
    ir.DataType.UINT8: "UINT8",
    ir.DataType.UINT16: "UINT16",
    ir.DataType.UINT32: "UINT32",
    ir.DataType.UINT64: "UINT64",
    ir.DataType.INT8: "INT8",
    ir.DataType.INT16: "INT16",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.FLOAT: "FP32",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.STRING: "BYTES",
}


def rename(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the graph its public names; an inner value that bears one of them, or one twice, gets another.

    onnxruntime refuses a file in which a name is defined twice, and exporters do write them.
    """
    passes.OutputFixPass()(model)
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    passes.NameFixPass()(model)
    wrong = [v.name for v, name in zip(model.graph.outputs, outputs, strict=True) if v.name != name]
    if wrong:
        raise errors.CaptureFailed(
            f"the names of inputs and outputs are not unique: {', '.join([*inputs, *outputs])}.",
            hint="Give each its own name (input_names, output_names).",
        )


def rename_dimensions(model: ir.Model, names: Mapping[str, str]) -> None:
    """Call symbolic dimensions by the names a person knows, also inside expressions such as `s77 + 1`."""

    def named(dimension: Any) -> Any:
        if isinstance(dimension, int) or dimension.value is None:
            return dimension
        return re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m.group(), m.group()), str(dimension.value))

    values = [*model.graph.inputs, *(out for node in model.graph.all_nodes() for out in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([named(d) for d in value.shape])


def files(model: ir.Model) -> dict[str, bytes]:
    """The model's files. Weights that come to 64 MB lie beside it: one protobuf message cannot hold the largest.

    Weights that lie beside a model that was read stay where they are: only `model.onnx` is given then.
    """
    weights = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    if any(isinstance(weight, ir.ExternalTensor) for weight in weights):
        return {MODEL_FILE: ir.to_proto(model).SerializeToString(deterministic=True)}
    size = sum(weight.nbytes for weight in weights if weight is not None and weight.dtype != ir.DataType.STRING)
    if size < onnx_bytes.INLINE_BELOW:
        return {MODEL_FILE: ir.to_proto(model).SerializeToString(deterministic=True)}
    with temporary.folder("windlass-capture-") as folder:
        path = folder / MODEL_FILE
        ir.save(model, path, external_data=onnx_bytes.DATA_FILE)
        return {name: (folder / name).read_bytes() for name in (MODEL_FILE, onnx_bytes.DATA_FILE)}


def parse(data: bytes) -> ir.Model:
    """The graph of a serialized model; external weights are not read.

    `InvalidInput` if it is none, `CaptureFailed` if a name is defined twice in it, as exporters do write.
    """
    try:
        message = onnx.ModelProto.FromString(data)
        _check_names(message.graph)
        model: ir.Model = ir.from_proto(message)
    except errors.WindlassError:
        raise
    except Exception as e:  # noqa: BLE001 - protobuf and onnx_ir raise several kinds
        raise errors.InvalidInput(f"this is not an ONNX model: {_first_line(e)}") from None
    return model


def pin(model: ir.Model) -> tuple[str, ...]:
    """Make the versions ones that onnxruntime loads; a note for each change, `CaptureFailed` where that cannot be."""
    opset = model.opset_imports.get("", 0)
    if opset > external_data.MAX_OPSET:
        raise errors.CaptureFailed(
            f"the model is written in ONNX opset {opset}: onnxruntime runs at most {external_data.MAX_OPSET}.",
            hint=f"Export it again with opset_version={OPSET}.",
        )
    if model.ir_version <= external_data.MAX_IR:
        return ()
    note = f"the file's IR version {model.ir_version} was lowered to {IR_VERSION}, which onnxruntime loads."
    model.ir_version = IR_VERSION
    return (note,)


def specs(values: Sequence[ir.Value]) -> tuple[signature.TensorSpec, ...]:
    """The named tensors of a graph's inputs or outputs; `Unsupported` for what is no plain tensor."""
    found = []
    for value in values:
        name = value.name or ""
        if value.dtype not in _DATATYPES or not isinstance(value.type, ir.TensorType):
            raise errors.Unsupported(f"'{name}' is a {value.type}: only tensors of plain datatypes are served.")
        if value.shape is None:
            raise errors.CaptureFailed(
                f"the graph does not say what shape '{name}' has.",
                hint="Export it again with shapes, or run onnx.shape_inference on it first.",
            )
        shape = tuple(
            d if isinstance(d, int) else str(d.value or f"{name}_{axis}") for axis, d in enumerate(value.shape)
        )
        found.append(signature.TensorSpec(name=name, datatype=_DATATYPES[value.dtype], shape=shape))
    return tuple(found)


def name_dimensions(model: ir.Model, dynamic: Mapping[str, Mapping[int, str]], *, outputs: str | None = None) -> None:
    """Name the axes of inputs (input -> {axis: name}) and, with `outputs`, axis 0 of every output.

    `CaptureFailed` if such an axis has a fixed size: it would be burned in.
    """
    renamed: dict[str, str] = {}
    plain = [value for value in model.graph.inputs if value.shape is not None]
    axes = [(value, axis, name) for value in plain for axis, name in dynamic.get(value.name or "", {}).items()]
    if outputs is not None:
        axes += [(value, 0, outputs) for value in model.graph.outputs if value.shape is not None]
    for value, axis, name in axes:
        shape: list[Any] = list(value.shape or ())
        size = shape[axis] if axis < len(shape) else "there is no such axis"
        if not isinstance(size, ir.SymbolicDim):
            raise errors.CaptureFailed(
                f"axis {axis} ('{name}') of '{value.name}' is burned into the graph ({size}).",
                hint="Export it again with that axis dynamic; for a model that takes one size only, say batched=False.",
            )
        if size.value is not None:
            renamed.setdefault(str(size.value), name)
        shape[axis] = name
        value.shape = ir.Shape(shape)
    rename_dimensions(model, renamed)


def check(data: bytes, expected: signature.Signature) -> dict[str, int]:
    """`GateRefused` if the graph breaks a rule or is not what the signature says; its IR version and opset otherwise.

    A dimension that the signature calls symbolic must be symbolic in the graph: one burned in works for the
    example's size only.
    """
    model = parse(data)
    versions = {"ir_version": model.ir_version, "opset": model.opset_imports.get("", 0)}
    if versions["ir_version"] > external_data.MAX_IR or versions["opset"] > external_data.MAX_OPSET:
        raise errors.GateRefused(
            f"the model has IR version {versions['ir_version']} and opset {versions['opset']}: "
            f"onnxruntime loads at most {external_data.MAX_IR} and {external_data.MAX_OPSET}.",
            hint=f"Export it again with opset {OPSET} and IR version {IR_VERSION}.",
        )
    initialized = set(model.graph.initializers)
    inputs = [value for value in model.graph.inputs if value.name not in initialized]
    _check_tensors("input", specs(inputs), expected.inputs)
    _check_tensors("output", specs(model.graph.outputs), expected.outputs)
    return versions


def _check_names(graph: onnx.GraphProto) -> None:
    seen = {item.name for item in (*graph.input, *graph.initializer)}
    for node in graph.node:
        for name in node.output:
            if name and name in seen:
                raise errors.CaptureFailed(
                    f"the name '{name}' is defined twice in the graph: onnxruntime refuses such a file.",
                    hint="Give the output another name, or rename the value inside.",
                )
            seen.add(name)


def _check_tensors(side: str, found: Sequence[signature.TensorSpec], expected: Sequence[signature.TensorSpec]) -> None:
    by_name = {spec.name: spec for spec in found}
    if sorted(by_name) != sorted(spec.name for spec in expected):
        raise errors.GateRefused(
            f"the graph's {side}s are {', '.join(sorted(by_name))}: "
            f"the signature says {', '.join(sorted(s.name for s in expected))}."
        )
    for spec in expected:
        ours = by_name[spec.name]
        if ours.datatype != spec.datatype or len(ours.shape) != len(spec.shape):
            raise errors.GateRefused(
                f"{side} '{spec.name}' is {ours.datatype}{list(ours.shape)} in the graph: "
                f"the signature says {spec.datatype}{list(spec.shape)}."
            )
        for axis, (real, said) in enumerate(zip(ours.shape, spec.shape, strict=True)):
            if isinstance(said, str) and isinstance(real, int):
                raise errors.GateRefused(
                    f"{side} '{spec.name}' has the size {real} burned into the graph at axis {axis}, where "
                    f"'{said}' should be free.",
                    hint="Export it again with that axis dynamic; look for a size written as a number "
                    "in the forward pass.",
                )
            if isinstance(said, int) and isinstance(real, int) and real != said:
                raise errors.GateRefused(
                    f"{side} '{spec.name}' has the size {real} in the graph at axis {axis}: the signature says {said}."
                )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
