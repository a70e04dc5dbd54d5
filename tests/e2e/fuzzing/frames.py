"""An HTTP/2 connection that sends any frames, and reads what comes until every stream has its end.

Used by `drive.py`. Heads are written without compression state, so that each stands for itself.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
WIDEST = 0x7FFFFFFF
Fields = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def length(size: int) -> bytes:
    """A string's length in HPACK, without Huffman."""
    if size < 127:
        return bytes((size,))
    rest, found = size - 127, bytearray((127,))
    while rest > 127:
        found.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*found, rest))


def block(fields: Fields) -> bytes:
    """A header block: every field a literal that is not indexed."""
    return b"".join(b"\0" + length(len(name)) + name + length(len(value)) + value for name, value in fields)


HELLO = (
    PREFACE
    + frame(SETTINGS, 0, 0, struct.pack(">HIHIHI", 1, 0, 2, 0, 4, WIDEST))
    + frame(WINDOW, 0, 0, struct.pack(">I", WIDEST - 65_535))
)


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = b""
        self.reset: int | None = None
        self.ended = self.refused = False

    @property
    def status(self) -> int:
        """The HTTP status; 0 if none came."""
        return int(self.headers.get(":status", 0))


class Connection:
    """One connection; `closed` once the server has ended it, with its reason in `goaway`."""

    def __init__(self, port: int, hello: bytes = HELLO) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._decoder.max_allowed_table_size = 4_096
        self._buffer = bytearray()
        self._next = 1
        self._block = b""
        self._block_flags = 0
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[int, bytes] | None = None
        self.closed = False
        self.received = 0
        self.send(hello)

    def send(self, data: bytes) -> None:
        """Send bytes; a connection that was closed is noticed when it is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def stream(self) -> int:
        """The number of a new stream, whose answer is kept."""
        number = self._next
        self._next += 2
        self.answers[number] = Answer()
        return number

    def wait(self) -> None:
        """Read until every stream has ended, or the connection has."""
        while not self.closed and not all(one.ended for one in self.answers.values()):
            self._receive()

    def wait_end(self, patience_s: float) -> None:
        """Read until the server has closed the connection; if it waits for more, this side closes first."""
        self._socket.settimeout(patience_s)
        try:
            while not self.closed:
                self._receive()
        except TimeoutError:
            self._socket.settimeout(20)
            self._socket.shutdown(socket.SHUT_WR)
            while not self.closed:
                self._receive()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(262_144)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        self.received += len(data)
        self._buffer += data
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9], "big") & WIDEST
            self._take(kind, flags, number, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del buffer[:at]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        answer = self.answers.setdefault(number, Answer()) if number else Answer()
        if kind == DATA:
            answer.body += payload
            answer.ended = answer.ended or bool(flags & END_STREAM)
        elif kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                self._block, self._block_flags = payload, flags
            else:
                self._block += payload
            if flags & END_HEADERS:
                found = {str(name): str(value) for name, value in self._decoder.decode(self._block)}
                if found.get(":status", "").startswith("1"):
                    return
                if answer.headers:
                    answer.trailers = found
                else:
                    answer.headers = found
                answer.ended = answer.ended or bool(self._block_flags & END_STREAM)
        elif kind == RST:
            answer.reset = int.from_bytes(payload, "big")
            answer.ended = True
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.goaway = (int.from_bytes(payload[4:8], "big"), payload[8:])


def request(chance: random.Random, number: int, fields: Fields, body: bytes) -> bytes:
    """The frames of one request, in one or in several pieces."""
    head = block(fields)
    end = 0 if body or chance.random() < 0.3 else END_STREAM
    if chance.random() < 0.1 and len(head) > 4:
        at = chance.randrange(len(head))
        found = frame(HEADERS, end, number, head[:at]) + frame(CONTINUATION, END_HEADERS, number, head[at:])
    elif chance.random() < 0.05:
        found = frame(HEADERS, end | END_HEADERS | PADDED, number, b"\3" + head + bytes(3))
    else:
        found = frame(HEADERS, end | END_HEADERS, number, head)
    if end:
        return found
    pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)] or [b""]
    if chance.random() < 0.1 and len(body) > 3:
        at = chance.randrange(len(body))
        pieces = [body[:at], body[at:]] if len(body) <= 16_384 else pieces
    trailing = chance.random() < 0.03
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1 and not trailing
        found += frame(DATA, END_STREAM if last else 0, number, piece)
    if trailing:
        found += frame(HEADERS, END_STREAM | END_HEADERS, number, block([(b"x-trailer", b"1")]))
    return found


def sequence(chance: random.Random, usual: Fields) -> tuple[bytes, int]:
    """Frames in an order that nobody should send, and how many streams they open."""
    head = block(usual)
    found, number = b"", 1
    for _ in range(chance.randrange(1, 12)):
        kind = chance.randrange(14)
        if kind == 0:
            count = chance.choice((1, 5, 40, 260))
            for _ in range(count):
                found += frame(HEADERS, END_HEADERS | END_STREAM, number, head)
                found += frame(RST, 0, number, struct.pack(">I", chance.choice((0, 8, 2**32 - 1))))
                number += 2
        elif kind == 1:
            found += frame(HEADERS, chance.choice((0, 1)), number, head[:9])
            found += frame(CONTINUATION, 0, number, b"") * chance.choice((1, 20, 40))
            found += frame(CONTINUATION, chance.choice((0, 4)), chance.choice((number, number + 2)), head[9:])
            number += 2
        elif kind == 2:
            found += frame(
                SETTINGS, 0, 0, struct.pack(">HI", chance.randrange(9), chance.choice((0, 1, 2**31, 2**32 - 1)))
            )
        elif kind == 3:
            found += frame(
                WINDOW, 0, chance.choice((0, 1, 2, number)), struct.pack(">I", chance.choice((0, 1, WIDEST)))
            )
        elif kind == 4:
            found += frame(
                DATA, chance.randrange(16), chance.choice((0, 1, number)), bytes(chance.choice((0, 1, 70_000)))
            )
        elif kind == 5:
            found += frame(PING, chance.choice((0, 1)), chance.choice((0, 1)), bytes(chance.choice((8, 8, 7))))
        elif kind == 6:
            found += frame(chance.randrange(256), chance.randrange(256), chance.randrange(5), chance.randbytes(9))
        elif kind == 7:
            odd = bytes(
                chance.choice((b"\x82\x86\x84", b"\xff" * 12, b"\x3f\xe1\xff\x03", b"\x40" + bytes(9), b"\x80"))
            )
            found += frame(HEADERS, END_HEADERS | END_STREAM, number, odd + head)
            number += 2
        elif kind == 8:
            wrong = chance.choice(_WRONG)
            found += frame(HEADERS, END_HEADERS | END_STREAM, number, block(wrong))
            number += 2
        elif kind == 9:
            found += frame(PRIORITY, 0, number, chance.choice((b"\0\0\0\1\1", bytes(4))))
        elif kind == 10:
            found += frame(GOAWAY, 0, chance.choice((0, 0, 1)), bytes(chance.choice((8, 4))))
        elif kind == 11:
            found += frame(PING, 0, 0, bytes(8)) * chance.choice((1, 50, 1_200))
        else:
            found += frame(HEADERS, END_HEADERS | END_STREAM, chance.choice((number, number, 2, 1)), head)
            number += 2
    if chance.random() < 0.2:
        at = chance.randrange(len(found))
        found = found[:at] + bytes((chance.randrange(256),)) + found[at + 1 :]
    return found, number // 2


_USUAL: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/v2"), (b":authority", b"127.0.0.1")]
# Requests that are malformed (RFC 9113, 8.1 to 8.3), among them those that become another request in HTTP/1.1.
_WRONG: tuple[Fields, ...] = (
    [],
    _USUAL[:2],
    [*_USUAL, (b"transfer-encoding", b"chunked")],
    [*_USUAL, (b"connection", b"close")],
    [*_USUAL, (b"content-length", b"5")],
    [*_USUAL, (b"content-length", b"0"), (b"content-length", b"5")],
    [*_USUAL, (b"X-Upper", b"1")],
    [*_USUAL, (b"x", b"a\r\nhost: evil")],
    [*_USUAL, (b"x\r\ny", b"1")],
    [*_USUAL, (b"x", b"\0")],
    [*_USUAL, (b"te", b"gzip")],
    [*_USUAL, (b":path", b"/")],
    [*_USUAL, (b"x", b"1"), (b":extra", b"1")],
    [*_USUAL[:2], (b":path", b"/ HTTP/1.1\r\nhost: evil\r\n\r\n"), _USUAL[3]],
    [*_USUAL[:2], (b":path", b""), _USUAL[3]],
    [*_USUAL[:2], (b":path", b"v2"), _USUAL[3]],
    [(b":method", b"GET / HTTP/1.1"), *_USUAL[1:]],
    [(b":method", b"CONNECT"), *_USUAL[1:]],
    [*_USUAL[:3], (b":authority", b"127.0.0.1"), (b"host", b"evil")],
    [*_USUAL, (b"x", b"y" * 60_000)],
    [*_USUAL, *[(b"x%d" % i, b"1") for i in range(300)]],
)
