"""gRPC's framing on an HTTP/2 stream: length-prefixed messages, their compression, timeouts, and how a call ends.

Used by the gRPC calls. Must never inflate a message beyond its limit, or tell a caller anything internal.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads
from windlass.serving.transport import http2_hpack as hpack
from windlass.serving.transport import http2_streams, listener, responses

PREFIX = struct.Struct(">BI")
OK = http2_streams.GRPC_OK
OK_FIELDS: base.Fields = ((b"grpc-status", b"0"),)
COMPRESS_FROM = responses.COMPRESS_FROM
block = hpack.encode
ENCODINGS = (b"gzip", b"deflate")
_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
_ACCEPTED = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)
_ESCAPED = [bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in range(256)]
_ID = hpack.encode([(b"x-request-id", b"")])[:-1]
_LONGEST_ID = 0x7E
# The head of an answer up to the request id, by the length of the id.
_HEADS = [http2_streams.GRPC_HEAD + _ID + bytes((size,)) for size in range(_LONGEST_ID + 1)]
_METHODS = (base.RpcInfer, base.RpcQuery)


class Stream(Protocol):
    """What a call needs of its HTTP/2 stream; blocks are encoded fields."""

    peer: str
    timed: bool
    on_ready: Callable[[], None] | None

    @property
    def ready(self) -> bool:
        """Whether what is sent now goes out now."""
        ...

    def respond(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """A whole response."""
        ...

    def send_block(self, block: bytes, end: bool) -> None:
        """The response's head."""
        ...

    def send_data(self, data: bytes) -> None:
        """A part of the response's body."""
        ...

    def send_trailers(self, fields: base.Fields) -> None:
        """The end of the response."""
        ...

    def pause(self) -> None:
        """Give the peer no more window than it has."""
        ...

    def resume(self) -> None:
        """Give the window back."""
        ...


def admit(context: listener.Listener, head: heads.RequestHead) -> heads.Permit:
    """The door's permit for a gRPC method; `Unsupported` if there is no such method."""
    try:
        permit = context.door.admit(head)
    except (errors.NotFound, errors.MethodNotAllowed):
        raise errors.Unsupported("there is no such gRPC method on this server") from None
    if not isinstance(permit.match.route.action, _METHODS):
        if permit.infer is not None and permit.caller.allowance is not None:
            # The door took it for a question to a model.
            permit.caller.allowance.release()
        raise errors.Unsupported("this path is no gRPC method: ask it as its protocol does")
    return permit


def is_readable(content_type: bytes) -> bool:
    """Whether the content type is one whose messages are read here."""
    return content_type in _CONTENT_TYPES or content_type.partition(b";")[0].strip() in _CONTENT_TYPES


def encoding_of(headers: Mapping[bytes, bytes]) -> bytes:
    """What the messages of a call may be compressed in, or nothing; `Unsupported` if that is not done here."""
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding == b"identity":
        return b""
    if encoding not in ENCODINGS:
        raise errors.Unsupported("this message encoding is not supported: send gzip, deflate or identity")
    return encoding


def timeout_of(headers: Mapping[bytes, bytes]) -> float | None:
    """The header `grpc-timeout` in seconds."""
    value = headers.get(b"grpc-timeout")
    return None if value is None else timeout_s(value)


def timeout_s(value: bytes) -> float:
    """A timeout in seconds, as the header writes it."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise errors.InvalidInput("the header grpc-timeout is at most eight digits and one of H, M, S, m, u, n")
    # Never none at all: 0 means without end elsewhere.
    return max(int(found[1]) * _UNITS[found[2]], 1e-9)


def length_of(prefix: bytes | bytearray, limit: int) -> tuple[int, int]:
    """The flag and the length that begin a message of at most `limit` bytes."""
    flag, length = PREFIX.unpack_from(prefix)
    if flag > 1:
        raise errors.InvalidInput("the message begins with a flag that is neither 0 nor 1")
    if length > limit:
        raise errors.PayloadTooLarge(f"the message has {length} bytes: at most {limit} are accepted")
    return flag, length


def flag_of_one(body: bytes | bytearray, limit: int) -> int:
    """The flag of the one message that a whole body holds."""
    if not body:
        raise not_one()
    if len(body) < PREFIX.size:
        raise cut_off()
    flag, length = length_of(body, limit)
    if len(body) != PREFIX.size + length:
        raise not_one() if len(body) > PREFIX.size + length else cut_off()
    return flag


def not_one() -> errors.Unsupported:
    """For a caller that sends none or several messages where one is asked for."""
    return errors.Unsupported("this method takes one message: there came none, or more than one")


def cut_off() -> errors.InvalidInput:
    """For a caller that stops in the midst of a message."""
    return errors.InvalidInput("the message ends early: its prefix says more bytes than came")


def inflate(message: bytes, encoding: bytes, limit: int) -> bytes:
    """A message that came compressed."""
    if encoding not in ENCODINGS:
        raise errors.InvalidInput("the message is compressed, but the header grpc-encoding names no encoding")
    return responses.decompress(message, encoding, limit)


def framed(message: bytes, encoding: bytes = b"") -> bytes:
    """A message behind its prefix, compressed if an encoding is given."""
    if not encoding:
        return PREFIX.pack(0, len(message)) + message
    data = responses.deflate(message, encoding)
    return PREFIX.pack(1, len(data)) + data


def opening(request_id: str, encoding: bytes = b"") -> bytes:
    """The head of an answer."""
    name = request_id.encode()[:_LONGEST_ID]
    head = _HEADS[len(name)] + name
    return head + hpack.encode([(b"grpc-encoding", encoding)]) if encoding else head


def ending(error: errors.WindlassError) -> base.Fields:
    """The trailers of a call that failed."""
    fields: base.Fields = (
        (b"grpc-status", b"%d" % statuses.grpc_status(error)),
        (b"grpc-message", b"".join([_ESCAPED[byte] for byte in statuses.sentence(error).encode()])),
    )
    if isinstance(error, errors.Unavailable):
        fields += ((b"retry-after", b"%d" % error.retry_after_s),)
    elif isinstance(error, errors.Unsupported):
        fields += (_ACCEPTED,)
    return fields
