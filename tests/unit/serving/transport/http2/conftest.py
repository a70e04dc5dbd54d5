"""A client of HTTP/2 that says whatever a test wants it to: raw frames, and what came back as frames.

Used as the fixture `wire` by the unit tests of HTTP/2 connections.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import hpack
import pytest

from windlass import errors
from windlass.serving.transport import http2, http2_streams

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo/m"), (b":authority", b"127.0.0.1")]
NAMES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE"]


class Frame(NamedTuple):
    """One frame as it was sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def block(fields: list[tuple[bytes, bytes]] | None = None, *more: tuple[bytes, bytes]) -> bytes:
    """A header block that uses no table."""
    found = b""
    for name, value in (*(REQUEST if fields is None else fields), *more):
        found += b"\0" + _text(name) + _text(value)
    return found


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    size -= 127
    return b"\x7f" + (bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))) + text


def headers(stream: int, *more: tuple[bytes, bytes], end: bool = True, fields: Any = None) -> bytes:
    """A request's HEADERS."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(fields, *more))


def settings(**values: int) -> bytes:
    """SETTINGS by number: `s4=0` is INITIAL_WINDOW_SIZE 0."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", int(k[1:]), v) for k, v in values.items()))


def window(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def rst(stream: int, code: int = 8) -> bytes:
    """An RST_STREAM."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def frames(data: bytes) -> list[Frame]:
    """The frames in a stream of bytes, which must be whole."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        if len(data) < 9 + size:
            raise AssertionError("half a frame")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


class Echo:
    """A receiver that answers with what it got, piece by piece if the request's path is /stream."""

    def __init__(self, context: Any, stream: http2_streams.Stream, head: Any) -> None:
        self.stream, self.head = stream, head
        self.body = b""
        self.done = 0
        self.ended: list[errors.WindlassError] = []

    def admit(self) -> None:
        if self.head.target == b"/stream":
            self.stream.send_headers([(b":status", b"200")])

    def receive(self, data: bytes) -> None:
        self.body += data
        if self.head.target == b"/stream":
            self.stream.send_data(data)

    def complete(self, now: float, body: bytes | None = None) -> None:
        self.done += 1
        if body is not None:
            self.body = body
        if self.head.target == b"/stream":
            if body:
                self.stream.send_data(body)
            self.stream.send_trailers([(b"grpc-status", b"0")])
        elif self.head.target != b"/silent":
            self.stream.respond(http2_streams.GRPC_HEAD, self.body, http2_streams.GRPC_OK)

    def end(self, error: errors.WindlassError) -> None:
        self.ended.append(error)
        if self.stream.alive:
            self.stream.send_headers([(b":status", b"503")], end=True)


class Peer:
    """A connection in memory. `echo` answers by `Echo`, else plain HTTP does."""

    def __init__(self, server: Any, transport: Any, *, echo: bool = True, greet: bool = True) -> None:
        self.server, self.transport = server, transport
        self.receivers: list[Echo] = []
        self.connection = http2.Connection(server.listener, self._echo) if echo else http2.Connection(server.listener)
        self.connection.connection_made(transport)
        server.loop.turn()
        self._decoder = hpack.Decoder()
        if greet:
            self.say(PREFACE + settings())

    def _echo(self, context: Any, stream: http2_streams.Stream, head: Any) -> Echo:
        self.receivers.append(Echo(context, stream, head))
        return self.receivers[-1]

    def say(self, *data: bytes) -> list[Frame]:
        """Send; what came back in this turn of the loop."""
        for part in data:
            self.connection.data_received(part)
        self.server.loop.turn()
        return self.heard()

    def heard(self) -> list[Frame]:
        """What came since the last look."""
        found, self.transport.written = frames(self.transport.written), b""
        return found

    def sweep(self, seconds: float) -> list[Frame]:
        """Let time pass at once."""
        self.server.sweep(seconds)
        self.server.loop.turn()
        return self.heard()

    def fields(self, one: Frame) -> dict[bytes, bytes]:
        """The fields of a HEADERS frame."""
        return dict(self._decoder.decode(one.payload, raw=True))

    @property
    def session(self) -> Any:
        return self.connection._session


def kinds(found: list[Frame]) -> list[str]:
    """What the frames are, for a test to compare."""
    return [NAMES[one.kind] for one in found]


def code(one: Frame) -> int:
    """The error code of an RST_STREAM or a GOAWAY."""
    return int.from_bytes(one.payload[:4] if one.kind == RST_STREAM else one.payload[4:8], "big")


@pytest.fixture(scope="session")
def wire() -> Any:
    """This file."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def connect(make_server: Callable[..., Any]) -> Callable[..., Peer]:
    """A new peer, of a new server if none is given; limits are `make_server`'s, `echo` and `greet` are `Peer`'s."""
    transport = type(make_server().connect()[1])

    def make(*, echo: bool = True, greet: bool = True, server: Any = None, **limits: Any) -> Peer:
        peer = Peer(server or make_server(**limits), transport(), echo=echo, greet=greet)
        if greet:
            peer.heard()
        return peer

    return make
