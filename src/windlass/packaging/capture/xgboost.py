"""Captures XGBoost models: live ones of either interface, and their JSON and UBJ files.

Found through the catalogue. The files hold data and no code, so that they are read without a sandbox. The trees are
written out from XGBoost's own JSON, in its own precision (FP32). Must never read XGBoost's old binary format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, boosters, tables, trees
from windlass.types import tensor

_SUFFIXES = (".ubj", ".xgb", ".json")
_HEAD = 4096


class XGBoostModel:
    """The plugin."""

    name: ClassVar[str] = "xgboost"
    # Its files hold no code, but a native parser reads them that was not written for hostile ones.
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 1024

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A `Booster` or scikit-learn style model of XGBoost, or a `.ubj`, `.xgb` or (by its content) `.json` file."""
        if isinstance(source, Path):
            if source.suffix not in _SUFFIXES or not source.is_file():
                return False
            with source.open("rb") as file:
                return source.suffix != ".json" or b'"learner"' in file.read(_HEAD)
        return type(source).__module__.split(".")[0] == "xgboost" and hasattr(source, "predict")

    @classmethod
    def capture(cls, source: Any | Path, options: base.Options) -> draft.Draft:
        """The draft; `CaptureFailed` on a booster or objective that ONNX lacks, `InvalidInput` on a bad example."""
        import xgboost

        booster, notes = _booster(xgboost, source)
        document = json.loads(bytes(booster.save_raw("json")))
        ensemble = boosters.read_xgboost(document)
        features = _features(document["learner"], ensemble.features)
        return _draft(xgboost, booster, ensemble, features, notes, options)


def _draft(
    xgboost: Any,
    booster: Any,
    ensemble: trees.Ensemble,
    features: tuple[tables.Feature, ...],
    notes: list[str],
    options: base.Options,
) -> draft.Draft:
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    kinds = {"binary:logistic": 2, "multi:softprob": len(ensemble.base), "multi:softmax": len(ensemble.base)}
    classes, names = tables.class_labels(np.arange(kinds.get(objective, 0)), options.labels)
    example = tables.given_matrix(options, [feature.name for feature in features], "FP32")
    synthetic = example is None
    if example is None:
        example = boosters.rows_near(ensemble, 256, np.random.default_rng(options.seed))
    table = tables.Table(
        model=trees.table_model(ensemble, "FP32", classes),
        framework=f"xgboost {xgboost.__version__}",
        features=features,
        run=_runner(xgboost, booster, len(classes)),
        example={tables.INPUT: example},
        synthetic=synthetic,
        classes=names,
        notes=tuple(notes),
    )
    return tables.finish(table, options)


def _booster(xgboost: Any, source: Any | Path) -> tuple[Any, list[str]]:
    """The booster, cut to its best iteration where early stopping found one, and what to tell of that."""
    if isinstance(source, Path):
        booster = xgboost.Booster()
        try:
            booster.load_model(bytearray(source.read_bytes()))
        except xgboost.core.XGBoostError as e:
            raise errors.CaptureFailed(
                f"'{source.name}' is not an XGBoost model in JSON or UBJ: {str(e).splitlines()[0]}",
                hint="Save it anew: model.save_model('model.ubj').",
            ) from None
    else:
        booster = source if isinstance(source, xgboost.Booster) else source.get_booster()
    best = booster.attr("best_iteration")
    # Only XGBoost's scikit-learn interface stops at the best iteration by itself; a file may be of either.
    if best is None or isinstance(source, xgboost.Booster) or booster.num_boosted_rounds() == int(best) + 1:
        return booster, []
    return booster[: int(best) + 1], [f"the trees after the best iteration ({best}) were left out, as XGBoost does."]


def _features(learner: Any, count: int) -> tuple[tables.Feature, ...]:
    names = learner.get("feature_names") or [f"f{index}" for index in range(count)]
    return tuple(tables.Feature(str(name)) for name in names)


def _runner(xgboost: Any, booster: Any, classes: int) -> Callable[[tensor.Tensors], tensor.Tensors]:
    names, types = booster.feature_names, booster.feature_types
    # A copy, since the setting would stay with the user's model.
    booster = booster.copy()
    booster.set_param({"nthread": 1})

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        matrix = inputs[tables.INPUT]
        try:
            data = xgboost.DMatrix(matrix, feature_names=names, feature_types=types, nthread=1, enable_categorical=True)
            margin = booster.predict(data, output_margin=True) if classes > 2 else None
            answer = booster.predict(data)
        except (xgboost.core.XGBoostError, ValueError) as e:
            raise errors.InvalidInput(f"XGBoost refuses the rows: {str(e).splitlines()[0]}") from None
        if classes == 2 and answer.ndim == 1:
            answer = np.stack([1 - answer, answer], axis=1)
        elif margin is not None and answer.ndim == 1:
            # 'multi:softmax' answers with the class; its probabilities are those of 'multi:softprob'.
            powers = np.exp(margin - margin.max(axis=1, keepdims=True))
            answer = powers / powers.sum(axis=1, keepdims=True)
        answer = answer.astype(np.float32)
        if not classes:
            return {tables.PREDICTION: answer}
        return {tables.LABEL: answer.argmax(axis=1).astype(np.int64), tables.PROBABILITIES: answer}

    return run
