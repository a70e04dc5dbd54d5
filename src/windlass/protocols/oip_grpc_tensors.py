"""The tensors of a gRPC request and of its answer: raw bytes, or values in the message by their type.

Called by `oip_grpc`. Raw numbers become views on the message, not copies. Must never take a value that its datatype
cannot hold, nor two forms of one tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from windlass import errors
from windlass.protocols import json_tensors
from windlass.protocols.pb import wire
from windlass.types import directory, tensor, tensor_codec

_INPUT, _OUTPUT, _RAW = 5, 6, 7
_SHAPE = 3
# An input or output of fewer bytes is parsed as it is: protobuf takes sixteen times as much for it, at most.
_SHORT = 4_096
# The longest encoding of a whole number.
_LONGEST = 10
# Where the values of a datatype stand, if they are not raw; FP16 has no such place.
_PLACES = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def split(message: bytes) -> tuple[bytes, list[memoryview]]:
    """A request without its raw contents, and those as views. `InvalidInput` if it is no message.

    What protobuf would take far more memory and time for than its bytes is refused before it is parsed.
    """
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    whole = memoryview(message)
    for number, begin, start, end in wire.fields(message):
        if number == _RAW:
            raw.append(whole[start:end])
            continue
        if number in (_INPUT, _OUTPUT) and end - start > _SHORT:
            _check_parts(number, message[start:end])
        rest.append(whole[begin:end])
    return b"".join(rest), raw


def _check_parts(number: int, part: bytes) -> None:
    """Refuse an input or output of countless parameters or dimensions."""
    for inner, _, start, end in wire.fields(part):
        if number == _INPUT and inner == _SHAPE and end - start > _LONGEST * tensor.MAX_RANK:
            raise errors.InvalidInput(f"a shape has more than {tensor.MAX_RANK} dimensions")


def decode(document: Any, raw: list[memoryview], view: directory.ModelView) -> tensor.Tensors:
    """The inputs of a parsed request. `InvalidInput` names the tensor."""
    if raw and len(raw) != len(document.inputs):
        raise errors.InvalidInput(
            f"the request has {len(raw)} raw_input_contents for {len(document.inputs)} inputs: each input needs one"
        )
    limit = view.limits.max_elements
    inputs: tensor.Tensors = {}
    for index, one in enumerate(document.inputs):
        if len(one.shape) > tensor.MAX_RANK:
            raise errors.InvalidInput(f"a shape has {len(one.shape)} dimensions: at most {tensor.MAX_RANK} are allowed")
        shape = tuple(one.shape)
        if not raw:
            inputs[one.name] = _from_contents(one, shape, limit)
        elif one.HasField("contents"):
            raise errors.InvalidInput(f"tensor '{one.name[:64]}' has both contents and raw_input_contents")
        else:
            inputs[one.name] = tensor_codec.from_raw(
                one.datatype, shape, raw[index], name=one.name[:64], max_elements=limit
            )
    if len(inputs) != len(document.inputs):
        raise errors.InvalidInput("an input is given twice")
    return inputs


def _from_contents(one: Any, shape: tuple[int, ...], limit: int) -> tensor.Array:
    name, datatype = one.name, one.datatype
    tensor.dtype(datatype)
    place = _PLACES.get(datatype)
    if place is None:
        raise errors.InvalidInput(
            f"tensor '{name[:64]}' is {datatype}, which has no place in contents",
            hint="Send it in raw_input_contents.",
        )
    if not one.HasField("contents"):
        if tensor.element_count(shape, limit):
            raise errors.InvalidInput(f"tensor '{name[:64]}' has no data")
        return json_tensors.pack([], datatype, shape, name, limit)
    for found, _ in one.contents.ListFields():
        if found.name != place:
            raise errors.InvalidInput(f"tensor '{name[:64]}' is {datatype}: its values go to {place}, not {found.name}")
    values = getattr(one.contents, place)
    # Counted before they become Python objects.
    count = tensor.element_count(shape, limit)
    if len(values) != count:
        raise errors.InvalidInput(f"tensor '{name[:64]}' has {len(values)} values: shape {list(shape)} needs {count}")
    if count < json_tensors.HUGE or datatype == "BYTES":
        return json_tensors.pack(list(values), datatype, shape, name, limit)
    try:
        # Without a list of them all, which would take many times the memory.
        return np.fromiter(values, tensor.dtype(datatype), count).reshape(shape)
    except OverflowError:
        raise errors.InvalidInput(f"tensor '{name[:64]}' has a value that {datatype} cannot hold") from None


def to_raw(array: tensor.Array) -> bytes:
    """The raw form of an output."""
    return tensor_codec.to_raw(array) if array.dtype.kind in "OSU" else array.tobytes()
