"""Two answers to the same question, compared row by row.

Called by `shadow.py` on its own thread. Must never change an answer.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from windlass.types import tensor

# What a difference is called that has no size: a NaN against a number, another shape.
BOUNDLESS = 1e308
# As many columns as scores may have: more are an image, a mask or a text.
_MOST_CLASSES = 100_000


class Comparison(msgspec.Struct, frozen=True):
    """One entry a row: whether the answers differ, by how much at most, and whether the highest scores agree.

    `differs` [rows] bool, `size` [rows] FP64; `same_top` [rows] bool, or None where no output looks like scores.
    """

    differs: npt.NDArray[np.bool_]
    size: npt.NDArray[np.float64]
    same_top: npt.NDArray[np.bool_] | None


def compare(ours: tensor.Tensors, theirs: tensor.Tensors, *, rows: int, atol: float, rtol: float) -> Comparison:
    """Compare the outputs that both have. Floats differ beyond `atol + rtol * |ours|`, all else unless it is equal.

    NaN equals NaN. Scores are float outputs [rows, classes] with two classes or more.
    """
    differs = np.zeros(rows, np.bool_)
    size = np.zeros(rows, np.float64)
    same_top: npt.NDArray[np.bool_] | None = None
    for name in ours.keys() & theirs.keys():
        one, two = ours[name], theirs[name]
        if one.shape != two.shape or one.dtype.kind != two.dtype.kind or one.size % rows:
            differs[:] = True
            size[:] = BOUNDLESS
            continue
        flat, other = one.reshape(rows, -1), two.reshape(rows, -1)
        wrong, apart = _floats(flat, other, atol, rtol) if one.dtype.kind == "f" else _exact(flat, other)
        differs |= wrong.any(axis=1)
        np.maximum(size, apart.max(axis=1, initial=0.0), out=size)
        if one.dtype.kind == "f" and one.ndim == 2 and len(one) == rows and 2 <= one.shape[1] <= _MOST_CLASSES:
            same = one.argmax(axis=1) == two.argmax(axis=1)
            same_top = same if same_top is None else same_top & same
    return Comparison(differs, size, same_top)


def _floats(
    one: tensor.Array, two: tensor.Array, atol: float, rtol: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    wide, other = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(wide - other)
        wrong = apart > atol + rtol * np.abs(wide)
    if not np.isfinite(apart).all():
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        odd = ~np.isfinite(apart)
        wrong = np.where(odd, ~same, wrong)
        apart[odd] = np.where(same, 0.0, BOUNDLESS)[odd]
    return wrong, apart


def _exact(one: tensor.Array, two: tensor.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    wrong = np.asarray(one != two, np.bool_)
    return wrong, wrong.astype(np.float64)
