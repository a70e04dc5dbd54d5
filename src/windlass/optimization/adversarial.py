"""Rows that are hard on purpose: noise of bounded size, of several tries the one that unsettles the original most.

Called by `accuracy.py` where it is asked for. Needs no gradients: a random search in the corners of the box around a
row (as the square attack of Andriushchenko et al., ECCV 2020, in its simplest form). Must never step beyond what the
signature allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import data
from windlass.types import fields, signature, tensor

_TRIES = 8


def rows(
    read: Callable[[tensor.Tensors], fields.Columns],
    given: data.Rows,
    shape: signature.Signature,
    *,
    scores: str,
    size: float,
    seed: int,
) -> data.Rows:
    """The rows with noise of at most `size` of each input's range (0 to 1) on their numbers.

    `read` asks the original. With `scores` the smallest lead of the highest over the second counts, else the largest
    change of an answer. `Unsupported` if no input holds fractions.
    """
    noisy = inputs(shape)
    random = np.random.default_rng(seed)
    ranges = {spec.name: _range(spec, given.batches) for spec in noisy}
    batches = tuple(_hardest(read, batch, ranges, scores, size, random) for batch in given.batches)
    digest = hashlib.sha256(f"{given.digest} {size} {seed}".encode()).hexdigest()
    return msgspec.structs.replace(given, batches=batches, digest=f"sha256:{digest}")


def inputs(shape: signature.Signature) -> list[signature.TensorSpec]:
    """The inputs that noise can be put on; `Unsupported` if there are none."""
    noisy = [spec for spec in shape.inputs if spec.datatype in ("FP16", "FP32", "FP64") and not spec.categories]
    if not noisy:
        raise errors.Unsupported("adversarial rows need inputs of fractions, which this model has none of.")
    return noisy


def _hardest(
    read: Callable[[tensor.Tensors], fields.Columns],
    batch: tensor.Tensors,
    ranges: dict[str, tuple[float, float]],
    scores: str,
    size: float,
    random: np.random.Generator,
) -> tensor.Tensors:
    usual = read(batch)
    best = {name: values.copy() for name, values in batch.items()}
    hardness = np.full(len(next(iter(batch.values()))), -np.inf)
    for _ in range(_TRIES):
        tried = dict(batch)
        for name, (low, high) in ranges.items():
            values = batch[name].astype(np.float64)
            noise = size * (high - low) * random.choice((-1.0, 1.0), size=values.shape)
            # What lies outside the range already is no further out.
            inside = np.clip(values + noise, np.minimum(low, values), np.maximum(high, values))
            tried[name] = inside.astype(batch[name].dtype)
        found = _hardness(read(tried), usual, scores)
        harder = found > hardness
        hardness[harder] = found[harder]
        for name in ranges:
            best[name][harder] = tried[name][harder]
    return best


def _hardness(found: fields.Columns, usual: fields.Columns, scores: str) -> tensor.Array:
    if scores:
        values = found[scores].astype(np.float64)
        was = usual[scores].argmax(axis=1)
        rows = np.arange(len(values))
        own = values[rows, was].copy()
        values[rows, was] = -np.inf
        return np.asarray(values.max(axis=1) - own)
    changes = [
        np.abs(found[name].astype(np.float64) - values).reshape(len(values), -1).max(axis=1)
        for name, values in usual.items()
        if values.dtype.kind == "f"
    ]
    return np.asarray(np.max(changes, axis=0)) if changes else np.zeros(len(next(iter(usual.values()))))


def _range(spec: signature.TensorSpec, batches: tuple[tensor.Tensors, ...]) -> tuple[float, float]:
    """What the signature allows, else what the rows span."""
    low = min(float(np.nanmin(batch[spec.name])) for batch in batches) if spec.minimum is None else spec.minimum
    high = max(float(np.nanmax(batch[spec.name])) for batch in batches) if spec.maximum is None else spec.maximum
    return low, high
