"""Tensors as bytes: the Open Inference Protocol's raw form, and a file of named tensors in that form.

The raw form is used by the binary extension (protocols) and by golden files (packaging): little-endian, row-major,
BYTES elements each behind a 4-byte length. A tensor file is an 8-byte little-endian header length, a canonical JSON
header `{name: {datatype, shape, offset, size}}`, then the tensors without gaps in the header's order.
Must never trust a length that it has not compared with what is there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import msgspec
import numpy as np

from windlass import errors
from windlass.types import strict_json, tensor

_MAX_HEADER = 1_048_576
_LENGTH = struct.Struct("<I")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    datatype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def to_raw(array: tensor.Array) -> bytes:
    """The raw form of a tensor; an object array may hold `bytes` or `str` (sent as UTF-8)."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for item in array.ravel():
            data = item.encode() if isinstance(item, str) else bytes(item)
            parts.append(_LENGTH.pack(len(data)))
            parts.append(data)
        return b"".join(parts)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def from_raw(
    datatype: str,
    shape: tuple[int, ...],
    data: bytes | bytearray | memoryview,
    *,
    name: str,
    max_elements: int = 1 << 40,
) -> tensor.Array:
    """A tensor from its raw form: a view for numbers, copies for BYTES. `InvalidInput` names the tensor."""
    kind = tensor.dtype(datatype)
    count = tensor.element_count(shape, max_elements)
    if datatype == "BYTES":
        return _bytes_from_raw(shape, count, memoryview(data), name)
    if len(data) != count * kind.itemsize:
        raise errors.InvalidInput(
            f"tensor '{name}' has {len(data)} bytes: {datatype} of shape {list(shape)} needs {count * kind.itemsize}"
        )
    array = np.frombuffer(data, dtype=kind.newbyteorder("<")).reshape(shape)
    if datatype == "BOOL" and count and np.frombuffer(data, dtype=np.uint8).max() > 1:
        raise errors.InvalidInput(f"tensor '{name}' has a BOOL that is neither 0 nor 1")
    return array


def _bytes_from_raw(shape: tuple[int, ...], count: int, data: memoryview, name: str) -> tensor.Array:
    if len(data) < 4 * count:
        raise errors.InvalidInput(f"tensor '{name}' has {len(data)} bytes: {count} BYTES elements need more")
    array = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        if position + 4 > len(data):
            raise errors.InvalidInput(f"tensor '{name}' ends inside element {index}")
        (size,) = _LENGTH.unpack_from(data, position)
        position += 4
        if position + size > len(data):
            raise errors.InvalidInput(f"tensor '{name}' ends inside element {index}")
        array[index] = bytes(data[position : position + size])
        position += size
    if position != len(data):
        raise errors.InvalidInput(f"tensor '{name}' has {len(data) - position} bytes left over")
    return array.reshape(shape)


def pack(tensors: Mapping[str, tensor.Array]) -> bytes:
    """A tensor file. The same tensors give the same bytes, whatever their order."""
    header: dict[str, _Entry] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        raw = to_raw(tensors[name])
        kind = tensor.datatype(tensors[name])
        header[name] = _Entry(kind, tuple(int(d) for d in tensors[name].shape), offset, len(raw))
        parts.append(raw)
        offset += len(raw)
    # The canonical spelling, without the general way to it: names, whole numbers and lists of them.
    head = msgspec.json.encode(header, order="sorted")
    return b"".join([struct.pack("<Q", len(head)), head, *parts])


def unpack(data: bytes | memoryview) -> tensor.Tensors:
    """The tensors of a tensor file; `CorruptPackage` if its header and its bytes disagree in any way."""
    view = memoryview(data)
    try:
        if len(view) < 8:
            raise errors.InvalidInput("the tensor file ends inside its header")
        (length,) = struct.unpack_from("<Q", view)
        if length > _MAX_HEADER or 8 + length > len(view):
            raise errors.InvalidInput("the tensor file ends inside its header")
        header = strict_json.decode(bytes(view[8 : 8 + length]), dict[str, _Entry], what="the tensor file's header")
        body = view[8 + length :]
        position = 0
        tensors: tensor.Tensors = {}
        for name in sorted(header):
            entry = header[name]
            if entry.offset != position or entry.size < 0 or position + entry.size > len(body):
                raise errors.InvalidInput(f"tensor '{name}' overlaps, leaves a gap or ends after the file")
            raw = body[position : position + entry.size]
            tensors[name] = from_raw(entry.datatype, entry.shape, raw, name=name)
            position += entry.size
        if position != len(body):
            raise errors.InvalidInput("the tensor file has bytes left over")
        return tensors
    except errors.InvalidInput as e:
        raise errors.CorruptPackage(e.message) from None
