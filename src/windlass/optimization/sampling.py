"""The sample that a released form carries: real rows, and how near it came to its parent on them where it was made.

Drawn by `release.py`, asked again by `packaging/session.py` on other instruction sets. Must never ask for more of
another processor than the form itself did here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from windlass.packaging import dataset, draft, samples
from windlass.types import manifest, tensor, tensor_codec

MOST_BYTES = 1 << 20
# With fewer rows than this, one that falls on the other side of a border weighs too much.
_LEAST_CLASSES = 32
# What another processor may do to it for rounding's sake: turn so many rows, and add as much noise as there is.
_ROWS_ASTRAY = 2
_MORE_NOISE_DB = 3.0


class Asked(msgspec.Struct, frozen=True):
    """Rows in one batch as the model takes them, and what the parent and the form answered.

    `truth` are the rows' labels as the data set has them, `[rows]`, or None.
    """

    inputs: tensor.Tensors
    parents: tensor.Tensors
    ours: tensor.Tensors
    truth: tensor.Array | None = None


def draw(asked: Asked, parent: manifest.Manifest, *, most_drop: float, decides: bool) -> draft.Sample | None:
    """The first rows that fit into a sample, with what must hold of them; None where no answer is a number.

    `decides`: the answers are scores of classes, so what counts is the highest. Then the share of right (without
    labels: of equal) classes may fall by `most_drop` or two rows; of values the noise may double.
    """
    name = _output(asked.parents, parent)
    if name is None:
        return None
    theirs, ours = asked.parents[name], asked.ours[name]
    scores = theirs.ndim == 2 and theirs.shape[1] > 1 and theirs.dtype.kind == "f"
    classes = (scores and decides) or theirs.dtype.kind in "iu"
    expected = samples.classes(theirs) if classes else theirs
    rows = _fitting({**asked.inputs, name: expected})
    if not classes or rows < _LEAST_CLASSES:
        value = samples.likeness(ours[:rows], theirs[:rows], "sqnr_db")
        return draft.Sample(_first(asked.inputs, rows), {name: theirs[:rows]}, "sqnr_db", value - _MORE_NOISE_DB)
    labels = _numbered(asked.truth, parent.labels)
    measure: Literal["agreement", "accuracy"] = "agreement" if labels is None else "accuracy"
    right = expected if labels is None else labels
    value = samples.likeness(ours[:rows], right[:rows], measure)
    least = max(value - max(most_drop, _ROWS_ASTRAY / rows), 0.0)
    return draft.Sample(_first(asked.inputs, rows), {name: right[:rows]}, measure, least)


def _output(answers: tensor.Tensors, parent: manifest.Manifest) -> str | None:
    """The output that counts: the scores that people read as classes, else scores, floats, or integers, the first."""
    for each in parent.transforms:
        if each.kind == "classify" and each.parameters.get("output") in answers:
            return str(each.parameters["output"])
    floats = [name for name, array in answers.items() if array.dtype.kind == "f"]
    scores = [name for name in floats if answers[name].ndim == 2 and answers[name].shape[1] > 1]
    whole = [name for name, array in answers.items() if array.dtype.kind in "iu" and array.size == len(array)]
    return next(iter([*scores, *floats, *whole]), None)


def _fitting(whole: tensor.Tensors) -> int:
    count = len(next(iter(whole.values())))
    each = sum(len(tensor_codec.to_raw(array)) for array in whole.values()) / count
    return max(1, min(count, samples.MOST_ROWS, int(MOST_BYTES // max(each, 1.0))))


def _first(inputs: tensor.Tensors, rows: int) -> tensor.Tensors:
    return {name: array[:rows] for name, array in inputs.items()}


def _numbered(truth: tensor.Array | None, names: tuple[str, ...]) -> tensor.Array | None:
    """Labels as the numbers of their classes; None where one is neither a name nor a number of a class."""
    if truth is None:
        return None
    at = {name: number for number, name in enumerate(names)}
    found = []
    for text in dataset.texts(truth).tolist():
        number = at.get(text, int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() else None)
        if number is None or (names and number >= len(names)):
            return None
        found.append(number)
    return np.array(found, np.int64)
