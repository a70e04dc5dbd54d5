"""Scikit-learn, XGBoost and LightGBM to packages that answer as they do, to the row: at splits, at gaps, by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import threadpoolctl
import xgboost
from onnx import numpy_helper
from sklearn import (
    compose,
    datasets,
    decomposition,
    ensemble,
    impute,
    linear_model,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from windlass import errors
from windlass.packaging import build, draft, parity, session
from windlass.packaging.capture import base
from windlass.packaging.capture import lightgbm as lightgbm_source
from windlass.packaging.capture import sklearn as sklearn_source
from windlass.packaging.capture import xgboost as xgboost_source
from windlass.runtimes import base as runtimes
from windlass.runtimes import onnx as onnx_runtime

CANCER = datasets.load_breast_cancer()
X, Y = CANCER.data, CANCER.target
GAPS = X.copy()
GAPS[::7, 3] = np.nan
IRIS, KINDS = datasets.load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[KINDS]
SUGAR, TARGET = datasets.load_diabetes(return_X_y=True)
CODES = IRIS.copy()
CODES[:, 0] = np.floor(CODES[:, 0] * 4 - 16)
FEW = {"n_estimators": 10, "random_state": 0}
XGB = {"n_estimators": 10, "n_jobs": 1}
LGB = {"n_estimators": 10, "n_jobs": 1, "verbose": -1, "random_state": 0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def capture(model: Any, example: Any = None, **options: Any) -> draft.Draft:
    source = {"xgboost": xgboost_source.XGBoostModel, "lightgbm": lightgbm_source.LightGBMModel}.get(
        type(model).__module__.split(".")[0], sklearn_source.SklearnModel
    )
    if isinstance(model, Path):
        source = next(s for s in (xgboost_source.XGBoostModel, lightgbm_source.LightGBMModel) if s.accepts(model))
    given = example if isinstance(example, dict) or example is None else {"": example}
    assert source.accepts(model)
    return source.capture(model, base.Options(example=given, **options))


def opened(drafted: draft.Draft) -> session.Session:
    return session.open(build.build(drafted, name="model"))


def agrees(drafted: draft.Draft) -> dict[str, Any]:
    model = onnx_runtime.OnnxRuntime.load(drafted.files, runtimes.Options())
    return parity.check(model, drafted)


FRAMED = pd.DataFrame(
    {
        "age": np.where(np.arange(300) % 9 == 0, np.nan, np.random.default_rng(0).integers(18, 90, 300)),
        "fare": np.random.default_rng(1).gamma(2, 30, 300),
        "port": np.random.default_rng(2).choice(["S", "C", "Q"], 300),
        "cabin": np.random.default_rng(3).integers(1, 4, 300),
    }
)
SURVIVED = ((FRAMED["fare"] > 50) ^ (FRAMED["port"] == "S") | (FRAMED["cabin"] == 1)).astype(int)


def framed(final: Any, unknown: str = "ignore") -> Any:
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    columns = compose.ColumnTransformer(
        [
            ("numbers", numbers, ["age", "fare"]),
            ("kinds", preprocessing.OneHotEncoder(handle_unknown=unknown, sparse_output=False), ["port", "cabin"]),
        ]
    )
    return pipeline.make_pipeline(columns, final).fit(FRAMED, SURVIVED)


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    return {name: frame[name].to_numpy() for name in frame}


SCALED = pipeline.make_pipeline
TREES = {
    "tree": (tree.DecisionTreeClassifier(random_state=0), X, Y),
    "tree regressor": (tree.DecisionTreeRegressor(random_state=0), SUGAR, TARGET),
    "forest": (ensemble.RandomForestClassifier(**FEW), X, Y),
    "forest with gaps": (ensemble.RandomForestClassifier(**FEW), GAPS, Y),
    "forest, text classes": (ensemble.RandomForestClassifier(**FEW), IRIS, NAMES),
    "forest, float input": (ensemble.RandomForestClassifier(**FEW), X.astype(np.float32), Y),
    "forest, two targets": (ensemble.RandomForestRegressor(**FEW), SUGAR, np.stack([TARGET, -TARGET], axis=1)),
    "boosting": (ensemble.GradientBoostingClassifier(**FEW), IRIS, KINDS),
    "boosting, exponential": (ensemble.GradientBoostingClassifier(loss="exponential", **FEW), X, Y),
    "boosting regressor": (ensemble.GradientBoostingRegressor(**FEW), SUGAR, TARGET),
    "histogram": (ensemble.HistGradientBoostingClassifier(max_iter=5), GAPS, Y),
    "histogram, poisson": (ensemble.HistGradientBoostingRegressor(max_iter=5, loss="poisson"), SUGAR, TARGET),
    "scaled forest": (SCALED(preprocessing.StandardScaler(), ensemble.RandomForestClassifier(**FEW)), X, Y),
    "imputed, scaled histogram": (
        SCALED(
            impute.SimpleImputer(), preprocessing.StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=5)
        ),
        GAPS,
        Y,
    ),
    "scaled xgboost": (SCALED(preprocessing.StandardScaler(), xgboost.XGBClassifier(**XGB)), X, Y),
    "scaled lightgbm": (SCALED(preprocessing.StandardScaler(), lightgbm.LGBMClassifier(**LGB)), X, Y),
    "voting": (
        ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression(max_iter=9999)), ("b", ensemble.RandomForestClassifier(**FEW))],
            voting="soft",
        ),
        IRIS,
        KINDS,
    ),
    "xgboost": (xgboost.XGBClassifier(**XGB), X, Y),
    "xgboost with gaps": (xgboost.XGBClassifier(**XGB), GAPS, Y),
    "xgboost, three": (xgboost.XGBClassifier(**XGB), IRIS, KINDS),
    "xgboost, dart": (xgboost.XGBClassifier(booster="dart", rate_drop=0.3, **XGB), X, Y),
    "xgboost, forest": (xgboost.XGBRFClassifier(**XGB), X, Y),
    "xgboost, poisson": (xgboost.XGBRegressor(objective="count:poisson", **XGB), SUGAR, TARGET),
    "xgboost, two targets": (xgboost.XGBRegressor(**XGB), SUGAR, np.stack([TARGET, -TARGET], axis=1)),
    "lightgbm": (lightgbm.LGBMClassifier(**LGB), X, Y),
    "lightgbm with gaps": (lightgbm.LGBMClassifier(**LGB), GAPS, Y),
    "lightgbm, text classes": (lightgbm.LGBMClassifier(**LGB), IRIS, NAMES),
    "lightgbm, float input": (lightgbm.LGBMClassifier(**LGB), X.astype(np.float32), Y),
    "lightgbm, one against all": (lightgbm.LGBMClassifier(objective="multiclassova", **LGB), IRIS, KINDS),
    "lightgbm, forest": (
        lightgbm.LGBMClassifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, **LGB),
        X,
        Y,
    ),
    "lightgbm, square root": (lightgbm.LGBMRegressor(reg_sqrt=True, **LGB), SUGAR, TARGET),
    "lightgbm, gamma": (lightgbm.LGBMRegressor(objective="gamma", **LGB), SUGAR, TARGET),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_answer_alike_on_both_sides_of_every_split(name: str) -> None:
    model, example, target = TREES[name]
    drafted = capture(model.fit(example, target), example)
    assert drafted.trees
    assert not drafted.synthetic
    found = agrees(drafted)
    assert found["rows"] >= 1000
    assert all(difference["relative"] < 1e-5 for difference in found["worst_difference"].values())


def test_categories_of_xgboost_and_lightgbm() -> None:
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_cat_to_onehot": 1},
        xgboost.DMatrix(CODES, KINDS, feature_types=["c", "q", "q", "q"], enable_categorical=True),
        8,
    )
    assert agrees(capture(booster, CODES))["rows"] >= 1000
    coded = lightgbm.LGBMClassifier(min_data_per_group=1, cat_smooth=1, max_cat_to_onehot=1, **LGB)
    coded.fit(CODES, KINDS, categorical_feature=[0])
    assert agrees(capture(coded, CODES))["rows"] >= 1000


def test_sums_before_trees_keep_away_from_the_splits_and_say_so() -> None:
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), decomposition.PCA(5), ensemble.RandomForestClassifier(**FEW)
    )
    drafted = capture(model.fit(X, Y), X)
    assert agrees(drafted)["rows"] >= 1000
    assert any("order of adding up" in note for note in drafted.notes)


OTHERS = {
    "logistic": (
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
        X,
        Y,
        ("label", "probabilities"),
    ),
    "ridge": (linear_model.Ridge(), SUGAR, TARGET, ("prediction",)),
    "linear svm": (
        pipeline.make_pipeline(preprocessing.StandardScaler(), svm.LinearSVC()),
        X,
        Y,
        ("label",),
    ),
    "svm regressor": (svm.SVR(), SUGAR, TARGET, ("prediction",)),
    "components": (decomposition.PCA(2), IRIS, None, ("output",)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_of_scikit_learn(name: str) -> None:
    model, example, target, outputs = OTHERS[name]
    drafted = capture(model.fit(example, target), example)
    assert not drafted.trees
    assert tuple(spec.name for spec in drafted.signature.outputs) == outputs
    agrees(drafted)


@pytest.mark.parametrize("model", [ensemble.RandomForestClassifier(**FEW), lightgbm.LGBMClassifier(**LGB)])
def test_parity_sees_what_rounding_a_threshold_would_do(model: Any) -> None:
    drafted = capture(model.fit(X, Y), X)
    changed = onnx.load_from_string(drafted.files["model.onnx"])
    node = next(node for node in changed.graph.node if node.op_type == "TreeEnsembleRegressor")
    values = next(attribute for attribute in node.attribute if attribute.name == "nodes_values_as_tensor")
    exact = numpy_helper.to_array(values.t)
    up = np.nextafter(exact.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    values.t.CopyFrom(numpy_helper.from_array(up))
    assert agrees(drafted)["rows"] >= 1000
    with pytest.raises(errors.GateRefused, match="at splits"):
        agrees(msgspec.structs.replace(drafted, files={"model.onnx": changed.SerializeToString()}))


def test_without_an_example_rows_come_from_the_models_own_thresholds() -> None:
    for model in (
        ensemble.RandomForestClassifier(**FEW),
        pipeline.make_pipeline(preprocessing.StandardScaler(), ensemble.RandomForestClassifier(**FEW)),
        xgboost.XGBClassifier(**XGB),
        lightgbm.LGBMClassifier(**LGB),
    ):
        drafted = capture(model.fit(X, Y))
        assert drafted.synthetic
        labels = np.concatenate([trial.outputs["label"] for trial in drafted.trials])
        assert set(labels) == {0, 1}
        agrees(drafted)


def test_a_row_by_column_names_gets_a_label() -> None:
    frame = pd.DataFrame(X, columns=CANCER.feature_names)
    model = ensemble.RandomForestClassifier(**FEW).fit(frame, Y)
    ready = opened(capture(model, columns(frame), labels=("malignant", "benign")))
    assert [field.name for field in ready.transformer.fields] == list(CANCER.feature_names)
    frame = frame[:100]
    answer = ready.predict(columns(frame))
    expected = model.predict_proba(frame)
    assert answer["label"].tolist() == [("malignant", "benign")[row.argmax()] for row in expected]
    np.testing.assert_allclose(answer["score"], expected.max(axis=1), rtol=1e-6)
    tensors = ready.run({"input": X[:3]})
    np.testing.assert_allclose(tensors["probabilities"], expected[:3], rtol=1e-6)


@pytest.mark.parametrize(
    "final",
    [
        linear_model.LogisticRegression(),
        ensemble.RandomForestClassifier(**FEW),
        ensemble.HistGradientBoostingClassifier(max_iter=5),
        xgboost.XGBClassifier(**XGB),
    ],
    ids=lambda final: type(final).__name__,
)
def test_columns_of_text_and_numbers_stay_apart(final: Any) -> None:
    model = framed(final)
    drafted = capture(model, columns(FRAMED))
    assert [(spec.name, spec.datatype, spec.shape) for spec in drafted.signature.inputs] == [
        ("age", "FP64", ("batch", 1)),
        ("fare", "FP64", ("batch", 1)),
        ("port", "BYTES", ("batch", 1)),
        ("cabin", "INT64", ("batch", 1)),
    ]
    agrees(drafted)
    strangers = FRAMED[:20].assign(port="elsewhere", cabin=99)
    answer = opened(drafted).predict({**columns(strangers), "cabin": np.full(20, 99.0), "age": np.full(20, np.nan)})
    expected = model.predict(strangers.assign(age=np.nan))
    assert answer["label"].tolist() == [str(label) for label in expected]


def test_an_encoder_that_refuses_unknown_categories_closes_the_contract() -> None:
    ready = opened(capture(framed(linear_model.LogisticRegression(), "error"), columns(FRAMED)))
    row = {"age": np.array([30.0]), "fare": np.array([9.0]), "port": np.array(["X"], object), "cabin": np.array([1.0])}
    with pytest.raises(errors.InvalidInput, match="'X' is not one of 'C', 'Q', 'S'"):
        ready.predict(row)
    tensors = {
        "age": np.array([[30.0]]),
        "fare": np.array([[9.0]]),
        "port": np.array([[b"S"]], object),
        "cabin": np.array([[7]]),
    }
    with pytest.raises(errors.InvalidInput, match="'cabin' has a value outside its 3 categories"):
        ready.run(tensors)


def test_files_of_xgboost_and_lightgbm_give_what_the_live_models_give(tmp_path: Path) -> None:
    booster = xgboost.XGBClassifier(**XGB).fit(X, Y)
    live = capture(booster, X)
    for name in ("model.ubj", "model.json", "model.xgb"):
        if name.endswith("xgb"):
            (tmp_path / name).write_bytes(booster.get_booster().save_raw("ubj"))
        else:
            booster.save_model(tmp_path / name)
        assert capture(tmp_path / name, X).files == live.files
    gradient = lightgbm.LGBMClassifier(**LGB).fit(X, Y)
    gradient.booster_.save_model(tmp_path / "model.txt")
    assert capture(tmp_path / "model.txt", X).files == capture(gradient, X).files


@pytest.mark.parametrize("name", ["model.ubj", "model.lgb"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"tree\nnonsense" if name.endswith("lgb") else b"\x00nonsense")
    with pytest.raises(errors.CaptureFailed, match=name):
        capture(tmp_path / name, X)


def test_a_pickle_is_captured_by_whoever_knows_what_is_in_it(tmp_path: Path) -> None:
    models = (tree.DecisionTreeClassifier(max_depth=3), xgboost.XGBClassifier(**XGB), lightgbm.LGBMClassifier(**LGB))
    for model in models:
        joblib.dump(model.fit(X, Y), tmp_path / "model.joblib")
        found = sklearn_source.SklearnModel.capture(tmp_path / "model.joblib", base.Options(example={"": X}))
        assert found.files == capture(model, X).files


def test_a_pickle_of_something_else_or_of_nothing_is_refused(tmp_path: Path) -> None:
    joblib.dump({"not": "a model"}, tmp_path / "model.pkl")
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x04nonsense")
    for name, words in (("model.pkl", "holds a dict"), ("broken.pkl", "could not be loaded")):
        with pytest.raises(errors.CaptureFailed, match=words):
            sklearn_source.SklearnModel.capture(tmp_path / name, base.Options())


def test_early_stopping_leaves_out_the_later_trees() -> None:
    model = xgboost.XGBClassifier(early_stopping_rounds=2, n_estimators=200, n_jobs=1)
    model.fit(X[:400], Y[:400], eval_set=[(X[400:], Y[400:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    drafted = capture(model, X)
    agrees(drafted)
    expected = model.predict_proba(X[:50])
    made = opened(drafted).run({"input": X[:50].astype(np.float32)})
    np.testing.assert_allclose(made["probabilities"], expected, rtol=1e-5, atol=1e-7)


def test_the_users_model_is_left_as_it_is() -> None:
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=2).fit(X, Y)
    before = model.get_booster().save_config()
    capture(model, X)
    assert json.loads(model.get_booster().save_config()) == json.loads(before)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (pipeline.make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()), "SplineTransformer"),
        (pipeline.make_pipeline(preprocessing.FunctionTransformer(np.log1p), linear_model.Ridge()), "Function"),
        (ensemble.HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]), "OrdinalEncoder"),
        (xgboost.XGBRegressor(booster="gblinear", **XGB), "gblinear"),
        (lightgbm.LGBMRegressor(linear_tree=True, **LGB), "linear trees"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_is_refused_by_name(model: Any, words: str) -> None:
    with pytest.raises(errors.CaptureFailed, match=words) as caught:
        capture(model.fit(CODES[:, :3], CODES[:, 3]), CODES[:, :3])
    assert caught.value.hint


def test_a_model_that_is_not_fitted_is_refused() -> None:
    with pytest.raises(errors.CaptureFailed, match="not fitted"):
        capture(ensemble.RandomForestClassifier(), X)


@pytest.mark.parametrize(
    "example",
    [X[:, :3], X[0], {"a": X[:, 0]}, np.array([["a"] * 30], object), X[:0]],
)
def test_an_example_that_does_not_fit_is_refused(example: Any) -> None:
    for model in (tree.DecisionTreeClassifier(max_depth=2), xgboost.XGBClassifier(n_estimators=2, n_jobs=1)):
        with pytest.raises(errors.InvalidInput):
            capture(model.fit(X, Y), example)


def test_labels_must_be_as_many_as_the_classes() -> None:
    with pytest.raises(errors.InvalidInput, match="3 labels are given, the model has 2 classes"):
        capture(tree.DecisionTreeClassifier(max_depth=2).fit(X, Y), X, labels=("a", "b", "c"))
