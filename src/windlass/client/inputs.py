"""Tensors to ask a model with: made at random from what it says it takes, or given.

Used by `targets`. Must never send the same few numbers again and again unless asked to: servers recognise what comes
again, and the figures would be of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.types import tensor

VARIANTS = 64
# Low enough to be an index into any vocabulary or table.
_HIGHEST_INTEGER = 100


class Wanted(msgspec.Struct, frozen=True):
    """One input as the model's metadata tells it: a free dimension is below 0."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Size(msgspec.Struct, frozen=True):
    """How large a request is: `rows` along a free first dimension, `length` along every other free one; its share."""

    rows: int = 1
    length: int = 16
    weight: float = 1.0


def sizes(texts: Sequence[str], rows: int) -> tuple[Size, ...]:
    """From `16`, or `16@0.9`: a length and its share of the requests. None: one size."""
    found = []
    for text in texts:
        length, _, weight = text.partition("@")
        try:
            found.append(Size(rows, int(length), float(weight or 1)))
        except ValueError:
            raise errors.UsageError(f"'{text}' is no length.", hint="Write 128, or 128@0.5 with its share.") from None
        if found[-1].length < 1 or found[-1].weight <= 0:
            raise errors.UsageError(f"'{text}' is no length.", hint="A length and a share are above 0.")
    return tuple(found) or (Size(rows),)


def at_random(wanted: Sequence[Wanted], size: Size, seed: int) -> tensor.Tensors:
    """An array for each input: normal floats, integers from 0 to 99, masks of ones, short words."""
    random = np.random.default_rng(seed)
    made: tensor.Tensors = {}
    for one in wanted:
        free = [size.length] * len(one.shape)
        if free:
            free[0] = size.rows
        shape = tuple(fixed if fixed >= 0 else free[axis] for axis, fixed in enumerate(one.shape))
        made[one.name] = _array(one, shape, random)
    return made


def _array(one: Wanted, shape: tuple[int, ...], random: np.random.Generator) -> tensor.Array:
    kind = tensor.dtype(one.datatype)
    if one.datatype == "BYTES":
        words = [f"word {number}".encode() for number in random.integers(0, 10_000, int(np.prod(shape))).tolist()]
        array: np.ndarray[Any, Any] = np.empty(len(words), object)
        array[:] = words
        return array.reshape(shape)
    if kind.kind == "f":
        # As short in JSON as measured values are.
        return random.normal(size=shape).round(4).astype(kind)
    if "mask" in one.name:
        return np.ones(shape, kind)
    return random.integers(0, 2 if kind.kind == "b" else _HIGHEST_INTEGER, shape).astype(kind)
