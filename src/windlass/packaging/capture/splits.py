"""Rows at the splits of a model of trees: pairs one rounding step apart that the original answers differently.

Called by `tables.py`. A threshold that was rounded, a `<` that became `<=`, show up there and nowhere else. The
splits are found by asking the original, so that whatever stands before the trees (scaling, encoding) counts too.
Must never look at the exported model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.types import tensor

Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]
PAIRS = 512
# Enough to halve the distance between any two finite doubles of one sign down to neighbours.
_HALVINGS = 80
_TIE = 1e-6
# An example of fewer rows is filled up before numbers are exchanged between rows.
_FEW = 64


class Found(msgspec.Struct, frozen=True):
    """Rows at splits, and what is to be told of them."""

    rows: tensor.Tensors
    notes: tuple[str, ...]


def rows(run: Run, example: tensor.Tensors, rng: np.random.Generator, gap: float = 0.0) -> Found:
    """At least 1024 rows: a pair for each split that was found, and where they are few, rows a step or two beside.

    In a real row, one number is exchanged for another row's; where that changes the answer, the interval between the
    two is halved until its ends are neighbours in the input's own precision, or nearer than `gap` of their size.
    """
    numeric = [name for name, array in example.items() if array.dtype.kind == "f"]
    pool = _pool(example, numeric, rng)
    low, high = _exchanged(pool, numeric, rng)
    differ = np.flatnonzero(_differ(run(low), run(high)))[:PAIRS]
    if not len(differ):
        found = pool
        note = "no split is within reach of the example: rows near it were tried instead."
    else:
        low, high = _halved(run, _pick(low, differ), _pick(high, differ), gap)
        found = {name: np.concatenate([low[name], high[name]]) for name in low}
        note = f"rows on both sides of {len(differ)} splits were tried."
    size = len(next(iter(found.values())))
    parts = [found, *(_shifted(found, numeric, rng, gap) for _ in range(-(-2 * PAIRS // size) - 1))]
    return Found({name: np.concatenate([part[name] for part in parts]) for name in found}, (note,))


def _pool(example: tensor.Tensors, numeric: list[str], rng: np.random.Generator) -> tensor.Tensors:
    """The example without gaps; a small one is filled up with rows scattered around it."""
    pool = {name: np.nan_to_num(array, nan=0.0) if name in numeric else array for name, array in example.items()}
    count = len(next(iter(pool.values())))
    if count >= _FEW:
        return pool
    more = rng.integers(0, count, _FEW - count)
    for name, array in pool.items():
        drawn = array[more]
        if name in numeric:
            scale = np.abs(drawn) + np.abs(array).mean() * 0.1 + 1e-3
            drawn = (drawn + scale * rng.standard_normal(drawn.shape)).astype(array.dtype)
        pool[name] = np.concatenate([array, drawn])
    return pool


def _exchanged(
    pool: tensor.Tensors, numeric: list[str], rng: np.random.Generator
) -> tuple[tensor.Tensors, tensor.Tensors]:
    """Rows of the pool, and the same rows with one number exchanged."""
    count, size = len(next(iter(pool.values()))), 4 * PAIRS
    low = _pick(pool, rng.integers(0, count, size))
    high = {name: array.copy() for name, array in low.items()}
    donors = rng.integers(0, count, size)
    widths = {name: pool[name].reshape(count, -1).shape[1] for name in numeric}
    places = [(name, column) for name in numeric for column in range(widths[name])]
    for row in range(size if places else 0):
        name, column = places[rng.integers(len(places))]
        high[name].reshape(size, -1)[row, column] = pool[name].reshape(count, -1)[donors[row], column]
    return low, high


def _halved(run: Run, low: tensor.Tensors, high: tensor.Tensors, gap: float) -> tuple[tensor.Tensors, tensor.Tensors]:
    """Both ends moved together until nothing lies between them; they are answered differently all the while."""
    left = run(low)
    for _ in range(_HALVINGS):
        middle = {name: _middle(low[name], high[name], gap) for name in low}
        if all(((middle[name] == low[name]) | (middle[name] == high[name])).all() for name in low):
            break
        same = ~_differ(left, run(middle))
        low = {name: _where(same, middle[name], low[name]) for name in low}
        high = {name: _where(same, high[name], middle[name]) for name in high}
    return low, high


def trials(run: Run, found: tensor.Tensors, max_batch: int) -> list[draft.Trial]:
    """Trials of at most `max_batch` rows, without those where two classes tie within rounding."""
    answer = run(found)
    keep = np.ones(len(next(iter(found.values()))), bool)
    for array in answer.values():
        if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
            ordered = np.sort(array, axis=1)
            keep &= ordered[:, -1] - ordered[:, -2] > _TIE
    chosen = np.flatnonzero(keep)
    made = []
    for start in range(0, len(chosen), max_batch):
        indices = chosen[start : start + max_batch]
        name = f"at splits {start}-{start + len(indices) - 1}"
        made.append(draft.Trial(name, _pick(found, indices), _pick(answer, indices)))
    return made


def _shifted(rows_: tensor.Tensors, numeric: list[str], rng: np.random.Generator, gap: float) -> tensor.Tensors:
    """The rows with every number moved by up to two rounding steps, or two times `gap` of its size."""
    shifted = dict(rows_)
    for name in numeric:
        array = rows_[name]
        steps = rng.integers(-2, 3, array.shape)
        one = np.maximum(np.spacing(np.abs(array)), gap * np.abs(array))
        shifted[name] = (array + steps * one).astype(array.dtype)
    return shifted


def _middle(low: tensor.Array, high: tensor.Array, gap: float) -> tensor.Array:
    """Half way, or `low` where the two are near enough."""
    if low.dtype.kind != "f":
        return low
    # Half each before adding, so that nothing overflows.
    middle = low * low.dtype.type(0.5) + high * high.dtype.type(0.5)
    near = np.abs(high - low) <= gap * np.maximum(np.abs(low), np.abs(high))
    return np.asarray(np.where(near, low, middle))


def _where(rows_: tensor.Array, first: tensor.Array, second: tensor.Array) -> tensor.Array:
    return np.asarray(np.where(rows_.reshape(-1, *[1] * (first.ndim - 1)), first, second))


def _pick(tensors: tensor.Tensors, indices: tensor.Array) -> tensor.Tensors:
    return {name: array[indices] for name, array in tensors.items()}


def _differ(first: tensor.Tensors, second: tensor.Tensors) -> tensor.Array:
    """Per row, whether any output differs."""
    count = len(next(iter(first.values())))
    differ = np.zeros(count, bool)
    for name, array in first.items():
        if array.shape != second[name].shape:
            raise errors.CaptureFailed(f"output '{name}' changes its shape with the values of the input")
        differ |= (array != second[name]).reshape(count, -1).any(axis=1)
    return differ
