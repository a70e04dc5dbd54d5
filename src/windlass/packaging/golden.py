"""Golden inputs and outputs: what a package carries to prove, at every load, that it still computes the same.

Chosen by `build.py`, checked by `session.py` and `verify.py`. Must never be widened to make a check pass: the
tolerance is part of the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from windlass.types import tensor


class Difference(NamedTuple):
    """The worst output: `excess` is the largest error over its allowance (1.0 is just allowed)."""

    output: str
    excess: float
    detail: str


def worst(
    ours: Mapping[str, tensor.Array],
    theirs: Mapping[str, tensor.Array],
    rtol: float,
    atol: float,
    scale: Mapping[str, float] = MappingProxyType({}),
) -> Difference:
    """The output that differs most, where |ours - theirs| may be rtol * |theirs| + atol * max|theirs|.

    Text, booleans and integers must be equal; NaN equals NaN, an infinity equals itself. `scale` is what max|theirs|
    is taken as at least, for outputs whose usual magnitude is known from elsewhere.
    """
    found = Difference("", 0.0, "")
    for name, expected in theirs.items():
        if name not in ours:
            return Difference(name, float("inf"), "is missing")
        difference = _compare(name, ours[name], expected, rtol, atol, scale.get(name, 0.0))
        if difference.excess > found.excess or not found.output:
            found = difference
    return found


def usual_scale(answers: Iterable[Mapping[str, tensor.Array]]) -> dict[str, float]:
    """The usual magnitude of each output of floats: the median over the answers of the largest finite value."""
    largest: dict[str, list[float]] = {}
    for answer in answers:
        for name, array in answer.items():
            if array.dtype.kind == "f" and np.isfinite(array).any():
                largest.setdefault(name, []).append(float(np.abs(array[np.isfinite(array)]).max()))
    return {name: float(np.median(values)) for name, values in largest.items()}


def _compare(
    name: str, actual: tensor.Array, expected: tensor.Array, rtol: float, atol: float, scale: float
) -> Difference:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        detail = f"is {actual.dtype}{list(actual.shape)}, expected {expected.dtype}{list(expected.shape)}"
        return Difference(name, float("inf"), detail)
    if expected.dtype.kind != "f":
        wrong = int(np.count_nonzero(actual != expected))
        return Difference(name, float("inf") if wrong else 0.0, f"has {wrong} of {expected.size} elements that differ")
    # float64 holds every smaller float exactly, so the comparison adds no error of its own.
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return Difference(name, float("inf"), "has NaN or infinities in other places")
    a, b = a[finite], b[finite]
    if not b.size:
        return Difference(name, 0.0, "holds no finite number")
    error = np.abs(a - b)
    allowed = rtol * np.abs(b) + atol * max(float(np.abs(b).max()), scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error > 0, error / allowed, 0.0)
    at = int(excess.argmax())
    return Difference(name, float(excess[at]), f"has {a[at]:.9g} where {b[at]:.9g} is expected")
