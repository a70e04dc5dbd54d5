"""A package asked the rows of a data set, and its answers compared with their labels: in all, and slice by slice.

Used by `gate.py`. Must never leave out a row, or ask the model other than callers do.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from windlass import errors
from windlass.packaging import dataset, metrics, session
from windlass.types import fields, manifest, signature, tensor

# Slices with fewer rows are told and not judged.
LEAST_SLICE = 10
_MOST_SLICES = 64
_BINS = 4
# As many rows at once are looked at to find one that is refused.
_LOOKED_AT = 64
# Rows: a slice, or their numbers.
Chosen: TypeAlias = slice | tensor.Array


class Judged(NamedTuple):
    """Labels and answers in the same order: class numbers (`names` says which), or values."""

    truth: tensor.Array
    answers: tensor.Array
    names: tuple[str, ...] = ()


class Slice(NamedTuple):
    """The rows of one value of a column (or of a quarter of its range)."""

    name: str
    rows: tensor.Array


def takes(loaded: session.Session, columns: fields.Columns) -> tuple[str, ...]:
    """The columns (of those without the labels) that the model's inputs are made from; `UsageError` if they are none.

    They are the package's inputs by name, else its fields where it has any; else, for a model of one matrix, all of
    them side by side in their order.
    """
    known = loaded.transformer.fields
    inputs = loaded.contract.signature.inputs
    if {spec.name for spec in inputs} <= set(columns):
        return tuple(spec.name for spec in inputs)
    if known:
        for field in known:
            if field.required:
                dataset.taken(columns, field.name)
        return tuple(field.name for field in known if field.name in columns)
    names = tuple(columns)
    if len(inputs) == 1 and len(names) == 1 and columns[names[0]].ndim > 1:
        return names
    width = inputs[0].shape[-1] if len(inputs) == 1 and len(inputs[0].shape) == 2 else None
    if width != len(names):
        wanted = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in inputs)
        raise errors.UsageError(
            f"the data set's {len(names)} columns are not what the model takes: {wanted}.",
            hint="Name the columns as the model's inputs or fields, and the labels with --labels.",
        )
    return names


def prepare(loaded: session.Session, columns: fields.Columns, chosen: Chosen) -> tensor.Tensors:
    """The model's inputs from some rows of a data set, as callers would send them.

    `UsageError` names the first column and row, of all there are, that the model does not take.
    """
    names = takes(loaded, columns)
    try:
        inputs = _prepared(loaded, columns, names, chosen)
        if loaded.contract.signature.batched:
            loaded.contract.check(inputs)
    except errors.InvalidInput as e:
        raise _located(loaded, columns, names, e) from None
    return inputs


def _prepared(
    loaded: session.Session, columns: fields.Columns, names: tuple[str, ...], chosen: Chosen
) -> tensor.Tensors:
    inputs = loaded.contract.signature.inputs
    if names == tuple(spec.name for spec in inputs):
        return {spec.name: _tensor(columns[spec.name][chosen], spec) for spec in inputs}
    if loaded.transformer.fields:
        return loaded.transformer.prepare(as_fields(loaded.transformer.fields, columns, chosen))
    if len(names) == 1 and columns[names[0]].ndim > 1:
        return {inputs[0].name: _tensor(columns[names[0]][chosen], inputs[0])}
    picked = {name: columns[name][chosen] for name in names}
    return {inputs[0].name: dataset.matrix(picked, names, inputs[0].datatype)}


def _located(
    loaded: session.Session, columns: fields.Columns, names: tuple[str, ...], why: errors.InvalidInput
) -> errors.InvalidInput:
    """What is wrong with the first row that is refused by itself; `why` if each is taken."""

    def refused(start: int, stop: int) -> errors.InvalidInput | None:
        try:
            loaded.contract.check(_prepared(loaded, columns, names, slice(start, stop)))
        except errors.InvalidInput as e:
            return e
        return None

    rows, step = len(columns[names[0]]), min(_LOOKED_AT, loaded.contract.max_rows)
    for start in range(0, rows, step):
        if refused(start, start + step) is None:
            continue
        for row in range(start, min(start + step, rows)):
            if (found := refused(row, row + 1)) is not None:
                told = re.sub(r"\brow 0\b", f"row {row}", found.message)
                if told == found.message and row:
                    told = f"row {row} of the data set: {told}"
                return errors.UsageError(told, hint=found.hint)
    return why


def as_fields(known: tuple[fields.Field, ...], columns: fields.Columns, chosen: Chosen) -> fields.Columns:
    """A person's columns; what is required must be there."""
    found: fields.Columns = {}
    for field in known:
        if field.name not in columns and not field.required:
            continue
        values = dataset.taken(columns, field.name)[chosen]
        if field.kind == "number":
            found[field.name] = dataset.numbers(values, field.name)
        else:
            found[field.name] = values if field.kind == "image" else dataset.texts(values)
    return found


def answers(loaded: session.Session, columns: fields.Columns) -> fields.Columns:
    """The answer columns for every row, as people would read them, asked in batches of what the package takes."""
    if not loaded.contract.signature.batched:
        raise errors.Unsupported("a model that takes no batches is not evaluated on rows.")
    rows, most = len(next(iter(columns.values()))), loaded.contract.max_rows
    parts: dict[str, list[Any]] = {}
    for start in range(0, rows, most):
        inputs = prepare(loaded, columns, slice(start, start + most))
        for name, values in loaded.transformer.finish(loaded.run(inputs), inputs).items():
            parts.setdefault(name, []).append(values)
    fixed = {name: values for name, values in parts.items() if len({one.shape[1:] for one in values}) == 1}
    return {name: np.concatenate(values) for name, values in fixed.items()}


def judged(value: manifest.Manifest, answered: fields.Columns, labels: tensor.Array, metric: str) -> Judged:
    """Labels and answers, made comparable for a metric; `UsageError` says which label is none of the model's."""
    true, answers = truth(value, labels, metric), given(value, answered, metric)
    if not metrics.named(metric).classes:
        return Judged(true, answers)
    known = value.labels or tuple(sorted({*answers.tolist(), *true.tolist()}))
    at = {name: index for index, name in enumerate(known)}
    return Judged(np.array([at[one] for one in true.tolist()]), np.array([at[one] for one in answers.tolist()]), known)


def truth(value: manifest.Manifest, labels: tensor.Array, metric: str) -> tensor.Array:
    """The labels as a metric compares them, `[rows]`: names of classes (object array of str), or float64."""
    if not metrics.named(metric).classes:
        found = dataset.numbers(labels, "labels")
        if np.isnan(found).any():
            raise errors.UsageError(f"row {int(np.isnan(found).argmax())} has no label.")
        return found
    texts = dataset.texts(labels)
    if None in texts.tolist():
        raise errors.UsageError(f"row {texts.tolist().index(None)} has no label.", hint="Leave such rows out.")
    return _named(texts.tolist(), value.labels)


def given(value: manifest.Manifest, answered: fields.Columns, metric: str) -> tensor.Array:
    """The answers as a metric compares them, `[rows]`: names of classes (object array of str), or float64.

    Classes by the label that people read, else by the highest score, else by the number that is answered.
    """
    if not metrics.named(metric).classes:
        numbers = next((a for a in answered.values() if a.dtype.kind in "fiu" and a.size == len(a)), None)
        if numbers is None:
            raise errors.UsageError(f"'{metric}' needs a model that answers with one number a row.")
        return numbers.astype(np.float64).ravel()
    names, highest = value.labels, scores(answered)
    if "label" in answered and answered["label"].dtype == object and (names or not highest):
        return _named([str(one) for one in dataset.texts(answered["label"].ravel()).tolist()], names)
    if highest:
        found = np.empty(len(answered[highest]), object)
        found[:] = [names[at] if names else str(at) for at in answered[highest].argmax(axis=1).tolist()]
        return found
    whole = next((a for a in answered.values() if a.dtype.kind in "iub" and a.size == len(a)), None)
    if whole is None:
        raise errors.UsageError("the model's answers are no classes.", hint="Use a metric of numbers: mae, rmse.")
    return _named([str(int(one)) for one in whole.ravel().tolist()], names)


def scores(answered: fields.Columns) -> str:
    """The answer column `[rows, classes]` whose highest number is the class; empty if there is none."""
    wide = (name for name, a in answered.items() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1)
    return next(wide, "")


def slices(values: tensor.Array, name: str) -> tuple[Slice, ...]:
    """The rows by a column's value; numbers of many values by quarters of their rows."""
    texts = dataset.texts(values).tolist()
    distinct = sorted({"missing" if text is None else text for text in texts})
    if len(distinct) > 8:
        try:
            return _quarters(dataset.numbers(values, name), name)
        except errors.UsageError:
            if len(distinct) > _MOST_SLICES:
                raise errors.UsageError(f"the column '{name}' has {len(distinct)} values: too many to slice.") from None
    column = np.array(["missing" if text is None else text for text in texts], object)
    return tuple(Slice(f"{name} = {value}", np.flatnonzero(column == value)) for value in distinct)


def _quarters(values: tensor.Array, name: str) -> tuple[Slice, ...]:
    found = []
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)))
    for at, (low, high) in enumerate(itertools.pairwise(edges)):
        last = at == len(edges) - 2
        inside = (values >= low) & ((values <= high) if last else (values < high))
        found.append(Slice(f"{name} from {low:.4g} to {high:.4g}", np.flatnonzero(inside)))
    if len(known) < len(values):
        found.append(Slice(f"{name} = missing", np.flatnonzero(np.isnan(values))))
    return tuple(found)


def _named(texts: list[str], names: tuple[str, ...]) -> tensor.Array:
    """Classes by their names, where they have any: some are written as their numbers."""
    found = np.empty(len(texts), object)
    known = set(names)
    found[:] = texts if not names or set(texts) <= known else [t if t in known else _numbered(t, names) for t in texts]
    return found


def _numbered(text: str, names: tuple[str, ...]) -> str:
    """A label that is written as its number."""
    if text.isascii() and text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    shown = ", ".join(f"'{name}'" for name in names[:8])
    raise errors.UsageError(f"the label '{text[:40]}' is none of the model's: {shown}.")


def _tensor(values: tensor.Array, spec: signature.TensorSpec) -> tensor.Array:
    if spec.datatype == "BYTES":
        found = np.empty(len(values), object)
        found[:] = [b"" if one is None else one.encode() for one in dataset.texts(values.ravel()).tolist()]
        return found.reshape(-1, *(1,) * (len(spec.shape) - 1)) if values.ndim != len(spec.shape) else found
    held = values if values.dtype != object else dataset.numbers(values, spec.name)
    if held.dtype.kind not in "fiub":
        raise errors.UsageError(f"the column '{spec.name}' holds {held.dtype}, and the model takes {spec.datatype}.")
    if held.ndim == 1 and len(spec.shape) == 2:
        held = held[:, None]
    return held.astype(tensor.dtype(spec.datatype))
