"""What a model's answers are compared as: classes, values or vectors, and by which metric.

Called by `accuracy.py`. Must never compare classes by the name of one and the number of another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from windlass import errors
from windlass.optimization import likeness
from windlass.packaging import evaluation, metrics, session
from windlass.types import fields, manifest, refs, tensor

COSINE = "cosine"
_AGREEMENT = "agreement"
_VECTORS = ("embed", "hidden", "pool", "state", "vector")


class Task(NamedTuple):
    """`of` is a metric of `packaging.metrics` or `cosine`, `name` what it is called here.

    `classes`: answers are names of classes; `scores` is the column they are read off, where there is one.
    """

    of: str
    name: str
    higher: bool
    classes: bool
    scores: str = ""
    notes: tuple[str, ...] = ()


def read(parent: session.Session, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
    """What answers are compared by: as people read them, or the scores that a label is read off."""
    if any(one.kind == "classify" for one in parent.package.manifest.transforms) and evaluation.scores(outputs):
        return dict(outputs)
    answered = parent.transformer.finish(outputs, inputs)
    # Scores as text are told by the label.
    return {name: values for name, values in answered.items() if name != "scores" or values.dtype != object}


def task(value: manifest.Manifest, answered: fields.Columns, metric: str | None, *, labelled: bool) -> Task:
    """The task of a model, told from its answers to some rows; `UsageError` if the metric does not fit them."""
    if metric is None:
        of, notes = _usual(value, answered, labelled=labelled)
    else:
        of, notes = _asked(metric, labelled=labelled), ()
    if of == COSINE:
        if not _vectors(answered):
            raise errors.UsageError("the model answers with no vectors whose cosine could be taken.")
        return Task(COSINE, COSINE, higher=True, classes=False, notes=notes)
    known = metrics.named(of)
    evaluation.given(value, answered, of)
    name = _AGREEMENT if of == "accuracy" and not labelled else of
    return Task(of, name, known.higher, known.classes, evaluation.scores(answered) if known.classes else "", notes)


def truth(value: manifest.Manifest, labels: tensor.Array, found: Task) -> tensor.Array:
    """The labels as they are compared, `[rows]`: names of classes (object array of str), or float64."""
    return evaluation.truth(value, labels, found.of)


def numbers(value: manifest.Manifest, labels: tensor.Array, found: Task) -> tensor.Array:
    """Labels as training takes them: names of classes as their numbers (int64); values as they are."""
    if not found.classes:
        return labels
    if value.labels:
        at = {name: number for number, name in enumerate(value.labels)}
        return np.array([at[name] for name in labels.tolist()], np.int64)
    wrong = next((text for text in labels.tolist() if not (text.isascii() and text.isdecimal())), None)
    if wrong is not None:
        raise errors.UsageError(
            f"the label '{wrong[:40]}' is no class number, and the package does not name its classes.",
            hint="Write class numbers as labels, or package the model with its labels.",
        )
    return labels.astype(np.int64)


def cosines(ours: fields.Columns, theirs: fields.Columns) -> tensor.Array:
    """Cosine similarity of each row's answers, `[rows]`, the mean over the vectors of the row."""
    return np.asarray(np.mean([likeness.cosines(ours[name], theirs[name]) for name in _vectors(theirs)], axis=0))


def _asked(metric: str, *, labelled: bool) -> str:
    if metric in (COSINE, _AGREEMENT) and labelled:
        raise errors.UsageError(f"'{metric}' is for rows without labels.", hint="Leave --metric or --labels out.")
    if metric == _AGREEMENT:
        return "accuracy"
    if metric not in metrics.METRICS and metric != COSINE:
        known = (*metrics.METRICS, *(() if labelled else (_AGREEMENT, COSINE)))
        raise errors.UsageError(
            f"there is no metric '{metric[:40]}': {', '.join(known)}.", hint=refs.nearest(metric, known)
        )
    return metric


def _usual(value: manifest.Manifest, answered: fields.Columns, *, labelled: bool) -> tuple[str, tuple[str, ...]]:
    """The metric of a model: by its labels, then by what its answers look like."""
    label = answered.get("label")
    if value.labels or (label is not None and label.dtype == object):
        return "accuracy", ()
    scores = evaluation.scores(answered)
    if scores and labelled:
        return "accuracy", ()
    if scores:
        if _is_vector(scores, answered[scores]):
            return COSINE, ()
        note = f"The highest of '{scores}' is taken for the answer. If it is a vector, ask for --metric cosine."
        return "accuracy", (note,)
    rows = len(next(iter(answered.values())))
    single = [values for values in answered.values() if values.size == rows]
    if any(values.dtype.kind in "iub" for values in single):
        return "accuracy", ()
    if any(values.dtype.kind == "f" for values in single):
        return ("rmse" if labelled else "r2"), ()
    if labelled:
        raise errors.UsageError(
            "the model answers a row with neither a class nor a number: labels cannot be compared with it.",
            hint="Leave --labels out: answers are then compared with the original's.",
        )
    return COSINE, ()


def _is_vector(name: str, values: tensor.Array) -> bool:
    """Whether numbers are a vector and no scores of classes: by their name, or because their length is 1."""
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    probabilities = bool((values >= 0).all()) and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    return any(part in name.lower() for part in _VECTORS) or (not probabilities and np.allclose(lengths, 1, atol=1e-3))


def _vectors(answered: fields.Columns) -> list[str]:
    return [name for name, values in answered.items() if values.dtype.kind == "f" and values.ndim > 1]
