"""HTTP/1.1 on a connection: parsing by llhttp, responses in the order of their requests, and a timer for every wait.

Made by the loop for each accepted connection. Must never keep more of a request than the limits allow, read on while
too much waits to be written, or let a slow or silent peer hold its place.
"""

from __future__ import annotations

import asyncio
import collections

import httptools

from windlass import errors
from windlass.serving import exchange, listener

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_KEEP_ALIVE = b"connection: keep-alive\r\n"
_MAX_PIPELINED = 64
_LINGER_S = 2.0
IDLE, HEADERS, BODY, LINGER = range(4)


def _joined(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers that come more than once as one value, in order."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        key = name.lower()
        between = b"; " if key == b"cookie" else b", "
        headers[key] = headers[key] + between + value if key in headers else value
    return headers


class Connection(asyncio.Protocol):
    """One peer. `phase` is what is waited for, `since` since when."""

    def __init__(self, context: listener.Listener) -> None:
        self.peer = ""
        self._listener = context
        self._limits = context.limits
        # A header line takes four bytes at least, so fewer bytes than this can break neither limit.
        self._small = min(context.limits.max_header_bytes, 4 * context.limits.max_headers)
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        # Bytes of a request whose headers are not complete; and whether what came is enough to break a limit.
        self._partial = 0
        self._suspect = False
        self._current: exchange.Exchange | None = None
        self._pipeline: collections.deque[exchange.Exchange] = collections.deque()
        self._in_message = False
        self._phase = IDLE
        self._since = 0.0
        self._now = 0.0
        self._body_bytes = 0
        self._write_full = False
        self._read_paused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        context = self._listener
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else "local"
        self._since = context.clock()
        if len(context.connections) >= self._limits.max_connections or context.draining:
            context.counters.count_rejected("too_many_connections")
            transport.abort()  # type: ignore[attr-defined]
            return
        context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Drop whatever is under way."""
        self._listener.connections.discard(self)
        self._transport = None
        while self._pipeline:
            self._pipeline.popleft().abandon()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; its callbacks do the rest."""
        if self._phase == LINGER:
            return
        self._now = now = self._listener.clock()
        self._suspect = self._partial + len(data) > self._small
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            # An offer to upgrade may be ignored; what follows is plain HTTP/1.1 again.
            self._parser = httptools.HttpRequestParser(self)
            rest = data[e.args[0] :]
            if rest and self._phase != LINGER:
                self.data_received(rest)
            return
        except httptools.HttpParserError:
            self._malformed(errors.InvalidInput("the request is not valid HTTP/1.1"))
            return
        if not self._in_message:
            self._phase = IDLE
            self._since = now
        elif self._current is not None:
            if self._phase != BODY:
                self._phase = BODY
                self._since = now
        else:
            self._partial += len(data)
            if self._partial > self._limits.max_header_bytes:
                self._malformed(errors.HeadersTooLarge("the request line and headers are too large"))
            elif self._phase != HEADERS:
                self._phase = HEADERS
                self._since = now

    def eof_received(self) -> bool:
        """The peer sends no more: answer what is complete, then close."""
        if self._pipeline and not self._in_message:
            self._pipeline[-1].keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """The peer does not read its answers: read no more of its requests."""
        self._write_full = True
        self._regulate()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._write_full = False
        self._regulate()

    # the parser's side

    def on_url(self, url: bytes) -> None:
        """The request target, or a further part of it; its first part begins the request."""
        if self._in_message:
            self._target += url
            return
        self._in_message = True
        self._target = url
        self._fields = []
        self._partial = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Ask the door."""
        parser, fields = self._parser, self._fields
        headers = {name.lower(): value for name, value in fields}
        if len(headers) != len(fields):
            headers = _joined(fields)
        keep_alive = parser.should_keep_alive()
        # Only HTTP/1.0 has to be told that the connection stays, and it asks for it with this header.
        told = keep_alive and b"connection" in headers and parser.get_http_version() == "1.0"
        given = headers.get(b"x-request-id")
        context = self._listener
        current = exchange.Exchange(
            self,
            context,
            parser.get_method(),
            self._target,
            headers,
            keep_alive,
            _KEEP_ALIVE if told else b"",
            context.new_id() if given is None else context.request_id(given),
        )
        self._current = current
        pipeline = self._pipeline
        pipeline.append(current)
        if self._suspect and self._too_large():
            current.keep_alive = False
            current.refuse(errors.HeadersTooLarge("the request line and headers are too large"))
            return
        current.admit()
        if len(pipeline) >= _MAX_PIPELINED:
            self._regulate()

    def _too_large(self) -> bool:
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        return size > self._limits.max_header_bytes or len(self._fields) > self._limits.max_headers

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        if self._current is not None:
            self._current.receive(body)
            if self._current.refused and self._body_bytes > exchange.DISCARD_BYTES:
                self._current.keep_alive = False
                self._linger()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_message = False
        current, self._current = self._current, None
        if current is None:
            return
        if current.answered and not current.keep_alive:
            self._close()
            return
        current.complete(self._now)

    # the exchange's side

    def send(self, sender: exchange.Exchange, data: bytes) -> None:
        """Write the response, and those that waited for it; later ones wait for their turn."""
        pipeline = self._pipeline
        transport = self._transport
        if transport is None or not pipeline:
            return
        if pipeline[0] is not sender:
            sender.response = data
            return
        pipeline.popleft()
        last = sender
        while pipeline and pipeline[0].response is not None and last.keep_alive:
            last = pipeline.popleft()
            data += last.response or b""
        transport.write(data)
        if not last.keep_alive:
            if self._current is not None and self._in_message:
                self._linger()
            else:
                self._close()
        elif self._read_paused:
            self._regulate()

    def send_continue(self, sender: exchange.Exchange) -> None:
        """Only when every earlier request was answered: the interim response must not overtake one."""
        if self._transport is not None and self._pipeline and self._pipeline[0] is sender:
            self._transport.write(_CONTINUE)

    # the listener's side

    def sweep(self, now: float) -> None:
        """Close what took too long."""
        waited = now - self._since
        limits = self._limits
        if self._phase == LINGER:
            if waited > _LINGER_S:
                self._close()
        elif self._phase == HEADERS or (self._phase == IDLE and self._in_message):
            if waited > limits.header_timeout_s:
                self._slow(errors.SlowRequest("the headers did not arrive in time"))
        elif self._phase == BODY and self._in_message:
            slowest = limits.min_body_rate * waited
            if waited > limits.body_timeout_s or (waited > limits.header_timeout_s and self._body_bytes < slowest):
                self._slow(errors.SlowRequest("the body did not arrive in time"))
        elif not self._pipeline and waited > limits.keepalive_timeout_s:
            self._close()

    def drain(self) -> None:
        """Close now if nothing is under way; else the last answer closes."""
        if not self._pipeline and not self._in_message:
            self._close()

    # our own

    def _slow(self, error: errors.WindlassError) -> None:
        if self._current is not None and not self._current.answered:
            self._current.keep_alive = False
            self._current.refuse(error)
        elif self._current is None:
            self._malformed(error)
        else:
            self._close()

    def _malformed(self, error: errors.WindlassError) -> None:
        """Answer what is not HTTP, behind whatever is still to be answered, and read no more."""
        current = self._current
        if current is not None:
            if current.answered:
                self._linger()
                return
        else:
            context = self._listener
            current = exchange.Exchange(
                self,
                context,
                b"GET",
                self._target or b"/",
                {},
                keep_alive=False,
                _lines=b"",
                request_id=context.new_id(),
            )
            self._pipeline.append(current)
        current.keep_alive = False
        self._in_message = True
        self._current = current
        self._phase = LINGER
        self._since = self._listener.clock()
        current.refuse(error)

    def _linger(self) -> None:
        """Half-close and throw away what still comes, so that the peer can read its answer before a reset."""
        self._phase = LINGER
        self._since = self._listener.clock()
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        else:
            transport.close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _regulate(self) -> None:
        """Stop reading while too much is unanswered or unread; go on when it is not."""
        full = self._write_full or len(self._pipeline) >= _MAX_PIPELINED
        transport = self._transport
        if transport is None or full == self._read_paused or transport.is_closing():
            return
        self._read_paused = full
        if full:
            transport.pause_reading()
        else:
            transport.resume_reading()
