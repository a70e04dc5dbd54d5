"""A fitted scikit-learn estimator or pipeline as ONNX, by skl2onnx, with trees written by `sklearn_trees.py`.

Used by `sklearn.py`. Scikit-learn computes in double, so the graph does too; only where skl2onnx or onnxruntime cannot,
it is written in float, and a note says so. Must never leave a public name to what skl2onnx calls things.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.compose
import skl2onnx
from onnx import helper
from skl2onnx.common import data_types
from skl2onnx.common import exceptions as skl2onnx_errors
from skl2onnx.operator_converters import imputer_op
from sklearn.impute import SimpleImputer

from windlass import errors
from windlass.packaging.capture import sklearn_trees, tables, trees
from windlass.runtimes import base as runtimes
from windlass.runtimes import onnx as onnx_runtime
from windlass.types import tensor

_INNER = "sklearn_"
# Their last bits depend on the order of adding up, which no two libraries share.
_SUMS = {"MatMul", "Gemm", "ReduceSum", "ReduceMean", "ReduceSumSquare", "Normalizer", "LinearClassifier"}
_CLASS = re.compile(r"class '([\w.]+)'")
_KINDS = {
    "FP32": data_types.FloatTensorType,
    "FP64": data_types.DoubleTensorType,
    "INT64": data_types.Int64TensorType,
    "BYTES": data_types.StringTensorType,
}


class Layout(NamedTuple):
    """How the model is asked: `columns` are (name, datatype) apart, or the columns of one matrix of `datatype`.

    `split` says that the matrix must be taken apart, since the model selects columns by name.
    """

    columns: Sequence[tuple[str, str]]
    datatype: str
    separate: bool
    split: bool


class Written(NamedTuple):
    """The model's bytes, whether it decides by trees, whether sums over columns stand beside them, and what to tell."""

    model: bytes
    trees: bool
    sums: bool
    notes: tuple[str, ...]


def write(estimator: Any, layout: Layout, expected: tensor.Tensors, few: tensor.Tensors) -> Written:
    """The model; `expected` are the estimator's own answers for `few` rows, whose names and shapes it will have.

    `CaptureFailed` names the step that cannot be written.
    """
    failures: list[Exception] = []
    for working in ("FP64", "FP32"):
        try:
            inner = _convert(estimator, layout, working)
            model = _wrap(inner, layout, working, expected)
            loaded = onnx_runtime.OnnxRuntime.load({onnx_runtime.MODEL_FILE: model}, runtimes.Options())
            loaded.run(few)
        except errors.CaptureFailed:
            raise
        except Exception as e:  # noqa: BLE001 -- skl2onnx raises whatever its converters run into
            failures.append(e)
            continue
        notes = () if working == "FP64" else ("the model computes in float: it could not be written in double.",)
        operators = {node.op_type for node in inner.graph.node}
        has_trees = any(name.startswith("TreeEnsemble") for name in operators)
        return Written(model, has_trees, bool(operators & _SUMS), notes)
    raise _refusal(estimator, failures)


def _convert(estimator: Any, layout: Layout, working: str) -> onnx.ModelProto:
    """What skl2onnx makes of it, its names prefixed so that none can meet a public one."""
    if layout.separate or layout.split:
        types = [(name, _KINDS[_work(kind, working)]([None, 1])) for name, kind in layout.columns]
    else:
        types = [(tables.INPUT, _KINDS[working]([None, len(layout.columns)]))]
    final = _final(estimator)
    if getattr(final, "flatten_transform", False):
        # It matters to `transform` only, and skl2onnx refuses a vote that has it.
        estimator = copy.deepcopy(estimator)
        final = _final(estimator)
        final.flatten_transform = False
    parsers, conversions, shapes = sklearn_trees.converters()
    plain = type(final) in conversions or not hasattr(final, "predict_proba")
    made = skl2onnx.convert_sklearn(
        estimator,
        initial_types=types,
        target_opset=dict(trees.OPSETS),
        # One tensor of probabilities, not a list of dictionaries.
        options={id(final): {} if plain else {"zipmap": False}},
        custom_parsers=parsers,
        custom_conversion_functions={**conversions, SimpleImputer: _impute},
        custom_shape_calculators=shapes,
    )
    return onnx.compose.add_prefix(made, _INNER)


def _final(estimator: Any) -> Any:
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _impute(scope: Any, operator: Any, container: Any) -> None:
    """Fill gaps in double; skl2onnx would narrow every number to float on the way."""
    imputer, source = operator.raw_operator, operator.inputs[0]
    plain = len(operator.inputs) == 1 and isinstance(source.type, data_types.DoubleTensorType)
    if not plain or imputer.add_indicator or not _is_nan(imputer.missing_values):
        imputer_op.convert_sklearn_imputer(scope, operator, container)
        return
    graph = trees.Graph(scope.get_unique_operator_name("impute") + "_")
    fill = graph.constant(np.asarray(imputer.statistics_, np.float64)[None, :])
    gap = graph.add("IsNaN", source.full_name)
    graph.add("Where", gap, fill, source.full_name, result=operator.outputs[0].full_name)
    sklearn_trees.put(graph, container)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


def _work(kind: str, working: str) -> str:
    """Numbers are computed in `working`; codes and text stay as they are."""
    return working if kind in ("FP32", "FP64") else kind


def _wrap(inner: onnx.ModelProto, layout: Layout, working: str, expected: tensor.Tensors) -> bytes:
    """The model with public names, datatypes and shapes around `inner`."""
    graph = trees.Graph()
    if layout.separate:
        given = [_value(name, kind, ["batch", 1]) for name, kind in layout.columns]
        for name, kind in layout.columns:
            graph.cast(name, _work(kind, working), result=_INNER + name)
    else:
        given = [_value(tables.INPUT, layout.datatype, ["batch", len(layout.columns)])]
        source = tables.INPUT if layout.datatype == working else graph.cast(tables.INPUT, working)
        if layout.split:
            names = [_INNER + name for name, _ in layout.columns]
            split = helper.make_node("Split", [source], names, name="columns", axis=1, num_outputs=len(names))
            graph.nodes.append(split)
        else:
            graph.add("Identity", source, result=_INNER + tables.INPUT)
    graph.nodes.extend(inner.graph.node)
    graph.constants.extend(inner.graph.initializer)
    answers = []
    for (name, array), output in zip(expected.items(), inner.graph.output, strict=False):
        kind = tensor.datatype(array)
        shape = graph.constant(np.array([-1, *array.shape[1:]], np.int64))
        graph.cast(graph.add("Reshape", output.name, shape), kind, result=name)
        answers.append(_value(name, kind, ["batch", *array.shape[1:]]))
    return graph.model(given, answers)


def _value(name: str, datatype: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, trees.onnx_type(datatype), shape)


def _refusal(estimator: Any, failures: list[Exception]) -> errors.CaptureFailed:
    missing = (skl2onnx_errors.MissingShapeCalculator, skl2onnx_errors.MissingConverter)
    for failure in failures:
        if isinstance(failure, missing):
            named = _CLASS.search(str(failure))
            step = named.group(1) if named else type(estimator).__name__
            return errors.CaptureFailed(
                f"the step '{step}' has no ONNX form: skl2onnx does not know it.",
                hint="Use a step that skl2onnx knows, or do what it does before the model and capture the rest.",
            )
    reason = str(failures[0]).strip().split("\n")[0][:300]
    return errors.CaptureFailed(
        f"skl2onnx could not write {type(estimator).__name__} as ONNX: {type(failures[0]).__name__}: {reason}",
        hint="Capture its steps one by one to find which it is, and replace that one.",
    )
