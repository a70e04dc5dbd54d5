"""Dynamic int8: integer weights, and activations quantized anew in each run.

Driven by `search` through the catalogue. Must never touch a convolution: onnxruntime's dynamic integer convolution is
slower than the one on floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import graphs, integers, pairs
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base

_KINDS = ("MatMul", "Gemm", "LSTM")


class DynamicQuantization:
    """The plugin."""

    name: ClassVar[str] = "quantize_dynamic"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {"MatMul": 4.0, "Gemm": 4.0, "LSTM": 3.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """What shares a scale, whether weights keep to 7 bits, and nodes to leave out (`exclude`)."""
        return (
            base.Dimension("per_channel", (True, False)),
            base.Dimension("reduce_range", (False, True)),
            base.Dimension(given.EXCLUDE, ()),
        )

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        return pairs.unfit(form, _KINDS)

    @classmethod
    def nodes(cls, form: forms.Form) -> tuple[str, ...]:
        """The nodes that it would quantize, in the order of the graph: what `exclude` may name."""
        model = graphs.prepared(form)
        real = graphs.weights(model)
        return tuple(node.name for node in model.graph.node if _refusal(node, real) == "")

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        chosen = given.complete(cls, form, parameters)
        if why := cls.refusal(form, materials):
            raise errors.Unsupported(f"'{cls.name}' does not apply: {why}")
        model = graphs.prepared(form)
        nodes = cls.nodes(form)
        exclude = given.excluded(chosen, nodes)
        pairs.require(nodes, exclude, cls.name)
        writing = _Writing(model, per_channel=chosen["per_channel"], reduced=chosen["reduce_range"])
        left = writing.write(exclude)
        step = forms.Step(cls.name, chosen)
        return graphs.made(form, model, step, expected=materials.signature, precision="int8", left=left)


def _refusal(node: onnx.NodeProto, real: Mapping[str, onnx.TensorProto]) -> str | None:
    """As `pairs.refusal`, for what is quantized in each run."""
    if node.op_type == "Conv":
        return "quantizing what it reads in each run costs more than integers gain."
    if node.op_type != "LSTM" or node.domain not in ("", "ai.onnx"):
        return pairs.refusal(node, real)
    if any(name not in real or real[name].data_type != onnx.TensorProto.FLOAT for name in node.input[1:3]):
        return "its weights are computed, not constant, or no 32-bit floats."
    if graphs.attribute(node, "layout", 0):
        return "onnxruntime's integer LSTM takes time first only."
    return ""


class _Writing:
    """One rewriting of a graph."""

    def __init__(self, model: onnx.ModelProto, *, per_channel: bool, reduced: bool) -> None:
        self._model = model
        self._writer = graphs.Writer(model)
        self._real = graphs.weights(model)
        self._per_channel = per_channel
        self._reduced = reduced
        self._quantized: dict[str, list[str]] = {}

    def write(self, exclude: tuple[str, ...]) -> list[forms.Left]:
        left: list[forms.Left] = []
        written: list[onnx.NodeProto] = []
        for node in self._model.graph.node:
            why = _refusal(node, self._real)
            if why or node.name in exclude:
                left.append(forms.Left(node.name, graphs.kind(node), why or "it was excluded."))
            if why != "" or node.name in exclude:
                written.append(node)
            elif node.op_type == "LSTM":
                written.append(self._recurrent(node))
            elif node.op_type == "Gather":
                behind = pairs.table(self._writer, node, onnx.numpy_helper.to_array(self._real[node.input[0]]))
                written += [node, behind]
            else:
                written += self._product(node)
        del self._model.graph.node[:]
        self._model.graph.node.extend(written)
        return left

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The pattern that onnxruntime runs as one operator: integer product, cast, scales, bias."""
        written, (values, scale, zero) = self._input(node.input[0])
        real = onnx.numpy_helper.to_array(self._real[node.input[1]])
        if graphs.attribute(node, "transB", 0):
            real = real.T
        made = integers.weights(real, 1 if self._per_channel else None, "QInt8", reduced=self._reduced)
        weights = self._writer.constant(f"{node.name}/weights/quantized", made.values)
        weight_zero = self._writer.constant(f"{node.name}/weights/zero", np.zeros(made.scales.shape, np.int8))
        weight_scale = self._writer.constant(f"{node.name}/weights/scale", made.scales)
        biased = len(node.input) > 2 and bool(node.input[2])
        names = [self._writer.name(f"{node.name}/{part}") for part in ("integer", "float", "scales", "scaled")]
        product, cast, scales, scaled = names
        scaled = scaled if biased else node.output[0]
        written += [
            self._writer.node("MatMulInteger", [values, weights, zero, weight_zero], product, f"{node.name}/product"),
            self._writer.node("Cast", [product], cast, f"{node.name}/cast", to=onnx.TensorProto.FLOAT),
            self._writer.node("Mul", [scale, weight_scale], scales, f"{node.name}/both"),
            self._writer.node("Mul", [cast, scales], scaled, f"{node.name}/scale"),
        ]
        if biased:
            written.append(self._writer.node("Add", [scaled, node.input[2]], node.output[0], f"{node.name}/add"))
        return written

    def _input(self, name: str) -> tuple[list[onnx.NodeProto], list[str]]:
        """What quantizes a value in each run, once for all that read it."""
        if name in self._quantized:
            return [], self._quantized[name]
        names = [self._writer.name(f"{name}/{part}") for part in ("quantized", "scale", "zero")]
        self._quantized[name] = names
        node = self._writer.node("DynamicQuantizeLinear", [name], names[0], f"{name}/quantize")
        node.output.extend(names[1:])
        return [node], names

    def _recurrent(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """onnxruntime's LSTM with integer weights, which lie as `[directions, inputs, 4 * hidden]`."""
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        more = []
        for at, part in ((1, "weights"), (2, "recurrence")):
            real = onnx.numpy_helper.to_array(self._real[node.input[at]]).transpose(0, 2, 1)
            each = [
                integers.weights(one, 1 if self._per_channel else None, "QInt8", reduced=self._reduced) for one in real
            ]
            scales = np.stack([one.scales for one in each])
            inputs[at] = self._writer.constant(f"{node.name}/{part}/quantized", np.stack([one.values for one in each]))
            more.append(self._writer.constant(f"{node.name}/{part}/scale", scales))
            more.append(self._writer.constant(f"{node.name}/{part}/zero", np.zeros(scales.shape, np.int8)))
        made = self._writer.node(
            "com.microsoft.DynamicQuantizeLSTM", [*inputs, *more], node.output[0], f"{node.name}/integer"
        )
        del made.output[:]
        made.output.extend(node.output)
        made.attribute.extend(one for one in node.attribute if one.name != "layout")
        return made
