"""Splits a matrix product of the graph into two thinner ones, by its singular values.

Found through the catalogue, driven by a study; trains nothing, so what it loses is lost. Must never split where two
factors cost more than the one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import onnx

from windlass import errors
from windlass.optimization import factors, graphs, inner, parameters
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.types import tensor

# Below this, calling one more operator costs more than any multiplications that it saves.
_LEAST = 64
_PRODUCTS = frozenset(("MatMul", "Gemm"))


class LowRank:
    """The plugin: each MatMul and Gemm whose matrix is a constant, by the least rank that keeps `energy`.

    The energy is of what the matrix answers for the calibration rows (Wang et al., SVD-LLM, 2024), or without such
    rows of the matrix itself (Eckart and Young, 1936).
    """

    name: ClassVar[str] = "low_rank"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {"MatMul": 4.0, "Gemm": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """The share of the energy that is kept, and nodes to leave whole."""
        return (
            base.Dimension("energy", (0.999, 0.99, 0.95, 0.9, 0.8, 0.65, 0.5)),
            base.Dimension(parameters.EXCLUDE, ()),
        )

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Anything but an ONNX graph with products of matrices."""
        told = graphs.refusal(form)
        if told or graphs.census(form).kinds.keys() & _PRODUCTS:
            return told
        return "no part of the graph multiplies by a matrix (MatMul, Gemm)."

    @classmethod
    def nodes(cls, form: forms.Form) -> tuple[str, ...]:
        """The nodes that could be split, in the order of the graph: what `exclude` may name."""
        model = graphs.prepared(form)
        constants = graphs.weights(model)
        return tuple(node.name for node in model.graph.node if not _obstacle(node, constants))

    @classmethod
    def apply(cls, form: forms.Form, given: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form with the products that pay split in two; `Unsupported` where none does."""
        chosen = parameters.complete(cls, form, given)
        excluded = parameters.excluded(chosen, cls.nodes(form))
        model = graphs.prepared(form)
        constants, writer = graphs.weights(model), graphs.Writer(model)
        obstacles = {node.name: _obstacle(node, constants) for node in model.graph.node}
        obstacles.update(dict.fromkeys(excluded, "it was excluded"))
        open_nodes = [node for node in model.graph.node if not obstacles[node.name]]
        moments = inner.moments(model, [node.input[0] for node in open_nodes], materials.calibration)
        nodes: list[onnx.NodeProto] = []
        before = after = 0
        for node in model.graph.node:
            if not obstacles[node.name]:
                matrix = _matrix(node, constants)
                product = factors.split(matrix, chosen["energy"], moments.get(node.input[0]))
                if product.pays:
                    before, after = before + matrix.size, after + product.left.size + product.right.size
                    nodes.extend(_two(node, product, writer))
                    continue
                obstacles[node.name] = f"rank {product.rank} of {min(matrix.shape)} would cost more than it whole"
            nodes.append(node)
        if not before:
            raise errors.Unsupported(f"no matrix costs less as two that keep {chosen['energy']:g} of its energy.")
        left = [forms.Left(n.name, n.op_type, obstacles[n.name]) for n in nodes if obstacles.get(n.name)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return graphs.made(
            form,
            model,
            forms.Step(cls.name, chosen),
            expected=materials.signature,
            left=[one for one in left if one.operator in _PRODUCTS],
            notes=[f"low rank: {before:,} weights of {len(open_nodes)} products became {after:,}."],
        )


def _obstacle(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str:
    """Why a node cannot be split; empty where it can."""
    if node.op_type not in _PRODUCTS:
        return "it is no product with a matrix"
    held = constants.get(node.input[1])
    if held is None or node.input[0] in constants:
        return "both sides are computed"
    if held.data_type != onnx.TensorProto.FLOAT or len(held.dims) != 2:
        return "its matrix is not two-dimensional FP32"
    if min(held.dims) < _LEAST:
        return f"its matrix is smaller than {_LEAST} x {_LEAST}"
    if node.op_type == "Gemm" and graphs.attribute(node, "transA", 0):
        return "its rows are columns"
    return ""


def _matrix(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tensor.Array:
    """The matrix as `[k, n]`."""
    held: tensor.Array = onnx.numpy_helper.to_array(constants[node.input[1]])
    return held.T if node.op_type == "Gemm" and graphs.attribute(node, "transB", 0) else held


def _two(
    node: onnx.NodeProto, product: factors.Product, writer: graphs.Writer
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The two nodes that stand for one; the second has its name, its bias and its scale."""
    left = writer.constant(f"{node.name}_left", product.left)
    right = writer.constant(f"{node.name}_right", product.right)
    between = writer.name(f"{node.name}_between")
    thin = writer.node("MatMul", [node.input[0], left], between, f"{node.name}_thin")
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    wide.input[0], wide.input[1] = between, right
    kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
    del wide.attribute[:]
    wide.attribute.extend(kept)
    return thin, wide
