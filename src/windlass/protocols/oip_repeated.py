"""Requests that differ from an earlier one only in their numbers: all but the numbers is remembered.

Called by `oip_rest`. Clients send one document again and again: what stands around its numbers has been read and
checked already, and it is recognised by comparing bytes, not by guessing. Must never remember a request with an id
(it does not come again), a JSON document with more than the four keys of one input, or anything under a contract that
looks at values (that they are no NaN goes without saying in JSON, which cannot spell it).

A binary request is its document, byte for byte, and as many bytes behind it. In a JSON request equal bytes around it
mean the same array, because the state of a JSON reader depends only on what it has read: the remembered text before
the array brought it to the value of `data` (among these keys, and in well-formed strings, `"data":` cannot stand
anywhere else), a complete array of numbers is read there, and what follows is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from windlass.protocols import json_tensors
from windlass.types import contract, directory, inference, tensor

_MOST = 512
_LONGEST = 1024
_DATA = b'"data":'


class _Known(NamedTuple):
    name: str
    read: Callable[[bytes], tensor.Array]
    rows: int
    key: contract.ShapeKey


class _KnownBinary(NamedTuple):
    tensors: tuple[tuple[str, tuple[int, ...], np.dtype[Any], int], ...]
    request: inference.InferRequest


_known: dict[tuple[contract.Contract, bytes, bytes], _Known] = {}
_known_binary: dict[tuple[contract.Contract, bytes, int], _KnownBinary] = {}


def again(body: bytes, view: directory.ModelView) -> inference.InferRequest | None:
    """The request, if all but its numbers is known and its numbers are what they should be; else None."""
    start = body.find(b"[", body.find(_DATA))
    end = body.find(b"]", start) + 1
    known = _known.get((view.contract, body[:start], body[end:]))
    if known is None:
        return None
    name, read, rows, key = known
    try:
        return inference.InferRequest(view.name, {name: read(body[start:end])}, rows, key)
    except (*json_tensors.MALFORMED, *json_tensors.UNPACKED):
        return None


def remember(body: bytes, request: inference.InferRequest, view: directory.ModelView) -> None:
    """Keep what is around the numbers of a request that has one input and no other key than its four."""
    start = body.find(b"[", body.find(_DATA))
    end = body.find(b"]", start) + 1
    if len(request.inputs) != 1 or len(body) - (end - start) > _LONGEST or view.contract.bounds_values:
        return
    ((name, array),) = request.inputs.items()
    if array.dtype.kind not in "fiub":
        return
    read = json_tensors.flat_reader(tensor.datatype(array), array.shape)
    try:
        found = read(body[start:end])
    except (*json_tensors.MALFORMED, *json_tensors.UNPACKED):
        return
    if found.tobytes() != array.tobytes():
        return
    if len(_known) >= _MOST:
        _known.clear()
    _known[view.contract, body[:start], body[end:]] = _Known(name, read, request.rows, request.key)


def again_binary(text: bytes, body: bytes, view: directory.ModelView) -> inference.InferRequest | None:
    """The request, if its document is known and its body as long as then; its tensors are views on the body."""
    known = _known_binary.get((view.contract, text, len(body)))
    if known is None:
        return None
    inputs = {name: np.ndarray(shape, dtype, body, start) for name, shape, dtype, start in known.tensors}
    like = known.request
    return inference.InferRequest(
        view.name,
        inputs,
        like.rows,
        like.key,
        like.outputs,
        timeout_s=like.timeout_s,
        priority=like.priority,
        context=like.context,
    )


def remember_binary(text: bytes, body: bytes, request: inference.InferRequest, view: directory.ModelView) -> None:
    """Keep the document of a request whose tensors are all numbers behind it."""
    arrays = request.inputs
    contract = view.contract
    if request.id or len(text) > _LONGEST or contract.bounds_values or contract.refuses_nan:
        return
    if any(array.dtype.kind not in "fiu" for array in arrays.values()):
        return
    # An input whose data was in the document would make this sum larger than what is behind it.
    if sum(array.nbytes for array in arrays.values()) != len(body) - len(text):
        return
    tensors = []
    start = len(text)
    for name, array in arrays.items():
        tensors.append((name, array.shape, array.dtype, start))
        start += array.nbytes
    if len(_known_binary) >= _MOST:
        _known_binary.clear()
    # Without its tensors: they are views on a body that is let go.
    _known_binary[view.contract, text, len(body)] = _KnownBinary(
        tuple(tensors), msgspec.structs.replace(request, inputs={})
    )
