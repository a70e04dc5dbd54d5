"""gRPC requests that differ from an earlier one only in their numbers and their id: the rest is remembered.

Called by `oip_grpc`. A message names its model, its version and its id first; what follows, up to the raw numbers, is
recognised by comparing bytes, so it means what it meant when protobuf read it. Must never remember a message whose
fields come in another order, or whose tensors are not all raw numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from windlass.protocols.pb import wire
from windlass.types import contract, directory, inference

_MOST = 512
_LONGEST = 1_024
_NAME, _VERSION, _ID = 0x0A, 0x12, 0x1A
_RAW = 7


class _Known(NamedTuple):
    """`middle` stands before the first tensor, `between` (offset, bytes) before each of the others.

    Offsets are from the end of the name, version and id.
    """

    middle: bytes
    between: tuple[tuple[int, bytes], ...]
    tensors: tuple[tuple[str, tuple[int, ...], np.dtype[Any], int], ...]
    checked: bool
    request: inference.InferRequest


_known: dict[tuple[contract.Contract, int], _Known] = {}


def again(message: bytes, view: directory.ModelView) -> inference.InferRequest | None:
    """The request, if all but its numbers and its id is known; else None. Its tensors are views on the message."""
    try:
        start, name = _opening(message)
        known = _known.get((view.contract, len(message) - start))
        if known is None or not message.startswith(known.middle, start):
            return None
        _, between, tensors, checked, like = known
        for offset, literal in between:
            if not message.startswith(literal, start + offset):
                return None
        identifier = name.decode()
    except (IndexError, UnicodeDecodeError):
        return None
    inputs = {key: np.ndarray(shape, dtype, message, start + offset) for key, shape, dtype, offset in tensors}
    if checked:
        view.contract.check(inputs)
    return inference.InferRequest(
        view.name,
        inputs,
        like.rows,
        like.key,
        like.outputs,
        identifier,
        timeout_s=like.timeout_s,
        priority=like.priority,
        context=like.context,
    )


def _opening(message: bytes) -> tuple[int, bytes]:
    """Where the name, the version and the id end, and the id. `IndexError` if they are not short, or cut off."""
    position = 0
    if message[0] == _NAME:
        position = 2 + _short(message[1])
    if message[position] == _VERSION:
        position += 2 + _short(message[position + 1])
    if message[position] != _ID:
        return position, b""
    begin = position + 2
    end = begin + _short(message[position + 1])
    return end, message[begin:end]


def _short(size: int) -> int:
    if size > 0x7F:
        raise IndexError
    return size


def remember(message: bytes, request: inference.InferRequest, view: directory.ModelView) -> None:
    """Keep what is around the numbers of a request whose fields come in order and whose tensors are all raw."""
    arrays = request.inputs
    if any(array.dtype.kind not in "fiu" for array in arrays.values()):
        return
    try:
        start, _ = _opening(message)
    except IndexError:
        return
    raw: list[tuple[int, int, int]] = []
    position = start
    for number, begin, first, end in wire.fields(message):
        if begin < start:
            continue
        if number < _ID >> 3 or number == _ID >> 3 or (raw and number != _RAW):
            return
        if number == _RAW:
            raw.append((begin, first, end))
        elif number < _RAW:
            position = end
        else:
            return
    if len(raw) != len(arrays) or position - start > _LONGEST:
        return
    checked = view.contract.bounds_values or view.contract.refuses_nan
    tensors = tuple(
        (name, array.shape, array.dtype, first - start)
        for (name, array), (_, first, _) in zip(arrays.items(), raw, strict=True)
    )
    between = tuple((begin - start, message[begin:first]) for begin, first, _ in raw[1:])
    if len(_known) >= _MOST:
        _known.clear()
    # Without its tensors: they are views on a message that is let go.
    _known[view.contract, len(message) - start] = _Known(
        message[start : raw[0][1]], between, tensors, checked, msgspec.structs.replace(request, inputs={})
    )
