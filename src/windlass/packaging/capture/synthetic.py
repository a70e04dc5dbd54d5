"""Inputs made from a signature alone, for models that come without an example.

Used by the capture sources and by `trials.py`. What is made this way is called synthetic in the evidence. Must never
be mixed with rows that a person gave without saying so.
"""

from __future__ import annotations

import numpy as np

from windlass.types import signature, tensor

_LENGTH = 8


def inputs(spec: signature.Signature, rows: int, rng: np.random.Generator) -> tensor.Tensors:
    """Inputs made from a signature alone: normal floats, integers of 0 or 1, within ranges and categories if given.

    A symbolic dimension takes 8, or the nearest size that is allowed.
    """
    made: tensor.Tensors = {}
    masks = {d.mask for d in spec.dimensions.values()}
    for item in spec.inputs:
        shape = tuple(_size(spec, d, rows) for d in item.shape)
        made[item.name] = np.ones(shape, tensor.dtype(item.datatype)) if item.name in masks else _draw(item, shape, rng)
    return made


def _size(spec: signature.Signature, dimension: int | str, rows: int) -> int:
    if isinstance(dimension, int):
        return dimension
    if dimension == signature.BATCH:
        return rows
    known = spec.dimension(dimension)
    wanted = max(_LENGTH, known.minimum)
    return wanted if known.maximum is None else min(wanted, known.maximum)


def _draw(item: signature.TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> tensor.Array:
    kind = tensor.dtype(item.datatype)
    if item.categories:
        texts = rng.choice(np.array(item.categories), shape)
        return _bytes(texts) if kind.hasobject else texts.astype(kind)
    if kind.hasobject:
        return _bytes(rng.choice(np.array(["a", "b", "windlass"]), shape))
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    if kind.kind in "iu":
        low = int(item.minimum or 0)
        high = low + 1 if item.maximum is None else int(item.maximum)
        return rng.integers(low, high, shape, endpoint=True).astype(kind)
    if item.minimum is not None and item.maximum is not None:
        return rng.uniform(item.minimum, item.maximum, shape).astype(kind)
    return clip(item, rng.standard_normal(shape).astype(kind))


def _bytes(texts: tensor.Array) -> tensor.Array:
    made = np.empty(texts.shape, dtype=object)
    made.ravel()[:] = [str(t).encode() for t in texts.ravel()]
    return made


def clip(item: signature.TensorSpec, array: tensor.Array) -> tensor.Array:
    """The array within the range that the signature declares."""
    if item.minimum is None and item.maximum is None:
        return array
    return np.clip(array, item.minimum, item.maximum).astype(array.dtype)
