"""A connection of the load generator that calls over gRPC: HTTP/2 frames, many calls at once.

Opened by `generator`, which it hands every outcome. Must never send more than the server's windows and streams allow.
"""

from __future__ import annotations

import asyncio
import collections
import struct

import hpack

from windlass.client import account, http_connection, plan

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_TABLE_SIZE, _PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 3, 4, 5
_CANCEL, _REFUSED_STREAM, _ENHANCE_YOUR_CALM = 8, 7, 11
_WIDEST = 0x7FFFFFFF
_DEFAULT_WINDOW = 65_535
_REFILL = 1 << 24
_MOST_STREAMS = 1 << 30
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_HEAD = struct.Struct(">BHBBI")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    length = len(payload)
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


# No dynamic table for what the server sends: then a header block's bytes alone say what it means, and it may be looked
# up. Windows as wide as they go: the generator reads all it is sent.
_HELLO = (
    _PREFACE
    + frame(
        _SETTINGS,
        0,
        0,
        _SETTING.pack(_TABLE_SIZE, 0) + _SETTING.pack(_PUSH, 0) + _SETTING.pack(_INITIAL_WINDOW, _WIDEST),
    )
    + frame(_WINDOW, 0, 0, _U32.pack(_WIDEST - _DEFAULT_WINDOW))
)


class _Call:
    """A call under way: `rest` is what is still to be sent, `window` how much of it the server takes now."""

    __slots__ = ("data", "intended", "rest", "window")

    def __init__(self, data: bytes, intended: float, rest: bytes | memoryview, window: int) -> None:
        self.data, self.intended, self.rest, self.window = data, intended, rest, window


class Grpc(asyncio.Protocol):
    """One connection with up to `streams` calls under way."""

    def __init__(self, owner: http_connection.Owner, target: plan.Target, streams: int) -> None:
        self.room = 0
        self._owner = owner
        self._target = target
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        self._blocked: collections.deque[int] = collections.deque()
        self._next = 1
        self._window = self._initial = _DEFAULT_WINDOW
        self._fits = self._max_frame = 16_384
        self._received = 0
        self._buffer = b""
        self._block = b""
        self._out: list[bytes] = []
        self._ends = 0
        self._greeted = self._leaving = False
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._meanings: dict[bytes, dict[str, str]] = {}
        self._first = self._again = b""

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened: greet, then wait for the server's settings."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self._send(_HELLO)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Closed by either side: what was under way is broken."""
        self._transport = None
        self.room = 0
        for stream in list(self._calls):
            self._end(stream, account.BROKEN, -1)
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        """Whole frames are taken, the rest waits."""
        data = self._buffer + data if self._buffer else data
        at, length = 0, len(data)
        while length - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            if end > length:
                break
            self._take(kind, flags, stream & _WIDEST, data[at + 9 : end])
            at = end
        self._buffer = data[at:]

    # -- the generator's side

    def ask(self, data: bytes, intended: float) -> None:
        """Start a call; its message goes out as far as the windows allow."""
        stream = self._next
        self._next += 2
        self.room -= 1
        block, self._first = self._first or self._again, b""
        size, length = len(data), len(block)
        head = _HEAD.pack(length >> 16, length & 0xFFFF, _HEADERS, _END_HEADERS, stream) + block
        if size <= self._fits and size <= self._window and not self._blocked:
            self._window -= size
            self._calls[stream] = _Call(data, intended, b"", 0)
            self._send(head + _HEAD.pack(size >> 16, size & 0xFFFF, _DATA, _END_STREAM, stream) + data)
        else:
            self._calls[stream] = _Call(data, intended, memoryview(data), self._initial)
            self._send(head)
            self._blocked.append(stream)
            self._flow()

    def expire(self, before: float) -> None:
        """Cancel the calls that wait for too long."""
        for stream in [stream for stream, call in self._calls.items() if call.intended < before]:
            self._send(frame(_RST, 0, stream, _U32.pack(_CANCEL)))
            self.room += not self._leaving
            self._end(stream, account.EXPIRED, -1)

    def close(self) -> None:
        """Close it."""
        self.room = 0
        if self._transport is not None:
            self._transport.close()

    # -- frames

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._received += len(payload)
            if self._received > _REFILL:
                self._send(frame(_WINDOW, 0, 0, _U32.pack(self._received)))
                self._received = 0
            if flags & _END_STREAM:
                self._complete(stream, {})
        elif kind == _HEADERS:
            if flags & (_PADDED | _PRIORITY):
                payload = _plain(flags, payload)
            self._headers(flags, stream, payload)
        elif kind == _CONTINUATION:
            self._headers(flags | self._ends, stream, self._block + payload)
        elif kind == _RST:
            self._reset(stream, _U32.unpack(payload)[0])
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._send(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            self._widen(stream, _U32.unpack(payload)[0] & _WIDEST)
        elif kind == _GOAWAY:
            self._go_away(_U32.unpack_from(payload)[0] & _WIDEST)

    def _headers(self, flags: int, stream: int, block: bytes) -> None:
        if not flags & _END_HEADERS:
            self._block, self._ends = block, flags & _END_STREAM
            return
        self._block = b""
        meaning = self._meanings.get(block)
        if meaning is None:
            meaning = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if len(self._meanings) < 256:
                self._meanings[block] = meaning
        if flags & _END_STREAM:
            self._complete(stream, meaning)

    def _complete(self, stream: int, trailers: dict[str, str]) -> None:
        """The server's last words on a call; without a grpc-status they are no answer."""
        if stream not in self._calls:
            return
        if self._calls[stream].rest:
            # Answered before it was all sent: a refusal; the rest is not wanted.
            self._send(frame(_RST, 0, stream, _U32.pack(_CANCEL)))
        self.room += not self._leaving
        status = trailers.get("grpc-status", "")
        if status.isdigit():
            self._end(stream, account.grpc_outcome(int(status)), int(status))
        else:
            self._end(stream, account.FAILED, -1)

    def _reset(self, stream: int, code: int) -> None:
        if stream in self._calls:
            self.room += not self._leaving
            refused = code in (_REFUSED_STREAM, _ENHANCE_YOUR_CALM)
            self._end(stream, account.REJECTED if refused else account.BROKEN, -1)

    def _end(self, stream: int, outcome: int, status: int) -> None:
        call = self._calls.pop(stream)
        self._owner.ended(self, call.intended, outcome, status)
        if self._leaving and not self._calls:
            self.close()

    def _settings(self, payload: bytes) -> None:
        table, most = 4_096, _MOST_STREAMS
        for name, value in _SETTING.iter_unpack(payload):
            if name == _TABLE_SIZE:
                table = min(table, value)
            elif name == _MAX_STREAMS:
                most = value
            elif name == _INITIAL_WINDOW:
                for call in self._calls.values():
                    call.window += value - self._initial
                self._initial = value
            elif name == _MAX_FRAME:
                self._max_frame = value
        self._fits = min(self._initial, self._max_frame)
        self._send(frame(_SETTINGS, _ACK, 0, b""))
        if not self._greeted:
            self._greeted = True
            self._prepare_headers(table)
            self.room = min(self._streams, most)
            self._owner.opened(self)

    def _prepare_headers(self, table: int) -> None:
        """The header block of the first call on this connection, and that of all others, which refers to it."""
        target = self._target
        encoder = hpack.Encoder()
        if table != encoder.header_table_size:
            encoder.header_table_size = table
        headers = [
            (":method", "POST"),
            (":scheme", "https" if target.tls else "http"),
            (":path", target.path),
            (":authority", f"{target.host}:{target.port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "windlass-bench"),
            *target.headers,
        ]
        self._first, self._again = encoder.encode(headers), encoder.encode(headers)

    def _go_away(self, last: int) -> None:
        """No more calls here; those that the server never began with are asked elsewhere."""
        self._leaving = True
        self.room = 0
        for stream in [stream for stream in self._calls if stream > last]:
            call = self._calls.pop(stream)
            self._owner.again(call.data, call.intended)
        if not self._calls:
            self.close()

    # -- what goes out

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif stream in self._calls:
            self._calls[stream].window += by
        self._flow()

    def _flow(self) -> None:
        """Send what waits, as far as the windows allow; a call whose own window is empty lets others pass."""
        for _ in range(len(self._blocked)):
            if self._window <= 0:
                return
            stream = self._blocked.popleft()
            call = self._calls.get(stream)
            while call is not None and call.rest:
                size = min(len(call.rest), self._window, call.window, self._max_frame)
                if size <= 0:
                    break
                part, call.rest = call.rest[:size], call.rest[size:]
                self._window -= size
                call.window -= size
                self._send(frame(_DATA, 0 if call.rest else _END_STREAM, stream, bytes(part)))
            if call is not None and call.rest:
                self._blocked.append(stream)

    def _send(self, data: bytes) -> None:
        """What is sent in one turn of the loop goes out in one write."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        if self._transport is not None:
            self._transport.write(out)


def _plain(flags: int, payload: bytes) -> bytes:
    """A HEADERS payload without its padding and priority."""
    end, start = len(payload), 0
    if flags & _PADDED:
        end, start = end - payload[0], 1
    return payload[start + 5 if flags & _PRIORITY else start : end]
