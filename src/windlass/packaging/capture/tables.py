"""Models of tables: one matrix in, a label and probabilities or a prediction out, and a transform that reads columns.

Used by the capture sources of scikit-learn, XGBoost and LightGBM, which differ only in how the model becomes ONNX.
Must never take the exported model's word for what the original answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, splits, trials
from windlass.types import signature, tensor

INPUT, LABEL, PROBABILITIES, PREDICTION = "input", "label", "probabilities", "prediction"


# Far above what adding up columns in another order changes in double, far below the precision of float.
_GAP = 1e-9


class Feature(msgspec.Struct, frozen=True):
    """One column of the table. `categories` are the texts that the model knows, in the order of their codes.

    `datatype` is the tensor's when columns are sent apart; a category is then sent as text (BYTES) or as its number
    (INT64), and if it is `closed` the model refuses all others.
    """

    name: str
    categories: tuple[str, ...] = ()
    datatype: str = ""
    closed: bool = False


class Table(msgspec.Struct, frozen=True):
    """A captured model of a table. `run` asks the original; `example` are rows for it, real unless `synthetic`.

    `classes` are the class names in the order of the probabilities; empty for other models. `trees` asks for rows at
    the splits. `separate` gives every column a tensor of its own. `ranked`: the label is the highest probability's.
    `sums`: sums over columns come before the trees, so that nothing is known of rows closer to a split than `_GAP`.
    """

    model: bytes
    framework: str
    features: tuple[Feature, ...]
    run: Callable[[tensor.Tensors], tensor.Tensors]
    example: tensor.Tensors
    synthetic: bool
    classes: tuple[str, ...] = ()
    trees: bool = True
    separate: bool = False
    ranked: bool = True
    sums: bool = False
    notes: tuple[str, ...] = ()


def given_matrix(options: base.Options, names: Sequence[str], datatype: str) -> tensor.Array | None:
    """The example as a matrix `[rows, features]` of `datatype`, or None; `InvalidInput` if it does not fit."""
    given = options.example
    if given is None:
        return None
    if len(given) == 1 and (len(names) > 1 or next(iter(given.values())).ndim > 1):
        matrix = next(iter(given.values()))
    else:
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        if missing or unknown:
            raise errors.InvalidInput(
                f"the example's columns are not the model's: missing {missing[:8]}, unknown {unknown[:8]}"
            )
        matrix = np.stack([_number(name, given[name]) for name in names], axis=1)
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or not len(matrix) or matrix.dtype.kind not in "fiub":
        raise errors.InvalidInput(
            f"the example is {matrix.dtype} of shape {list(matrix.shape)}: numbers [rows, {len(names)}] are expected"
        )
    return matrix.astype(tensor.dtype(datatype))


def datatype(options: base.Options) -> str:
    """FP32 if every example is float32, else FP64: for frameworks that compute in double, as most tables come."""
    given = options.example or {}
    return "FP32" if given and all(array.dtype == np.float32 for array in given.values()) else "FP64"


def to_bytes(texts: tensor.Array) -> tensor.Array:
    """Text as BYTES elements."""
    encoded = np.empty(texts.shape, object)
    encoded.ravel()[:] = [str(text).encode() for text in texts.ravel()]
    return encoded


def _number(name: str, values: tensor.Array) -> tensor.Array:
    try:
        return values.ravel().astype(np.float64)
    except (TypeError, ValueError):
        raise errors.InvalidInput(f"the example's column '{name}' must hold numbers") from None


def class_labels(classes: tensor.Array, given: Sequence[str]) -> tuple[tensor.Array, tuple[str, ...]]:
    """The classes as the label output gives them (INT64 or text), and their names; `given` names win."""
    if classes.dtype.kind == "f" and (classes == np.trunc(classes)).all():
        classes = classes.astype(np.int64)
    names = tuple(str(value) for value in classes.tolist())
    if given and len(given) != len(names):
        raise errors.InvalidInput(f"{len(given)} labels are given, the model has {len(names)} classes")
    if classes.dtype.kind in "iub":
        return classes.astype(np.int64), tuple(given) or names
    texts = np.empty(len(names), object)
    texts[:] = names
    return texts, tuple(given) or names


def finish(table: Table, options: base.Options) -> draft.Draft:
    """The draft: trials on the example, its edges and, for trees, rows on both sides of their splits."""
    spec = _signature(table)
    recorded = trials.record(table.run, spec, table.example, max_batch=options.max_batch, seed=options.seed)
    made, notes = list(recorded.trials), [*table.notes, *recorded.notes]
    if table.trees:
        found = splits.rows(
            table.run, table.example, np.random.default_rng(options.seed), gap=_GAP if table.sums else 0.0
        )
        if table.sums:
            notes.append(
                f"steps before the trees add up columns: rows within {_GAP:g} of a split (by their size) were not "
                "tried, since there the order of adding up decides."
            )
        made += splits.trials(table.run, found.rows, recorded.max_batch)
        notes += found.notes
    return draft.Draft(
        files={"model.onnx": table.model},
        signature=recorded.signature,
        trials=tuple(made),
        framework=table.framework,
        transforms=options.transforms or _transforms(table, recorded.signature),
        labels=table.classes,
        max_batch=recorded.max_batch,
        synthetic=table.synthetic,
        trees=table.trees,
        notes=tuple(notes),
    )


def _signature(table: Table) -> signature.Signature:
    """The signature that the example and its answer have."""
    few = {name: array[:2] for name, array in table.example.items()}
    closed = {feature.name: feature.categories for feature in table.features if table.separate and feature.closed}
    inputs = tuple(
        msgspec.structs.replace(_spec(name, array), categories=closed.get(name, ())) for name, array in few.items()
    )
    return signature.Signature(inputs, tuple(_spec(name, array) for name, array in table.run(few).items()))


def _spec(name: str, array: tensor.Array) -> signature.TensorSpec:
    return signature.TensorSpec(name, tensor.datatype(array), (signature.BATCH, *array.shape[1:]))


def _transforms(table: Table, spec: signature.Signature) -> tuple[draft.TransformDraft, ...]:
    """`tabular` for CSV rows and records by column name; `classify` where the decision is the highest probability."""
    inputs = {item.name: item for item in spec.inputs}
    columns = [_column(feature, inputs[feature.name if table.separate else INPUT], table) for feature in table.features]
    parameters: dict[str, Any] = {"columns": columns}
    if table.separate:
        parameters["separate"] = True
    else:
        parameters |= {"input": INPUT, "datatype": spec.inputs[0].datatype}
    made = [draft.TransformDraft("tabular", parameters)]
    if len(table.classes) > 1 and table.ranked and PROBABILITIES in {item.name for item in spec.outputs}:
        names = list(table.classes)
        made.append(draft.TransformDraft("classify", {"output": PROBABILITIES, "activation": "none", "labels": names}))
    return tuple(made)


def _column(feature: Feature, item: signature.TensorSpec, table: Table) -> dict[str, Any]:
    """The parameters of one column of `tabular`."""
    column: dict[str, Any] = {"name": feature.name}
    missing = "refuse" if item.missing == "refuse" else "nan"
    if not table.separate:
        if not feature.categories:
            return {**column, "missing": missing}
        known = {"kind": "category", "categories": list(feature.categories)}
        return {**column, **known, "missing": missing, "unknown": missing}
    if feature.datatype == "BYTES":
        closed = {"categories": list(feature.categories)} if feature.closed else {}
        return {**column, **closed, "kind": "category", "encoding": "text"}
    return {**column, "datatype": feature.datatype, "missing": "refuse" if feature.datatype == "INT64" else missing}
