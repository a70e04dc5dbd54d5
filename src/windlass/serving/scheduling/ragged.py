"""Ragged dimensions: requests of different sizes in one run, padded to the largest and trimmed again.

Called by the batcher for models whose signature declares a mask. Must never pad a dimension without one: the model
would take the padding for data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from windlass.types import contract, inference, signature, tensor


def bucket_of(size: int) -> int:
    """The bucket of a ragged size: the next power of two from 16 on, so that padding less than doubles the work."""
    return max(16, 1 << (size - 1).bit_length())


class Ragged:
    """Which axes of which inputs may be padded, from the signature; false if none may."""

    def __init__(self, contracted: signature.Signature) -> None:
        ragged = {name for name, known in contracted.dimensions.items() if known.mask}
        # Axis in the shape key, which leaves out the batch.
        self._axes = tuple(
            tuple(axis - 1 for axis, d in enumerate(spec.shape) if d in ragged) for spec in contracted.inputs
        )
        self._names = tuple(spec.name for spec in contracted.inputs)
        self._fixed = all(d == signature.BATCH or isinstance(d, int) for t in contracted.inputs for d in t.shape)
        self._symbols = tuple(
            (name, index, axis)
            for name in sorted(ragged)
            for index, spec in enumerate(contracted.outputs)
            for axis, d in enumerate(spec.shape)
            if d == name
        )
        self._outputs = tuple(spec.name for spec in contracted.outputs)
        self._sources = {
            d: (spec.name, axis)
            for spec in contracted.inputs
            for axis, d in enumerate(spec.shape)
            if isinstance(d, str) and d in ragged
        }

    def __bool__(self) -> bool:
        return any(self._axes)

    def key(self, shapes: Mapping[str, tuple[int, ...]]) -> contract.ShapeKey:
        """The bucket of requests whose inputs have these shapes, without the batch."""
        return contract.NO_KEY if self._fixed else self.bucket(tuple(shapes[name] for name in self._names))

    def bucket(self, key: contract.ShapeKey) -> contract.ShapeKey:
        """The key with ragged sizes rounded up to their bucket."""
        return tuple(
            tuple(bucket_of(size) if axis in axes else size for axis, size in enumerate(shape))
            for shape, axes in zip(key, self._axes, strict=True)
        )

    def join(self, calls: Sequence[inference.Call]) -> tensor.Tensors:
        """One batch from requests of one bucket, each input padded with zeros to the largest of them."""
        joined: tensor.Tensors = {}
        for name, axes in zip(self._names, self._axes, strict=True):
            parts = [call.request.inputs[name] for call in calls]
            if not axes or len({part.shape[1:] for part in parts}) == 1:
                joined[name] = np.concatenate(parts)
                continue
            largest = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True))
            batch = np.zeros((sum(len(part) for part in parts), *largest), dtype=parts[0].dtype)
            start = 0
            for part in parts:
                batch[(slice(start, start + len(part)), *(slice(0, n) for n in part.shape[1:]))] = part
                start += len(part)
            joined[name] = batch
        return joined

    def trim(self, outputs: tensor.Tensors, call: inference.Call) -> tensor.Tensors:
        """Cut the padding off outputs that have a ragged dimension."""
        for symbol, index, axis in self._symbols:
            name = self._outputs[index]
            if name in outputs:
                source, source_axis = self._sources[symbol]
                size = call.request.inputs[source].shape[source_axis]
                cut = [slice(None)] * outputs[name].ndim
                cut[axis] = slice(0, size)
                outputs[name] = outputs[name][tuple(cut)]
        return outputs
