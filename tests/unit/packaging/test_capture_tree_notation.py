"""Trees in our notation against a walk by hand: every comparison, gap, category, precision and link."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging.capture import boosters, trees
from windlass.runtimes import base as runtimes
from windlass.runtimes import onnx as onnx_runtime

FEATURES = 3
CODED = FEATURES - 1


def walk(tree: trees.Tree, row: Any, compares: str) -> float:
    node = 0
    while tree.left[node] >= 0:
        value = row[tree.feature[node]]
        if math.isnan(value):
            left = tree.missing_left[node]
        elif node in tree.members:
            left = int(value) in tree.members[node]
        else:
            left = value <= tree.threshold[node] if compares == "BRANCH_LEQ" else value < tree.threshold[node]
        node = tree.left[node] if left else tree.right[node]
    return float(tree.value[node])


def grow(rng: np.random.Generator, thresholds: list[float], depth: int) -> trees.Tree:
    tree = trees.Tree([], [], [], [], [], [], members={})
    waiting = [0]

    def add(leaf: bool) -> int:
        node = len(tree.left)
        coded = not leaf and rng.random() < 0.3
        tree.feature.append(CODED if coded else int(rng.integers(CODED)))
        tree.threshold.append(float(rng.choice(thresholds)))
        tree.left.append(-1)
        tree.right.append(-1)
        tree.missing_left.append(bool(rng.integers(2)))
        tree.value.append(float(np.float32(rng.standard_normal())))
        if coded:
            chosen = rng.choice(40, size=int(rng.integers(1, 6)), replace=False)
            tree.members[node] = tuple(float(code) for code in np.sort(chosen))
        return node

    add(leaf=depth == 0)
    for level in range(depth):
        grown = []
        for node in waiting:
            for side in (tree.left, tree.right):
                leaf = level == depth - 1 or rng.random() < 0.2
                side[node] = add(leaf)
                if not leaf:
                    grown.append(side[node])
        waiting = grown
    return tree


def run(ensemble: trees.Ensemble, rows: Any, classes: Any = ()) -> Any:
    datatype = "FP64" if rows.dtype == np.float64 else "FP32"
    model = trees.table_model(ensemble, datatype, np.asarray(classes))
    return onnx_runtime.OnnxRuntime.load({"model.onnx": model}, runtimes.Options()).run({"input": rows})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["BRANCH_LEQ", "BRANCH_LT"]), st.booleans(), st.integers(0, 4))
def test_any_tree_answers_as_it_is_walked(seed: int, compares: Any, double: bool, depth: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.float64 if double else np.float32
    thresholds = [float(value) for value in rng.standard_normal(4).astype(dtype)]
    grown = tuple(grow(rng, thresholds, depth) for _ in range(3))
    rows = rng.standard_normal((40, FEATURES)).astype(dtype)
    # On the thresholds themselves, a step beside them, and where nothing is known.
    near = np.array([np.nextafter(dtype(t), dtype(way)) for t in thresholds for way in (-9, t, 9)], dtype)
    rows[:30, :CODED] = rng.choice(near, (30, CODED))
    rows[:, CODED] = rng.integers(0, 41, 40)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    ensemble = trees.Ensemble(grown, FEATURES, (0.5,), compares, double=double)
    expected = [0.5 + sum(walk(tree, row, compares) for tree in grown) for row in rows]
    np.testing.assert_allclose(run(ensemble, rows)["prediction"], expected, rtol=1e-5, atol=1e-6)


def test_a_double_threshold_is_not_rounded_and_a_float_input_is_widened() -> None:
    # The float nearest to this threshold lies above it, so a rounded threshold would send that float left.
    threshold = float(np.float32(0.1)) - 1e-12
    tree = trees.Tree([0, 0, 0], [threshold, 0, 0], [1, -1, -1], [2, -1, -1], [False] * 3, [0, 1.0, 2.0])
    exact = trees.Ensemble((tree,), 1, (0.0,), "BRANCH_LEQ", double=True)
    rounded = trees.Ensemble((tree,), 1, (0.0,), "BRANCH_LEQ", double=False)
    row = np.array([[0.1]], np.float32)
    assert run(exact, row)["prediction"].tolist() == [2]
    assert run(rounded, row)["prediction"].tolist() == [1]
    assert run(exact, np.array([[threshold]]))["prediction"].tolist() == [1]


LEAF = trees.Tree([0], [0.0], [-1], [-1], [False], [1.5])


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("identity", 2.0),
        ("sigmoid", 1 / (1 + math.exp(-2))),
        ("exp", math.exp(2)),
        ("signed_square", 4.0),
        ("log1p_exp", math.log1p(math.exp(2))),
        ("step", 1.0),
    ],
)
def test_links(link: Any, expected: float) -> None:
    ensemble = trees.Ensemble((LEAF,), 1, (0.5,), "BRANCH_LT", double=False, link=link)
    assert run(ensemble, np.zeros((1, 1), np.float32))["prediction"][0] == pytest.approx(expected, rel=1e-6)


def test_leaves_of_several_targets_and_labels_of_text() -> None:
    tree = trees.Tree(
        [0, 0, 0], [0.0] * 3, [1, -1, -1], [2, -1, -1], [False] * 3, np.array([[0, 0, 0], [0, 3, 1], [0, 0, 0]])
    )
    ensemble = trees.Ensemble((tree,), 1, (0.0,) * 3, "BRANCH_LEQ", double=False, steepness=0.25)
    made = run(ensemble, np.array([[-1], [1]], np.float32), np.array(["x", "y", "z"], object))
    assert made["label"].tolist() == [b"y", b"x"]
    assert made["probabilities"].tolist() == [[0, 0.75, 0.25], [0, 0, 0]]


def xgboost_document(**changes: Any) -> dict[str, Any]:
    learner = {
        "gradient_booster": {"name": "gbtree", "model": {"trees": [], "tree_info": []}},
        "objective": {"name": "binary:logistic"},
        "learner_model_param": {"num_class": "0", "num_target": "1", "num_feature": "2", "base_score": "[2.5E-1]"},
        **changes,
    }
    return {"learner": learner}


def test_an_xgboost_base_score_is_a_prediction() -> None:
    assert boosters.read_xgboost(xgboost_document()).base == (pytest.approx(math.log(1 / 3)),)
    several = {"num_class": "2", "num_feature": "2", "base_score": "[1E-1,2E-1]"}
    softmax = boosters.read_xgboost(xgboost_document(objective={"name": "multi:softprob"}, learner_model_param=several))
    assert softmax.base == (0.1, 0.2)
    older = boosters.read_xgboost(
        xgboost_document(objective={"name": "multi:softprob"}, learner_model_param={**several, "base_score": "5E-1"})
    )
    assert older.base == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient_booster": {"name": "gblinear"}}, "gblinear"),
        ({"objective": {"name": "my:own"}}, "my:own"),
        (
            {
                "gradient_booster": {
                    "name": "gbtree",
                    "model": {
                        "tree_info": [0],
                        "trees": [
                            {
                                "tree_param": {"size_leaf_vector": "3"},
                                "left_children": [-1],
                                "right_children": [-1],
                                "split_conditions": [0.0],
                                "default_left": [0],
                                "split_indices": [0],
                            }
                        ],
                    },
                }
            },
            "several outputs a leaf",
        ),
    ],
)
def test_what_onnx_lacks_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.CaptureFailed, match=words):
        boosters.read_xgboost(xgboost_document(**changes))


def lightgbm_document(**changes: Any) -> dict[str, Any]:
    node = {
        "split_feature": 0,
        "threshold": -1.0,
        "decision_type": "<=",
        "default_left": True,
        "missing_type": "None",
        "left_child": {"leaf_value": 2.0},
        "right_child": {"leaf_value": 4.0},
        **changes,
    }
    return {
        "objective": "regression",
        "num_tree_per_iteration": 1,
        "max_feature_idx": 0,
        "tree_info": [{"tree_structure": node}],
    }


@pytest.mark.parametrize(
    ("changes", "missing", "zero"),
    [
        ({}, 4.0, 4.0),
        ({"threshold": 1.0}, 2.0, 2.0),
        ({"missing_type": "NaN"}, 2.0, 4.0),
        ({"missing_type": "NaN", "default_left": False}, 4.0, 4.0),
        ({"missing_type": "Zero", "default_left": False}, 4.0, 4.0),
        ({"decision_type": "==", "threshold": "0||3"}, 4.0, 2.0),
        ({"decision_type": "==", "threshold": "1||3", "missing_type": "NaN"}, 4.0, 4.0),
    ],
)
def test_lightgbm_sends_gaps_where_it_says(changes: dict[str, Any], missing: float, zero: float) -> None:
    ensemble = boosters.read_lightgbm(lightgbm_document(**changes))
    made = run(ensemble, np.array([[np.nan], [0.0]]))["prediction"]
    assert made.tolist() == [missing, zero]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (lightgbm_document(missing_type="Zero"), "zero_as_missing"),
        (lightgbm_document(left_child={"leaf_value": 1.0, "leaf_const": 1.0}), "linear"),
        ({**lightgbm_document(), "objective": "custom"}, "custom"),
    ],
)
def test_lightgbm_models_beyond_onnx_are_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.CaptureFailed, match=words):
        boosters.read_lightgbm(document)


def test_rows_near_a_model_fall_on_both_sides_of_its_splits() -> None:
    tree = trees.Tree(
        [0, 1, 0, 0, 0],
        [7.0, 0, 0, 0, 0],
        [1, 3, -1, -1, -1],
        [2, 4, -1, -1, -1],
        [False] * 5,
        [0, 0, 1, 2, 3],
        members={1: (4.0,)},
    )
    rows = boosters.rows_near(
        trees.Ensemble((tree,), 3, (0.0,), "BRANCH_LT", double=False), 200, np.random.default_rng(0)
    )
    assert rows.shape == (200, 3)
    assert rows.dtype == np.float32
    assert 20 < (rows[:, 0] < 7).sum() < 180
    assert set(rows[:, 1]) == {0, 1, 2, 3, 4, 5}
