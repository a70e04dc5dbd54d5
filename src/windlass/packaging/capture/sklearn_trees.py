"""Scikit-learn's tree estimators as `trees.Ensemble`s, and converters by which skl2onnx writes them into a pipeline.

Used by `sklearn.py`, which hands the converters to skl2onnx for one conversion and leaves its registry alone. XGBoost
and LightGBM estimators at the end of a pipeline go the same way. Must never import a framework that is not loaded.

What scikit-learn does with a number on its way to a threshold is kept: trees and forests narrow it to float before they
compare it with a double, histogram boosting does not narrow it; both add up in double.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sklearn.ensemble
import sklearn.tree
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType, guess_tensor_type

from windlass import errors
from windlass.packaging.capture import boosters, trees


class Described(NamedTuple):
    """An estimator's ensemble. `narrows`: numbers become float before they are compared. `classes`: None to regress."""

    ensemble: trees.Ensemble
    narrows: bool
    classes: Any


def _averaged(model: Any) -> Described:
    """Decision trees, extra trees and forests of them: the mean of the leaves."""
    members = getattr(model, "estimators_", None)
    members = [model] if members is None else list(members)
    if model.n_outputs_ > 1 and hasattr(model, "classes_"):
        raise errors.CaptureFailed(
            f"{type(model).__name__} answers {model.n_outputs_} questions at once.",
            hint="Capture one classifier for each output.",
        )
    found = tuple(_tree(member.tree_) for member in members)
    width = len(model.classes_) if hasattr(model, "classes_") else model.n_outputs_
    ensemble = trees.Ensemble(
        found, model.n_features_in_, (0.0,) * width, "BRANCH_LEQ", double=True, steepness=1 / len(found)
    )
    return Described(ensemble, narrows=True, classes=getattr(model, "classes_", None))


def _tree(tree: Any, *, target: int = 0, rate: float | None = None) -> trees.Tree:
    """One of scikit-learn's trees. With a learning `rate` its leaves are numbers for `target`."""
    leaf = tree.children_left < 0
    values = tree.value[:, :, 0] if tree.n_outputs > 1 or tree.n_classes[0] == 1 else tree.value[:, 0, :]
    if tree.n_classes[0] > 1:
        values = values / values.sum(axis=1, keepdims=True)
    missing = getattr(tree, "missing_go_to_left", None)
    return trees.Tree(
        feature=np.where(leaf, 0, tree.feature).tolist(),
        threshold=tree.threshold.tolist(),
        left=tree.children_left.tolist(),
        right=tree.children_right.tolist(),
        missing_left=[False] * tree.node_count if missing is None else missing.astype(bool).tolist(),
        value=values if rate is None else (rate * values[:, 0]).tolist(),
        target=target,
    )


def _gradient(model: Any) -> Described:
    """Gradient boosting: a constant, plus the leaves times the learning rate."""
    if model.init_ != "zero" and type(model.init_).__module__ != "sklearn.dummy":
        raise errors.CaptureFailed(
            f"{type(model).__name__} starts from a {type(model.init_).__name__}.", hint="Train it without 'init'."
        )
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_)))[0]  # noqa: SLF001 -- no public name
    found = [
        _tree(member.tree_, target=target, rate=model.learning_rate)
        for stage in model.estimators_
        for target, member in enumerate(stage)
    ]
    classes = getattr(model, "classes_", None)
    exponential = classes is not None and model.loss == "exponential"
    ensemble = trees.Ensemble(
        tuple(found),
        model.n_features_in_,
        tuple(float(value) for value in start),
        "BRANCH_LEQ",
        double=True,
        link=_link(classes),
        steepness=2.0 if exponential else 1.0,
    )
    return Described(ensemble, narrows=True, classes=classes)


def _histogram(model: Any) -> Described:
    """Histogram gradient boosting, without its own handling of categories."""
    if getattr(model, "_preprocessor", None) is not None:
        raise errors.CaptureFailed(
            f"{type(model).__name__} encodes its categories by itself.",
            hint="Put an OrdinalEncoder before it in a pipeline, and train it with categorical_features=None.",
        )
    predictors, start = model._predictors, np.ravel(model._baseline_prediction)  # noqa: SLF001 -- no public name
    classes = getattr(model, "classes_", None)
    link: trees.Link = "exp" if classes is None and model.loss in ("poisson", "gamma") else _link(classes)
    found = [
        _histogram_tree(predictor.nodes, target)
        for iteration in predictors
        for target, predictor in enumerate(iteration)
    ]
    base = tuple(float(value) for value in start)
    ensemble = trees.Ensemble(tuple(found), model.n_features_in_, base, "BRANCH_LEQ", double=True, link=link)
    return Described(ensemble, narrows=False, classes=classes)


def _histogram_tree(nodes: Any, target: int) -> trees.Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return trees.Tree(
        feature=nodes["feature_idx"].tolist(),
        threshold=nodes["num_threshold"].tolist(),
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)).tolist(),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)).tolist(),
        missing_left=nodes["missing_go_to_left"].astype(bool).tolist(),
        value=nodes["value"].tolist(),
        target=target,
    )


def _link(classes: Any) -> trees.Link:
    if classes is None:
        return "identity"
    return "sigmoid" if len(classes) == 2 else "softmax"


def _xgboost(model: Any) -> Described:
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    booster = booster if best is None else booster[: int(best) + 1]
    ensemble = boosters.read_xgboost(json.loads(bytes(booster.save_raw("json"))))
    return Described(ensemble, narrows=True, classes=getattr(model, "classes_", None))


def _lightgbm(model: Any) -> Described:
    ensemble = boosters.read_lightgbm(model.booster_.dump_model())
    return Described(ensemble, narrows=False, classes=getattr(model, "classes_", None))


def descriptions() -> dict[type, Callable[[Any], Described]]:
    """What can be described, by type: scikit-learn's estimators, and those of other frameworks that are loaded."""
    found: dict[type, Callable[[Any], Described]] = {}
    for room, names in (
        (sklearn.tree, ("DecisionTree", "ExtraTree")),
        (sklearn.ensemble, ("RandomForest", "ExtraTrees")),
    ):
        found |= {getattr(room, name + kind): _averaged for name in names for kind in ("Classifier", "Regressor")}
    for kind in ("Classifier", "Regressor"):
        found[getattr(sklearn.ensemble, "GradientBoosting" + kind)] = _gradient
        found[getattr(sklearn.ensemble, "HistGradientBoosting" + kind)] = _histogram
        if "xgboost" in sys.modules:
            found[getattr(sys.modules["xgboost"], "XGB" + kind)] = _xgboost
            found[getattr(sys.modules["xgboost"], "XGBRF" + kind)] = _xgboost
        if "lightgbm" in sys.modules:
            found[getattr(sys.modules["lightgbm"], "LGBM" + kind)] = _lightgbm
    return found


def converters() -> tuple[dict[type, Any], dict[type, Any], dict[type, Any]]:
    """Parsers, conversion functions and shape calculators for skl2onnx, by type."""
    known = descriptions()
    return (
        dict.fromkeys(known, _parse),
        {kind: _converter(describe) for kind, describe in known.items()},
        dict.fromkeys(known, _shapes),
    )


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:  # noqa: ARG001 -- skl2onnx's call
    """Declare the estimator's outputs."""
    operator = scope.declare_local_operator("WindlassTrees", model)
    operator.inputs = inputs
    names = ("label", "probabilities") if hasattr(model, "classes_") else ("prediction",)
    for name in names:
        kind = Int64TensorType() if name == "label" else guess_tensor_type(inputs[0].type)
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return operator.outputs


def _shapes(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    classes = getattr(operator.raw_operator, "classes_", None)
    numbers = type(operator.outputs[-1].type)
    if classes is None:
        operator.outputs[0].type = numbers([rows, getattr(operator.raw_operator, "n_outputs_", 1)])
    else:
        text = _class_values(classes).dtype == object
        operator.outputs[0].type = StringTensorType([rows]) if text else Int64TensorType([rows])
        operator.outputs[1].type = numbers([rows, len(classes)])


def _converter(describe: Callable[[Any], Described]) -> Callable[[Any, Any, Any], None]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        described = describe(operator.raw_operator)
        graph = trees.Graph(scope.get_unique_operator_name("trees") + "_")
        source = operator.inputs[0].full_name
        if described.narrows:
            source = graph.cast(source, "FP32")
        if described.ensemble.double:
            source = graph.cast(source, "FP64")
        results = [output.full_name for output in operator.outputs]
        numbers = "FP64" if isinstance(operator.outputs[-1].type, DoubleTensorType) else "FP32"
        if described.classes is None:
            graph.cast(trees.scores(graph, described.ensemble, source), numbers, result=results[0])
        else:
            found = trees.probabilities(graph, described.ensemble, source)
            graph.cast(found, numbers, result=results[1])
            trees.label(graph, found, _class_values(described.classes), result=results[0])
        put(graph, container)

    return convert


def put(graph: trees.Graph, container: Any) -> None:
    """Hand a graph's operators and constants to skl2onnx's container."""
    for node in graph.nodes:
        container.nodes.append(node)
        container.node_domain_version_pair_sets.add((node.domain, trees.OPSETS[node.domain]))
    container.initializers.extend(graph.constants)


def _class_values(classes: Any) -> Any:
    """The classes as skl2onnx declares labels: INT64 for numbers, else text."""
    if classes.dtype.kind in "iubf":
        return classes.astype(np.int64)
    texts = np.empty(len(classes), object)
    texts[:] = [str(value) for value in classes]
    return texts
