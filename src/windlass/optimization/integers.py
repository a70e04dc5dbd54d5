"""Numbers as small integers with scales: the arithmetic of every quantizing technique.

Used by the techniques that quantize a graph. Must never know of a graph.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from windlass.types import tensor

Type: TypeAlias = Literal["QUInt8", "QInt8"]
_LEVELS = 255
# Half the range of 8 bits: the sum of two products cannot overflow 16 bits on processors without VNNI.
_REDUCED = 63
_WHOLE = 127
_INT32 = 2.0**31 - 1
# The least scale: what is constant at zero needs one as well, and a denormal one would be flushed.
_LEAST = float(np.finfo(np.float32).tiny) * 2.0**24
_NIBBLE = 15


class Point(NamedTuple):
    """The scale and the zero point of activations: the real value is `(q - zero) * scale`."""

    scale: float
    zero: int


class Weights(NamedTuple):
    """Integer weights (int8 or uint8, the shape of the real ones), and float32 scales, one per channel or one (0-d)."""

    values: tensor.Array
    scales: tensor.Array
    zero: int


class Blocks(NamedTuple):
    """4-bit weights of `[inputs, outputs]` in blocks along the inputs, as `com.microsoft.MatMulNBits` reads them.

    `values`: uint8 `[outputs, blocks, block / 2]`, two to a byte, the lower half first; `scales`: float32
    `[outputs * blocks]`; `zeros`: uint8, two to a byte and rounded up for each output, or None where all are 8.
    """

    values: tensor.Array
    scales: tensor.Array
    zeros: tensor.Array | None


def point(low: float, high: float, kind: Type) -> Point:
    """The affine mapping of [low, high] onto 8 bits. Zero is always representable: padding and ReLU rely on it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(float(np.float32((high - low) / _LEVELS)), _LEAST)
    zero = int(np.clip(round(-low / scale), 0, _LEVELS))
    return Point(scale, zero if kind == "QUInt8" else zero - 128)


def weights(
    real: tensor.Array, axis: int | None, kind: Type, *, reduced: bool, least: tensor.Array | None = None
) -> Weights:
    """Symmetric 8-bit weights, a scale for each place along `axis` (None: one for all).

    `least` are the smallest scales that may be used; `reduced` keeps to 7 bits.
    """
    real = real.astype(np.float32)
    others = tuple(i for i in range(real.ndim) if i != axis) if axis is not None else None
    limit = _REDUCED if reduced else _WHOLE
    scales = np.abs(real).max(axis=others, initial=0.0) / np.float32(limit)
    scales = np.maximum(np.maximum(scales, 0.0 if least is None else least), _LEAST).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(real.ndim)]
    values = np.clip(np.rint(real / scales.reshape(shape)), -limit, limit).astype(np.int8)
    if kind == "QInt8":
        return Weights(values, scales, 0)
    return Weights((values.astype(np.int16) + 128).astype(np.uint8), scales, 128)


def bias(real: tensor.Array, scales: tensor.Array) -> tensor.Array:
    """int32 biases at these scales (of the input times those of the weights)."""
    return np.clip(np.rint(real.astype(np.float64) / scales), -_INT32, _INT32).astype(np.int32)


def least_scales(biases: tensor.Array, input_scale: float) -> tensor.Array:
    """The smallest weight scales, float32, at which the biases still fit into 32 bits."""
    return (np.abs(biases.astype(np.float64)) / (input_scale * _INT32) * 1.001).astype(np.float32)


def blocks(real: tensor.Array, size: int, *, symmetric: bool) -> Blocks:
    """4-bit weights from float32 `[inputs, outputs]`, a scale for each `size` inputs of an output, the last padded.

    Symmetric: the largest magnitude maps to -8, as it is the level that the other side lacks; otherwise [low, high] is
    mapped onto the 16 levels, zero among them.
    """
    inputs, outputs = real.shape
    count = -(-inputs // size)
    padded = np.zeros((outputs, count * size), np.float32)
    padded[:, :inputs] = real.T
    parts = padded.reshape(outputs, count, size)
    if symmetric:
        largest = np.take_along_axis(parts, np.abs(parts).argmax(axis=2, keepdims=True), axis=2)
        scales = largest / np.float32(-8)
        zeros = np.full((outputs, count, 1), 8, np.float32)
    else:
        low, high = parts.min(axis=2, keepdims=True), parts.max(axis=2, keepdims=True)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / np.float32(_NIBBLE)
        zeros = np.clip(np.rint(-low / np.where(scales == 0, 1, scales)), 0, _NIBBLE)
    safe = np.where(np.abs(scales) < _LEAST, np.float32(1), scales)
    nibbles = np.clip(np.rint(parts / safe) + zeros, 0, _NIBBLE).astype(np.uint8)
    values = nibbles[:, :, 0::2] | (nibbles[:, :, 1::2] << 4)
    packed = None if symmetric else _pack(zeros[:, :, 0].astype(np.uint8))
    return Blocks(values, safe.reshape(-1).astype(np.float32), packed)


def _pack(nibbles: tensor.Array) -> tensor.Array:
    """Two to a byte along the last axis, each row rounded up to whole bytes."""
    even = np.pad(nibbles, ((0, 0), (0, nibbles.shape[1] % 2)))
    packed: tensor.Array = (even[:, 0::2] | (even[:, 1::2] << 4)).reshape(-1)
    return packed
