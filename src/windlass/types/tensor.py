"""Tensor datatypes: the Open Inference Protocol's names beside numpy's dtypes.

Used by every room that holds tensors. Must never guess a type: an unknown name or dtype is an error.
BYTES tensors are object arrays whose elements are `bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from windlass import errors

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]

# As many dimensions as a tensor may have; numpy itself stops at 64.
MAX_RANK = 32

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an Open Inference Protocol datatype; `InvalidInput` if there is none."""
    try:
        return DTYPES[datatype]
    except KeyError:
        raise errors.InvalidInput(f"datatype '{datatype[:32]}' is not one of {', '.join(DTYPES)}") from None


def datatype(array: Array) -> str:
    """The Open Inference Protocol datatype of an array; text arrays count as BYTES."""
    if array.dtype.kind in "SU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("=")]
    except KeyError:
        raise errors.InvalidInput(f"arrays of dtype {array.dtype} have no Open Inference Protocol datatype") from None


def element_count(shape: tuple[int, ...], limit: int) -> int:
    """The number of elements of a shape; `InvalidInput` on too many or negative dimensions, or above `limit`.

    Python integers do not overflow, so a product of huge dimensions is compared, never wrapped. An empty dimension
    does not excuse a huge one beside it.
    """
    if len(shape) > MAX_RANK:
        raise errors.InvalidInput(f"a shape has {len(shape)} dimensions: at most {MAX_RANK} are allowed")
    if any(size < 0 for size in shape):
        raise errors.InvalidInput(f"shape {list(shape)[:8]} has a negative dimension")
    if math.prod(max(size, 1) for size in shape) > limit:
        raise errors.InvalidInput(f"shape {list(shape)[:8]} holds more than the {limit} elements allowed")
    return math.prod(shape)
