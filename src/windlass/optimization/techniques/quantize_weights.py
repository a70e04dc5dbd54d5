"""int4 weights in small blocks, each with its scale, for the matrix products; activations stay as they are.

Driven by `search` through the catalogue. The smallest form there is without training; quicker only where reading the
weights is what takes the time. Must never touch a convolution: onnxruntime has no kernel for it.
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

_KINDS = ("MatMul", "Gemm", "Gather")
# Below this the scales and the operator itself cost more than the weights.
_LEAST = 1 << 12
_BITS = 4
# Tensors of 4 bits came with this version of the format.
_IR_VERSION = 10
_LEVELS = {"int8": 4, "fp32": 1}


class WeightQuantization:
    """The plugin."""

    name: ClassVar[str] = "quantize_weights"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {"MatMul": 2.0, "Gemm": 2.0}
    aims: ClassVar[frozenset[str]] = frozenset(("size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """Inputs that share a scale, zero points, what products are computed in, tables too, and nodes to leave out.

        `compute`: `int8` quantizes activations in blocks within each run, `fp32` makes floats of the weights.
        """
        return (
            base.Dimension("block", (32, 64, 128)),
            base.Dimension("symmetric", (False, True)),
            base.Dimension("compute", ("int8", "fp32")),
            base.Dimension("tables", (True, False)),
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
        tables = () if chosen["tables"] else [node.name for node in model.graph.node if node.op_type == "Gather"]
        pairs.require(nodes, {*exclude, *tables}, cls.name)
        left = _Writing(model, chosen).write(exclude)
        model.ir_version = max(model.ir_version, _IR_VERSION)
        step = forms.Step(cls.name, chosen)
        return graphs.made(form, model, step, expected=materials.signature, precision="int4", left=left)


def _refusal(node: onnx.NodeProto, real: Mapping[str, onnx.TensorProto]) -> str | None:
    """As `pairs.refusal`, for weights alone."""
    if node.op_type == "Conv":
        return "onnxruntime has no convolution with weights of 4 bits."
    why = pairs.refusal(node, real)
    if why == "" and node.op_type == "Gather" and real[node.input[0]].dims[1] % 2:
        return "its rows have an odd number of columns."
    if why == "" and node.op_type != "Gather" and np.prod(real[node.input[1]].dims) < _LEAST:
        return "its weights are few."
    return why


class _Writing:
    """One rewriting of a graph."""

    def __init__(self, model: onnx.ModelProto, chosen: Mapping[str, Any]) -> None:
        self._model = model
        self._writer = graphs.Writer(model)
        self._real = graphs.weights(model)
        self._chosen = chosen

    def write(self, exclude: tuple[str, ...]) -> list[forms.Left]:
        left: list[forms.Left] = []
        written: list[onnx.NodeProto] = []
        for node in self._model.graph.node:
            why = _refusal(node, self._real)
            if why == "" and node.op_type == "Gather" and not self._chosen["tables"]:
                why = "tables were excluded."
            if why == "" and node.name in exclude:
                why = "it was excluded."
            if why:
                left.append(forms.Left(node.name, graphs.kind(node), why))
            if why != "":
                written.append(node)
            elif node.op_type == "Gather":
                written.append(self._table(node))
            else:
                written += self._product(node)
        del self._model.graph.node[:]
        self._model.graph.node.extend(written)
        return left

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        real = onnx.numpy_helper.to_array(self._real[node.input[1]])
        if graphs.attribute(node, "transB", 0):
            real = real.T
        size = self._chosen["block"]
        made = integers.blocks(real, size, symmetric=self._chosen["symmetric"])
        inputs = [node.input[0], *self._constants(node.name, made)]
        biased = len(node.input) > 2 and bool(node.input[2])
        output = self._writer.name(f"{node.name}/product") if biased else node.output[0]
        written = [
            self._writer.node(
                "com.microsoft.MatMulNBits",
                inputs,
                output,
                f"{node.name}/int4",
                K=real.shape[0],
                N=real.shape[1],
                bits=_BITS,
                block_size=size,
                accuracy_level=_LEVELS[self._chosen["compute"]],
            )
        ]
        if biased:
            written.append(self._writer.node("Add", [output, node.input[2]], node.output[0], f"{node.name}/add"))
        return written

    def _table(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Rows of a table in blocks along the row, as `com.microsoft.GatherBlockQuantized` reads them."""
        real = onnx.numpy_helper.to_array(self._real[node.input[0]])
        rows, size = real.shape[0], self._chosen["block"]
        made = integers.blocks(real.T, size, symmetric=self._chosen["symmetric"])
        # Here the last block of a row is not padded.
        values = made.values.reshape(rows, -1)[:, : real.shape[1] // 2]
        flat = integers.Blocks(values, made.scales.reshape(rows, -1), made.zeros)
        if flat.zeros is not None:
            flat = flat._replace(zeros=flat.zeros.reshape(rows, -1))
        quantized, *more = self._constants(node.name, flat)
        return self._writer.node(
            "com.microsoft.GatherBlockQuantized",
            [quantized, node.input[1], *more],
            node.output[0],
            f"{node.name}/int4",
            bits=_BITS,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        )

    def _constants(self, name: str, made: integers.Blocks) -> list[str]:
        names = [
            self._writer.constant(f"{name}/weights/quantized", made.values),
            self._writer.constant(f"{name}/weights/scale", made.scales),
        ]
        if made.zeros is not None:
            names.append(self._writer.constant(f"{name}/weights/zero", made.zeros))
        return names
