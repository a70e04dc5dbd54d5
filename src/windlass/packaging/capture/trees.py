"""Ensembles of decision trees as ONNX: one notation for XGBoost, LightGBM and scikit-learn's histogram boosting.

Filled by `boosters.py`, used by the capture sources of those frameworks. Written here because the converters at hand
give other numbers than the framework for several of its objectives. Must never round a threshold: an ensemble that
decides in double is run in double, so that a row near a split falls to the same side.

Trees become rows of the ONNX operator `ai.onnx.ml.TreeEnsembleRegressor` (version 3), which adds up the leaves. Version
5's `TreeEnsemble` would do as well, but cannot stand in one model with what skl2onnx writes for forests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from windlass.types import tensor

IR_VERSION = 10
OPSETS = {"": 20, "ai.onnx.ml": 3}
_DOMAIN = "ai.onnx.ml"

Link = Literal["identity", "sigmoid", "softmax", "exp", "signed_square", "log1p_exp", "step"]


class Tree(msgspec.Struct, frozen=True):
    """One tree by arrays over its nodes; node 0 is the root, and `left` is negative on a leaf.

    A row goes left if its `feature` compares true with `threshold`, or is one of `members[node]`, or is missing (NaN)
    and `missing_left` is set. `value` counts on leaves only: a number for the output `target`, or one for each output.
    """

    feature: Sequence[int]
    threshold: Sequence[float]
    left: Sequence[int]
    right: Sequence[int]
    missing_left: Sequence[bool]
    value: Sequence[float] | tensor.Array
    target: int = 0
    members: dict[int, tuple[float, ...]] = {}


class Ensemble(msgspec.Struct, frozen=True):
    """Trees whose leaves are added to `base` (one number a target), then sent through `link` times `steepness`.

    `double` says that the framework compares and adds in double; otherwise in float.
    """

    trees: tuple[Tree, ...]
    features: int
    base: tuple[float, ...]
    compares: Literal["BRANCH_LEQ", "BRANCH_LT"]
    double: bool
    link: Link = "identity"
    steepness: float = 1.0


class _Table:
    """The operator's attributes, gathered node by node."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.compares = ensemble.compares
        self.base = np.array(ensemble.base, np.float64)
        self.nodes: list[tuple[int, int, int, str, float, int, int, int]] = []
        self.leaves: list[tuple[int, int, int, float]] = []
        for number, tree in enumerate(ensemble.trees):
            self._add(number, tree)
        if not self.nodes:
            # The operator needs a node: both sides of this one add nothing.
            self._add(0, Tree([0, 0, 0], [0.0] * 3, [1, -1, -1], [2, -1, -1], [False] * 3, [0.0] * 3))

    def _add(self, number: int, tree: Tree) -> None:
        if tree.left[0] < 0:
            for target, weight in _weights(tree, 0):
                self.base[target] += weight
            return
        count = len(tree.left)
        spare = count
        for node in range(count):
            if tree.left[node] < 0:
                self.nodes.append((number, node, 0, "LEAF", 0.0, 0, 0, 0))
                self.leaves.extend((number, node, target, weight) for target, weight in _weights(tree, node))
                continue
            feature, missing = int(tree.feature[node]), int(tree.missing_left[node])
            left, right = int(tree.left[node]), int(tree.right[node])
            members = tree.members.get(node)
            if members is None:
                threshold = float(tree.threshold[node])
                self.nodes.append((number, node, feature, self.compares, threshold, left, right, missing))
                continue
            # Membership is a chain of equals, all true to the same child; onnxruntime folds it into one bit set.
            place = node
            for member in members[:-1]:
                self.nodes.append((number, place, feature, "BRANCH_EQ", member, left, spare, missing))
                place, spare = spare, spare + 1
            self.nodes.append((number, place, feature, "BRANCH_EQ", members[-1], left, right, missing))


def _weights(tree: Tree, leaf: int) -> list[tuple[int, float]]:
    """What a leaf adds, by output."""
    value = np.asarray(tree.value[leaf])
    if not value.ndim:
        return [(tree.target, float(value))]
    # Most classes have nothing on a leaf; the operator wants one entry at least.
    found = [(target, float(weight)) for target, weight in enumerate(value.tolist()) if weight]
    return found or [(0, 0.0)]


def ensemble_node(ensemble: Ensemble, source: str, result: str) -> onnx.NodeProto:
    """The operator from `source` `[rows, features]` to `result` FP32 `[rows, targets]`, before the link.

    `source` is FP64 if the ensemble is `double`, else FP32.
    """
    table = _Table(ensemble)
    trees, nodes, features, modes, thresholds, true, false, missing = zip(*table.nodes, strict=True)
    leaf_trees, leaf_nodes, targets, weights = zip(*table.leaves, strict=True)
    attributes: dict[str, Any] = {
        "n_targets": len(ensemble.base),
        "nodes_treeids": trees,
        "nodes_nodeids": nodes,
        "nodes_featureids": features,
        "nodes_modes": modes,
        "nodes_truenodeids": true,
        "nodes_falsenodeids": false,
        "nodes_missing_value_tracks_true": missing,
        "target_treeids": leaf_trees,
        "target_nodeids": leaf_nodes,
        "target_ids": targets,
    }
    for name, values in (("nodes_values", thresholds), ("target_weights", weights), ("base_values", table.base)):
        if ensemble.double:
            attributes[f"{name}_as_tensor"] = numpy_helper.from_array(np.array(values, np.float64))
        else:
            attributes[name] = np.array(values, np.float32).tolist()
    return helper.make_node("TreeEnsembleRegressor", [source], [result], name=result, domain=_DOMAIN, **attributes)


class Graph:
    """An ONNX graph under way. Every method adds one operator and returns the name of its result."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: tensor.Array) -> str:
        """A constant; text is an object array of str."""
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def fresh(self) -> str:
        """A name for the next result."""
        return f"{self.prefix}step_{len(self.nodes)}"

    def number(self, value: float) -> str:
        """An FP32 constant."""
        return self.constant(np.array(value, np.float32))

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """An operator of the default domain."""
        result = result or self.fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [result], name=f"node_{result}", **attributes))
        return result

    def cast(self, source: str, datatype: str, *, result: str = "") -> str:
        """A cast to an Open Inference Protocol datatype."""
        return self.add("Cast", source, result=result, to=onnx_type(datatype))

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        """The finished model."""
        graph = helper.make_graph(self.nodes, "model", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="windlass")
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString(deterministic=True))


def onnx_type(datatype: str) -> int:
    """The ONNX element type of an Open Inference Protocol datatype."""
    if datatype == "BYTES":
        return int(onnx.TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(tensor.dtype(datatype)))


def scores(graph: Graph, ensemble: Ensemble, source: str) -> str:
    """What the ensemble predicts for `source` (FP64 if it is `double`, else FP32), FP32 `[rows, targets]`."""
    coded = np.zeros((1, ensemble.features), np.bool_)
    for tree in ensemble.trees:
        coded[0, [tree.feature[node] for node in tree.members]] = True
    if coded.any():
        # A code is cut to a whole number before it is looked up: LightGBM cuts -0.5 to 0, to XGBoost it is no code.
        if ensemble.compares == "BRANCH_LEQ":
            whole = graph.add("Mul", graph.add("Sign", source), graph.add("Floor", graph.add("Abs", source)))
        else:
            whole = graph.add("Floor", source)
        source = graph.add("Where", graph.constant(coded), whole, source)
    node = ensemble_node(ensemble, source, graph.fresh())
    graph.nodes.append(node)
    raw = str(node.output[0])
    if ensemble.steepness != 1.0:
        raw = graph.add("Mul", raw, graph.number(ensemble.steepness))
    match ensemble.link:
        case "sigmoid":
            return graph.add("Sigmoid", raw)
        case "softmax":
            return graph.add("Softmax", raw, axis=1)
        case "exp":
            return graph.add("Exp", raw)
        case "signed_square":
            return graph.add("Mul", raw, graph.add("Abs", raw))
        case "log1p_exp":
            return graph.add("Softplus", raw)
        case "step":
            return graph.cast(graph.add("Greater", raw, graph.number(0)), "FP32")
    return raw


def probabilities(graph: Graph, ensemble: Ensemble, source: str) -> str:
    """`scores` with one column a class: the one score of two classes becomes `[1 - p, p]`."""
    found = scores(graph, ensemble, source)
    if len(ensemble.base) > 1:
        return found
    return graph.add("Concat", graph.add("Sub", graph.number(1), found), found, axis=1)


def label(graph: Graph, found: str, classes: tensor.Array, *, result: str = "") -> str:
    """The class of the highest probability, the first of equals; `classes` are INT64 or an object array of str."""
    best = graph.add("ArgMax", found, axis=1, keepdims=0)
    return graph.add("Gather", graph.constant(classes), best, result=result)


def table_model(ensemble: Ensemble, datatype: str, classes: tensor.Array) -> bytes:
    """The whole model: `input` `[batch, features]` to `label` and `probabilities`, or to `prediction` without classes.

    An ensemble that decides in double widens an FP32 input first, which changes no number.
    """
    graph = Graph()
    working = "FP64" if ensemble.double else "FP32"
    source = "input" if datatype == working else graph.cast("input", working)
    given = [helper.make_tensor_value_info("input", onnx_type(datatype), ["batch", ensemble.features])]
    if not len(classes):
        found = scores(graph, ensemble, source)
        count = len(ensemble.base)
        if count == 1:
            graph.add("Squeeze", found, graph.constant(np.array([1], np.int64)), result="prediction")
        else:
            graph.add("Identity", found, result="prediction")
        shape = ["batch"] if count == 1 else ["batch", count]
        return graph.model(given, [helper.make_tensor_value_info("prediction", onnx_type("FP32"), shape)])
    found = graph.add("Identity", probabilities(graph, ensemble, source), result="probabilities")
    label(graph, found, classes, result="label")
    answers = [
        helper.make_tensor_value_info("label", onnx_type(tensor.datatype(classes)), ["batch"]),
        helper.make_tensor_value_info("probabilities", onnx_type("FP32"), ["batch", len(classes)]),
    ]
    return graph.model(given, answers)
