"""Reads the trees of a boosted model out of what its framework writes about it: no code of the framework is needed.

Used by the capture sources of XGBoost and LightGBM, and by scikit-learn's for pipelines that end in one of them. What
cannot be said in ONNX with the same numbers is refused by name. Must never approximate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from windlass import errors
from windlass.packaging.capture import trees
from windlass.types import tensor

_XGBOOST_LINKS: dict[str, trees.Link] = {
    "binary:logistic": "sigmoid",
    "reg:logistic": "sigmoid",
    "binary:hinge": "step",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "binary:logitraw": "identity",
    "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity",
    "rank:pairwise": "identity",
    "rank:ndcg": "identity",
    "rank:map": "identity",
}
_LIGHTGBM_LINKS: dict[str, trees.Link] = {
    "binary": "sigmoid",
    "cross_entropy": "sigmoid",
    "multiclassova": "sigmoid",
    "multiclass": "softmax",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "cross_entropy_lambda": "log1p_exp",
    **dict.fromkeys(
        ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg"), "identity"
    ),
}
# LightGBM's missing_type, by its names in dump_model().
_AS_ZERO, _ZERO_IS_MISSING = "None", "Zero"


def read_xgboost(document: Mapping[str, Any]) -> trees.Ensemble:
    """The ensemble of an XGBoost model in its JSON form; `CaptureFailed` on a booster or objective that ONNX lacks."""
    learner = document["learner"]
    booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    kind = booster["name"]
    if kind == "dart":
        weights, booster = booster["weight_drop"], booster["gbtree"]
    elif kind == "gbtree":
        weights = []
    else:
        raise errors.CaptureFailed(
            f"an XGBoost '{kind}' booster has no trees.", hint="A linear model is captured from scikit-learn."
        )
    if objective not in _XGBOOST_LINKS:
        raise errors.CaptureFailed(f"the XGBoost objective '{objective}' is not known here.")
    link = _XGBOOST_LINKS[objective]
    parameters = learner["learner_model_param"]
    targets = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    base = _xgboost_base(parameters["base_score"], targets, objective)
    groups = booster["model"]["tree_info"]
    found = [
        _xgboost_tree(tree, group, weights[index] if weights else 1.0)
        for index, (tree, group) in enumerate(zip(booster["model"]["trees"], groups, strict=True))
    ]
    return trees.Ensemble(tuple(found), int(parameters["num_feature"]), base, "BRANCH_LT", double=False, link=link)


def _xgboost_base(text: str, targets: int, objective: str) -> tuple[float, ...]:
    """The margin that every row starts from. XGBoost stores it as a prediction: before 3.1 one number, then a list."""
    values = [float(part) for part in str(text).strip("[]").split(",")]
    values = values * targets if len(values) == 1 else values
    link = _XGBOOST_LINKS[objective]
    if link == "sigmoid":
        return tuple(-math.log(1 / value - 1) for value in values)
    if link == "exp":
        return tuple(math.log(value) for value in values)
    return tuple(values)


def _xgboost_tree(tree: Mapping[str, Any], group: int, weight: float) -> trees.Tree:
    if int(tree["tree_param"].get("size_leaf_vector", "1")) > 1:
        raise errors.CaptureFailed(
            "the XGBoost model has several outputs a leaf.", hint="Train with multi_strategy='one_output_per_tree'."
        )
    left, right = list(tree["left_children"]), list(tree["right_children"])
    conditions = tree["split_conditions"]
    missing = [bool(flag) for flag in tree["default_left"]]
    members: dict[int, tuple[float, ...]] = {}
    segments = zip(
        tree.get("categories_nodes", ()),
        tree.get("categories_segments", ()),
        tree.get("categories_sizes", ()),
        strict=True,
    )
    for node, start, size in segments:
        # XGBoost sends the categories of a split to the right.
        members[node] = tuple(float(category) for category in tree["categories"][start : start + size])
        left[node], right[node] = right[node], left[node]
        missing[node] = not missing[node]
    return trees.Tree(
        feature=tree["split_indices"],
        threshold=conditions,
        left=left,
        right=right,
        missing_left=missing,
        value=[float(np.float32(value) * np.float32(weight)) for value in conditions],
        target=group,
        members=members,
    )


def read_lightgbm(document: Mapping[str, Any]) -> trees.Ensemble:
    """The ensemble of LightGBM's `dump_model()`; `CaptureFailed` on linear trees and objectives that ONNX lacks."""
    objective, *settings = str(document.get("objective", "none")).split(" ")
    options = dict(setting.split(":") for setting in settings if ":" in setting)
    if objective not in _LIGHTGBM_LINKS:
        raise errors.CaptureFailed(
            f"the LightGBM objective '{objective}' is not known here.",
            hint="A model of a custom objective gives raw scores, which nothing in its file explains.",
        )
    targets = int(document["num_tree_per_iteration"])
    described = document["tree_info"]
    # Random forests average over iterations; boosting adds up.
    share = len(described) // targets if document.get("average_output") else 1
    found = [
        _lightgbm_tree(tree["tree_structure"], index % targets, max(share, 1)) for index, tree in enumerate(described)
    ]
    link = _LIGHTGBM_LINKS[objective]
    if "sqrt" in settings:
        link = "signed_square"
    return trees.Ensemble(
        tuple(found),
        features=int(document["max_feature_idx"]) + 1,
        base=(0.0,) * targets,
        compares="BRANCH_LEQ",
        double=True,
        link=link,
        steepness=float(options.get("sigmoid", 1.0)) if link == "sigmoid" else 1.0,
    )


def _lightgbm_tree(root: Mapping[str, Any], target: int, share: int) -> trees.Tree:
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    missing: list[bool] = []
    value: list[float] = []
    members: dict[int, tuple[float, ...]] = {}
    # Children are appended after their parent, so that no tree is too deep for recursion.
    waiting = [root]
    for node, described in enumerate(waiting):
        leaf = "leaf_value" in described
        if leaf and "leaf_const" in described:
            raise errors.CaptureFailed("ONNX has no linear trees.", hint="Train with linear_tree=False.")
        feature.append(0 if leaf else described["split_feature"])
        value.append(described["leaf_value"] / share if leaf else 0.0)
        left.append(-1 if leaf else len(waiting))
        right.append(-1 if leaf else len(waiting) + 1)
        threshold.append(0.0)
        missing.append(False)
        if leaf:
            continue
        waiting += [described["left_child"], described["right_child"]]
        if described["decision_type"] == "==":
            members[node] = tuple(float(part) for part in str(described["threshold"]).split("||"))
        else:
            threshold[node] = float(described["threshold"])
            missing[node] = _lightgbm_missing(described, threshold[node])
    return trees.Tree(feature, threshold, left, right, missing, value, target, members)


def _lightgbm_missing(described: Mapping[str, Any], threshold: float) -> bool:
    """Whether NaN goes left: where LightGBM says, or where zero goes if it takes NaN for zero."""
    zero_left = threshold >= 0
    if described["missing_type"] == _AS_ZERO:
        return zero_left
    default = bool(described["default_left"])
    if described["missing_type"] == _ZERO_IS_MISSING and default != zero_left:
        raise errors.CaptureFailed(
            "the LightGBM model takes zeros for missing and sends them against the split, which ONNX cannot say.",
            hint="Train with zero_as_missing=False.",
        )
    return default


def rows_near(ensemble: trees.Ensemble, count: int, rng: np.random.Generator) -> tensor.Array:
    """Rows `[count, features]` scattered over the thresholds of every feature, for a model that came without data."""
    seen: list[list[float]] = [[] for _ in range(ensemble.features)]
    codes: dict[int, float] = {}
    for tree in ensemble.trees:
        for node, left in enumerate(tree.left):
            if left < 0:
                continue
            feature = int(tree.feature[node])
            if node in tree.members:
                codes[feature] = max(codes.get(feature, 0.0), *tree.members[node])
            else:
                seen[feature].append(float(tree.threshold[node]))
    columns = []
    for feature, thresholds in enumerate(seen):
        if feature in codes:
            columns.append(rng.integers(0, int(codes[feature]) + 2, count).astype(np.float64))
        elif thresholds:
            spread = float(np.std(thresholds)) or max(1.0, abs(thresholds[0]))
            columns.append(rng.choice(thresholds, count) + 0.5 * spread * rng.standard_normal(count))
        else:
            columns.append(rng.standard_normal(count))
    return np.stack(columns, axis=1).astype(np.float64 if ensemble.double else np.float32)
