"""Captures LightGBM models: live ones of either interface, and their text files.

Found through the catalogue. The files hold data and no code, so that they are read without a sandbox. LightGBM decides
in double, and so does what is written here. Must never take a text file that does not say that it is a tree model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, boosters, tables, trees
from windlass.types import tensor

_SUFFIXES = (".lgb", ".txt")
_CLASSIFIERS = ("binary", "multiclass", "multiclassova")


class LightGBMModel:
    """The plugin."""

    name: ClassVar[str] = "lightgbm"
    # Its files hold no code, but a native parser reads them that was not written for hostile ones.
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 1024

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A live `Booster` or scikit-learn style model, or a `.lgb` or `.txt` file that begins as LightGBM's do."""
        if isinstance(source, Path):
            if source.suffix not in _SUFFIXES or not source.is_file():
                return False
            with source.open("rb") as file:
                return file.read(5).rstrip() == b"tree"
        return type(source).__module__.split(".")[0] == "lightgbm" and hasattr(source, "predict")

    @classmethod
    def capture(cls, source: Any | Path, options: base.Options) -> draft.Draft:
        """The draft; `CaptureFailed` on what ONNX lacks (linear trees), `InvalidInput` on a bad example."""
        import lightgbm

        booster, given = _booster(lightgbm, source)
        document = booster.dump_model()
        ensemble = boosters.read_lightgbm(document)
        objective = str(document["objective"]).split(" ")[0]
        count = max(2, len(ensemble.base)) if objective in _CLASSIFIERS else 0
        classes, names = tables.class_labels(np.arange(count) if given is None else given, options.labels)
        features = _features(document)
        datatype = tables.datatype(options)
        example = tables.given_matrix(options, [feature.name for feature in features], datatype)
        synthetic = example is None
        if example is None:
            example = boosters.rows_near(ensemble, 256, np.random.default_rng(options.seed)).astype(
                tensor.dtype(datatype)
            )
        table = tables.Table(
            model=trees.table_model(ensemble, datatype, classes),
            framework=f"lightgbm {lightgbm.__version__}",
            features=features,
            run=_runner(lightgbm, booster, classes),
            example={tables.INPUT: example},
            synthetic=synthetic,
            classes=names,
        )
        return tables.finish(table, options)


def _booster(lightgbm: Any, source: Any | Path) -> tuple[Any, tensor.Array | None]:
    """The booster, and the classes if the model knows them."""
    if not isinstance(source, Path):
        if isinstance(source, lightgbm.Booster):
            return source, None
        return source.booster_, getattr(source, "classes_", None)
    try:
        return lightgbm.Booster(model_str=source.read_text(encoding="utf-8")), None
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as e:
        raise errors.CaptureFailed(
            f"'{source.name}' is not a LightGBM model: {e}", hint="Save it anew: booster.save_model('model.txt')."
        ) from None


def _features(document: Any) -> tuple[tables.Feature, ...]:
    """The columns by name; those that were pandas categories carry their texts in the order of their codes."""
    names = document["feature_names"]
    infos = document["feature_infos"]
    coded = [index for index, name in enumerate(names) if infos.get(name, {}).get("values")]
    texts = document.get("pandas_categorical") or []
    known = dict(zip(coded, texts, strict=True)) if len(coded) == len(texts) else {}
    return tuple(
        tables.Feature(name, tuple(str(text) for text in known.get(index, ()))) for index, name in enumerate(names)
    )


def _runner(lightgbm: Any, booster: Any, classes: tensor.Array) -> Callable[[tensor.Tensors], tensor.Tensors]:
    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        matrix = inputs[tables.INPUT].astype(np.float64)
        try:
            answer = np.asarray(booster.predict(matrix, num_threads=1))
        except (lightgbm.basic.LightGBMError, ValueError) as e:
            raise errors.InvalidInput(f"LightGBM refuses the rows: {e}") from None
        if not len(classes):
            return {tables.PREDICTION: answer.astype(np.float32)}
        if answer.ndim == 1:
            answer = np.stack([1 - answer, answer], axis=1)
        label = classes[answer.argmax(axis=1)]
        if label.dtype == object:
            label = tables.to_bytes(label)
        return {tables.LABEL: label, tables.PROBABILITIES: answer.astype(np.float32)}

    return run
