"""The wire format of protocol buffers, as much of it as the hot path reads and writes itself.

Called by the gRPC protocols; everything else goes through protobuf. Must never read past the bytes it was given, nor
take a field for another: what it does not expect, it leaves to protobuf to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator

from windlass import errors

# A message of a thousand fields at its top level is none that a client of these services sends.
MOST_FIELDS = 1_024
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_ONE_BYTE = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """A whole number of 0 or more."""
    if value <= 0x7F:
        return _ONE_BYTE[value]
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def field(number: int, data: bytes) -> bytes:
    """A field that holds bytes, a string or a message."""
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message in order: number, where the field begins, and from where to where its value goes.

    The value of a field that is no bytes is its encoding. `InvalidInput` if this is no message, or one of too many
    fields.
    """
    position, size = 0, len(data)
    try:
        for _ in range(MOST_FIELDS):
            if position == size:
                return
            begin = position
            tag, position = _read_varint(data, position)
            kind = tag & 7
            start = position
            if kind == _BYTES:
                length, start = _read_varint(data, position)
                position = start + length
            elif kind == _VARINT:
                _, position = _read_varint(data, position)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            else:
                raise errors.InvalidInput("the message is not a valid protocol buffer")
            if position > size:
                raise IndexError
            yield tag >> 3, begin, start, position
    except IndexError:
        raise errors.InvalidInput("the message is not a valid protocol buffer: it ends early") from None
    if position < size:
        raise errors.InvalidInput(f"the message has more than {MOST_FIELDS} fields")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise errors.InvalidInput("the message is not a valid protocol buffer: a number is too long")
