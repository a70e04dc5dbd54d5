"""Captures scikit-learn estimators and pipelines: live ones, and pickle or joblib files (in the sandboxed child only).

Found through the catalogue. A model fitted on named columns is asked by those names in a CSV; columns of text stay
text, encoded by the model's own encoder. Must never load a file in the process of the user or of a server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from windlass import errors, plugins
from windlass.packaging import draft
from windlass.packaging.capture import base, tables
from windlass.types import tensor

_SUFFIXES = (".pkl", ".pickle", ".joblib")
_ROWS = 256


class SklearnModel:
    """The plugin."""

    name: ClassVar[str] = "sklearn"
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 1024

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A scikit-learn estimator (not of XGBoost's or LightGBM's make), or a `.pkl`, `.pickle` or `.joblib` file."""
        if isinstance(source, Path):
            return source.suffix in _SUFFIXES and source.is_file()
        roots = [kind.__module__.split(".")[0] for kind in type(source).__mro__]
        return "sklearn" in roots and roots[0] not in ("xgboost", "lightgbm") and not isinstance(source, type)

    @classmethod
    def capture(cls, source: Any | Path, options: base.Options) -> draft.Draft:
        """The draft; `CaptureFailed` names the step that has no ONNX form, `InvalidInput` is a bad example.

        Called with a path only inside the sandboxed child: reading it runs what it says.
        """
        if isinstance(source, Path):
            source = _load(source)
            if not cls.accepts(source):
                return _other(source).capture(source, options)
        return _capture(source, options)


def _load(path: Path) -> Any:
    import joblib  # type: ignore[import-untyped]

    try:
        return joblib.load(path)
    except Exception as e:  # noqa: BLE001 -- a pickle raises whatever its code does
        raise errors.CaptureFailed(
            f"'{path.name}' could not be loaded: {type(e).__name__}: {str(e)[:300]}",
            hint="Loading needs the library versions it was saved with, and your own classes must be importable.",
        ) from None


def _other(source: Any) -> type[base.CaptureSource]:
    """The capture source of another framework's object that came in a pickle."""
    for name in plugins.catalog()["capture"]:
        if name == SklearnModel.name:
            continue
        try:
            found: type[base.CaptureSource] = plugins.load("capture", name)
        except errors.Unsupported:
            continue
        if found.accepts(source):
            return found
    raise errors.CaptureFailed(f"the file holds a {type(source).__name__}, which is not a model that can be captured.")


class _Model(NamedTuple):
    """A fitted estimator and how it is asked."""

    estimator: Any
    features: tuple[tables.Feature, ...]
    named: bool
    separate: bool
    classes: tensor.Array


def _capture(estimator: Any, options: base.Options) -> draft.Draft:
    import sklearn

    from windlass.packaging.capture import sklearn_onnx

    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    model = _inspect(estimator, options)
    datatype = tables.datatype(options)
    names = [feature.name for feature in model.features]
    if model.separate:
        example = _given_columns(model, options, datatype)
    else:
        matrix = tables.given_matrix(options, names, datatype)
        example = None if matrix is None else {tables.INPUT: matrix}
    synthetic = example is None
    if example is None:
        example = _synthesize(model, datatype, np.random.default_rng(options.seed))
    run = _runner(model)
    few = {name: array[:2] for name, array in example.items()}
    answer = run(few)
    _, labels = tables.class_labels(model.classes, options.labels)
    columns = [(feature.name, feature.datatype or datatype) for feature in model.features]
    layout = sklearn_onnx.Layout(columns, datatype, model.separate, model.named and _selects_by_name(estimator))
    written = sklearn_onnx.write(estimator, layout, answer, few)
    ranked, notes = _ranked(run(example), model.classes)
    table = tables.Table(
        model=written.model,
        framework=f"scikit-learn {sklearn.__version__}",
        features=tuple(
            tables.Feature(feature.name, feature.categories, kind, feature.closed)
            for feature, (_, kind) in zip(model.features, columns, strict=True)
        ),
        run=run,
        example=example,
        synthetic=synthetic,
        classes=labels,
        trees=written.trees,
        separate=model.separate,
        ranked=ranked,
        sums=written.sums,
        notes=(*written.notes, *notes),
    )
    return tables.finish(table, options)


def _inspect(estimator: Any, options: base.Options) -> _Model:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as e:
        raise errors.CaptureFailed(f"{type(estimator).__name__} is not fitted: {e}", hint="Call fit first.") from None
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise errors.CaptureFailed(
            f"{type(estimator).__name__} does not say how many columns it takes.",
            hint="Text vectorizers take documents, not columns: put what follows them into a model of its own.",
        )
    given = getattr(estimator, "feature_names_in_", None)
    names = [f"x{index}" for index in range(count)] if given is None else [str(name) for name in given]
    encoded = _encoded(estimator, names)
    for name, array in (options.example or {}).items():
        if name in names and array.dtype.kind in "OSU":
            encoded.setdefault(name, tables.Feature(name, (), "BYTES"))
    features = tuple(encoded.get(name, tables.Feature(name)) for name in names)
    separate = any(feature.datatype for feature in features)
    classes = getattr(estimator, "classes_", np.zeros(0, np.int64))
    if isinstance(classes, list):
        raise errors.CaptureFailed(
            f"{type(estimator).__name__} answers {len(classes)} questions at once.",
            hint="Capture one classifier for each output.",
        )
    return _Model(estimator, features, given is not None, separate, classes)


def _encoded(step: Any, names: list[str]) -> dict[str, tables.Feature]:
    """The columns that an encoder takes as categories, with those it knows, wherever in the model it stands."""
    if hasattr(step, "transformers_"):
        found: dict[str, tables.Feature] = {}
        for _, inner, columns in step.transformers_:
            picked = np.array(names)[columns].tolist() if _by_position(columns) else columns
            chosen = [picked] if isinstance(picked, str) else [str(name) for name in picked]
            found |= _encoded(inner, chosen)
        return found
    if hasattr(step, "steps"):
        merged: dict[str, tables.Feature] = {}
        for _, inner in step.steps:
            # Once columns were made anew, what follows does not see the table any more.
            if getattr(inner, "n_features_in_", len(names)) != len(names):
                break
            merged |= {name: feature for name, feature in _encoded(inner, names).items() if name not in merged}
        return merged
    categories = getattr(step, "categories_", None)
    if categories is None or len(categories) != len(names):
        return {}
    closed = getattr(step, "handle_unknown", "error") == "error"
    return {
        name: tables.Feature(name, _texts(values), "BYTES" if values.dtype.kind in "OU" else "INT64", closed)
        for name, values in zip(names, categories, strict=True)
        if values.dtype.kind in "OUiu"
    }


def _texts(values: tensor.Array) -> tuple[str, ...]:
    return tuple(str(value) for value in values.tolist())


def _by_position(columns: Any) -> bool:
    if isinstance(columns, slice):
        return not isinstance(columns.start, str)
    return not isinstance(columns, str) and np.asarray(columns).dtype.kind in "iub"


def _selects_by_name(estimator: Any) -> bool:
    """Whether some step picks its columns by name, so that skl2onnx must see them one by one."""
    if hasattr(estimator, "transformers_"):
        return True
    return any(_selects_by_name(inner) for _, inner in getattr(estimator, "steps", ()))


def _given_columns(model: _Model, options: base.Options, datatype: str) -> tensor.Tensors | None:
    """The example as a tensor `[rows, 1]` per column; `InvalidInput` if a column is missing or unknown."""
    given = options.example
    if given is None:
        return None
    names = [feature.name for feature in model.features]
    if sorted(given) != sorted(names):
        raise errors.InvalidInput(
            f"the example's columns are {sorted(given)[:16]}: the model was fitted on {names[:16]}"
        )
    columns: tensor.Tensors = {}
    for feature in model.features:
        values = given[feature.name].reshape(-1, 1)
        try:
            kind = tensor.dtype(feature.datatype or datatype)
            columns[feature.name] = tables.to_bytes(values) if kind.kind == "O" else values.astype(kind)
        except (TypeError, ValueError):
            raise errors.InvalidInput(f"the example's column '{feature.name}' must hold numbers") from None
    return columns


def _synthesize(model: _Model, datatype: str, rng: np.random.Generator) -> tensor.Tensors:
    """Rows made from what the model learned: its scaler's range, its trees' thresholds, its encoder's categories."""
    from windlass.packaging.capture import boosters, sklearn_trees

    count = len(model.features)
    first = model.estimator
    while hasattr(first, "steps"):
        first = first.steps[0][1]
    describe = sklearn_trees.descriptions().get(type(first))
    if describe is not None:
        numbers = boosters.rows_near(describe(first).ensemble, _ROWS, rng)
    else:
        centre = np.asarray(getattr(first, "mean_", getattr(first, "center_", 0.0)))
        spread = np.asarray(getattr(first, "scale_", 1.0))
        fits = all(np.ndim(part) == 0 or part.shape == (count,) for part in (centre, spread))
        numbers = rng.standard_normal((_ROWS, count)) * (spread if fits else 1.0) + (centre if fits else 0.0)
    if not model.separate:
        return {tables.INPUT: numbers.astype(tensor.dtype(datatype))}
    columns: tensor.Tensors = {}
    for index, feature in enumerate(model.features):
        if feature.categories:
            drawn = rng.choice(np.array(feature.categories), (_ROWS, 1))
            columns[feature.name] = tables.to_bytes(drawn) if feature.datatype == "BYTES" else drawn.astype(np.int64)
        else:
            columns[feature.name] = numbers[:, index : index + 1].astype(tensor.dtype(feature.datatype or datatype))
    return columns


def _runner(model: _Model) -> Callable[[tensor.Tensors], tensor.Tensors]:
    """Asks the estimator itself, in double, by column names where it was fitted on them."""
    names = [feature.name for feature in model.features]

    def rows(inputs: tensor.Tensors) -> Any:
        if not model.separate:
            table = inputs[tables.INPUT].astype(np.float64)
            if not model.named:
                return table
            columns: dict[str, Any] = {name: table[:, index] for index, name in enumerate(names)}
        else:
            columns = {name: _plain(inputs[name].ravel()) for name in names}
        if not model.named:
            return np.stack([np.asarray(column, object) for column in columns.values()], axis=1)
        import pandas as pd

        return pd.DataFrame(columns)

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        try:
            return _ask(model, rows(inputs))
        except ValueError as e:
            raise errors.InvalidInput(f"scikit-learn refuses the rows: {str(e).splitlines()[0]}") from None

    return run


def _plain(values: tensor.Array) -> tensor.Array:
    if values.dtype == object:
        texts = np.empty(len(values), object)
        texts[:] = [value.decode() for value in values]
        return texts
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _ask(model: _Model, rows: Any) -> tensor.Tensors:
    """The answers by public name, in the order in which skl2onnx gives them."""
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    estimator = model.estimator
    if is_classifier(estimator):
        label = np.asarray(estimator.predict(rows))
        label = label.astype(np.int64) if label.dtype.kind in "iubf" else tables.to_bytes(label)
        answer = {tables.LABEL: label}
        if hasattr(estimator, "predict_proba"):
            answer[tables.PROBABILITIES] = np.asarray(estimator.predict_proba(rows), np.float32)
        return answer
    if is_clusterer(estimator) or is_outlier_detector(estimator):
        return {tables.LABEL: np.asarray(estimator.predict(rows), np.int64)}
    if is_regressor(estimator):
        return {tables.PREDICTION: np.asarray(estimator.predict(rows), np.float32)}
    if hasattr(estimator, "transform"):
        transformed = estimator.transform(rows)
        dense = transformed.toarray() if hasattr(transformed, "toarray") else transformed
        return {"output": np.asarray(dense, np.float32)}
    raise errors.CaptureFailed(f"{type(estimator).__name__} neither predicts nor transforms.")


def _ranked(answer: tensor.Tensors, classes: tensor.Array) -> tuple[bool, tuple[str, ...]]:
    """Whether the label is the class of the highest probability, as a person is told."""
    if tables.PROBABILITIES not in answer:
        return False, ()
    best = np.asarray(classes)[answer[tables.PROBABILITIES].argmax(axis=1)]
    best = best.astype(np.int64) if best.dtype.kind in "iubf" else tables.to_bytes(best)
    apart = int((best != answer[tables.LABEL]).sum())
    if not apart:
        return True, ()
    return False, (f"in {apart} of {len(best)} rows the label is not the class of the highest probability.",)
