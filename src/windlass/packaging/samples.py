"""Whether a package that was made of another still resembles it: its sample of rows, asked on this processor.

Called by `session.py` where a package comes from another instruction set, on which the same file may answer otherwise
(int8 products saturate without VNNI), and by whoever draws a sample. Must never count what is not finite as likeness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from windlass import errors
from windlass.types import tensor

# Of a sample: it is asked at every load on another processor.
MOST_ROWS = 256
# A likeness beyond this is the noise of sums in another order.
MOST_DB = 60.0
_WORDS = {
    "accuracy": "the accuracy is {:.4g}",
    "agreement": "{:.4g} of the answers are its parent's",
    "sqnr_db": "its parent's answers are {:.4g} dB above the noise",
}


class Resemblance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sample says here: `value` of the measure over `rows`, where `least` is asked.

    `made_on` and `here` are instruction sets, `golden_excess` the largest golden error over its allowance (None: golden
    integers or texts differ).
    """

    measure: Literal["accuracy", "agreement", "sqnr_db"]
    value: float
    least: float
    rows: int
    made_on: str
    here: str
    golden_excess: float | None

    @property
    def enough(self) -> bool:
        """Whether it resembles its parent as much as it must."""
        return self.value >= self.least

    @property
    def words(self) -> str:
        """The finding, as part of a sentence."""
        return f"{_WORDS[self.measure].format(self.value)} on a sample of {self.rows} rows, {self.least:.4g} is asked"


def ask(
    run: Callable[[tensor.Tensors], tensor.Tensors],
    inputs: tensor.Tensors,
    answers: tensor.Tensors,
    measure: str,
    most_rows: int,
) -> float:
    """The value of the measure for a model, asked in batches of at most `most_rows`; see `manifest.Sample`.

    `CorruptPackage` if the sample does not fit the model.
    """
    if len(answers) != 1:
        raise errors.CorruptPackage("the package's sample has answers for more or less than one output.")
    ((name, expected),) = answers.items()
    rows = len(expected) if expected.ndim else 0
    if not rows or any(not array.ndim or len(array) != rows for array in inputs.values()):
        raise errors.CorruptPackage("the package's sample has not one answer for each row.")
    if rows > MOST_ROWS:
        raise errors.CorruptPackage(f"the package's sample has {rows} rows: at most {MOST_ROWS} are asked.")
    parts = []
    for start in range(0, rows, most_rows):
        try:
            given = run({each: array[start : start + most_rows] for each, array in inputs.items()})
        except errors.InvalidInput as e:
            raise errors.CorruptPackage(f"the package's sample breaks its own signature: {e.message}") from None
        if name not in given:
            raise errors.CorruptPackage("the package's sample is about no output of its signature.")
        parts.append(given[name])
    return likeness(np.concatenate(parts), expected, measure)


def likeness(given: tensor.Array, expected: tensor.Array, measure: str) -> float:
    """One measure of answers against a sample's: at most `MOST_DB` decibels, and the least where one is not finite."""
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        return 0.0 if measure != "sqnr_db" else -MOST_DB
    if measure != "sqnr_db":
        chosen = classes(given)
        if chosen.shape != expected.shape:
            raise errors.CorruptPackage("the package's sample has other answers than classes.")
        return float(np.mean(chosen == expected))
    if given.shape != expected.shape:
        raise errors.CorruptPackage("the package's sample has answers of another shape.")
    ours, theirs = given.astype(np.float64), expected.astype(np.float64)
    signal, noise = float(np.sum(np.square(theirs))), float(np.sum(np.square(ours - theirs)))
    if not noise:
        return MOST_DB
    return max(min(10 * math.log10(signal / noise), MOST_DB), -MOST_DB) if signal else -MOST_DB


def classes(answers: tensor.Array) -> tensor.Array:
    """Class numbers (int64 `[rows]`): of scores `[rows, classes]` the highest one's, else the answers themselves."""
    if answers.ndim == 2 and answers.shape[1] > 1:
        return np.asarray(answers.argmax(axis=1), dtype=np.int64)
    return answers.reshape(len(answers), -1)[:, 0].astype(np.int64)
