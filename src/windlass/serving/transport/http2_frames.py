"""HTTP/2 frames as bytes (RFC 9113, sections 4, 6 and 7): types, flags, error codes, settings, and how each is written.

Used by the connection and its streams. Must never hold state, or copy what it is given more than once.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9
# The length's upper two bytes and its lowest, the type, the flags, the stream (its reserved bit still in it).
FRAME = struct.Struct(">HBBBI")
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20
MAX_STREAM_ID = MAX_WINDOW = 0x7FFF_FFFF
DEFAULT_WINDOW = 65_535
DEFAULT_TABLE = 4_096
MIN_FRAME_SIZE = 16_384
MAX_FRAME_SIZE = 16_777_215

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
SETTINGS_TIMEOUT = 0x4
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
NO_RFC7540_PRIORITIES = 0x9

_SETTING = struct.Struct(">HI")
_TWO = struct.Struct(">II")
_ONE = struct.Struct(">I")
SETTINGS_ACK = b"\0\0\0\x04\x01\0\0\0\0"


class ConnectionFault(Exception):
    """What ends a connection, with its error code; not for callers of the server, who are told by GOAWAY."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of `size` bytes."""
    return FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return header(len(payload), SETTINGS, 0, 0) + payload


def ping_ack(opaque: bytes) -> bytes:
    """The answer to a PING of these eight bytes."""
    return b"\0\0\x08\x06\x01\0\0\0\0" + opaque


def ping(opaque: bytes) -> bytes:
    """A PING of these eight bytes."""
    return b"\0\0\x08\x06\0\0\0\0\0" + opaque


def goaway(last: int, code: int, text: bytes = b"") -> bytes:
    """A GOAWAY frame: no stream above `last` was or will be answered."""
    return header(8 + len(text), GOAWAY, 0, 0) + _TWO.pack(last, code) + text


def rst_stream(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return header(4, RST_STREAM, 0, stream) + _ONE.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return header(4, WINDOW_UPDATE, 0, stream) + _ONE.pack(increment)


def headers(stream: int, block: bytes, flags: int, most: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as payloads of `most` bytes ask for."""
    if len(block) <= most:
        return header(len(block), HEADERS, flags | END_HEADERS, stream) + block
    parts = [header(most, HEADERS, flags, stream), block[:most]]
    for start in range(most, len(block), most):
        part = block[start : start + most]
        last = END_HEADERS if start + most >= len(block) else 0
        parts += (header(len(part), CONTINUATION, last, stream), part)
    return b"".join(parts)


def read_settings(data: bytes, start: int, end: int) -> dict[int, int]:
    """The settings of a payload, the last of each kind; `ConnectionFault` if one may not be (6.5.2)."""
    found: dict[int, int] = {}
    for position in range(start, end, 6):
        key, value = _SETTING.unpack_from(data, position)
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if key == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
        if key == FRAME_SIZE and not MIN_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
            raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE is not between 2^14 and 2^24-1")
        found[key] = value
    return found


def unpad(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where a padded payload's content starts and ends; `ConnectionFault` if the padding is all of it or more (6.1)."""
    if start >= end:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame is empty")
    padding = data[start]
    if padding >= end - start:
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is longer than the payload")
    return start + 1, end - padding
