"""HTTP/1.1 on a connection: parsing by llhttp, responses in the order of their requests, and a timer for every wait.

Made by the loop for each accepted connection. Must never keep more of a request than the limits allow, read on while
too much waits to be written, or let a slow or silent peer hold its place.
"""

from __future__ import annotations

import asyncio
import collections
import logging

import httptools

from windlass import errors
from windlass.protocols import base
from windlass.serving.door import heads
from windlass.serving.transport import exchange, listener, peers, resumed

log = logging.getLogger(__name__)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"connection: close\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_MAX_PIPELINED = 64
_LINGER_S = 2.0
# While the server drains, a connection that was silent for this long is closed.
_DRAIN_IDLE_S = 1.0
# Where trailers go: nobody asked for them.
_NOWHERE: collections.deque[tuple[bytes, bytes]] = collections.deque(maxlen=0)
IDLE, HEADERS, BODY, LINGER = range(4)


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
        self._fields: list[tuple[bytes, bytes]] | collections.deque[tuple[bytes, bytes]] = []
        # Bytes of the reads that hold a request's headers; and whether they are enough to break a limit.
        self._partial = 0
        self._suspect = False
        # Bytes of whole reads that gave neither a request nor a part of a body; -1: the last one gave something.
        self._unseen = -1
        self._current: exchange.Exchange | None = None
        # A request whose body llhttp takes for another protocol's, and the header that says how long it is.
        self._offered: tuple[exchange.Exchange, bytes] | None = None
        self._pipeline: collections.deque[exchange.Exchange] = collections.deque()
        self._in_message = False
        self._phase = IDLE
        self._since = 0.0
        self._now = 0.0
        self._body_bytes = 0
        self._write_full = False
        self._read_paused = False
        # The bytes of the head now parsed, if they came in one piece; and whether the connection stays open.
        self._block: bytes | None = None
        self._reusable = True
        self._memory = context.door.memory
        # Bytes of answers that the peer had not read when it was last looked at.
        self._unsent = 0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        context = self._listener
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self.peer = peers.peer_of(transport.get_extra_info("peername"))
        self._since = context.clock()
        context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Drop whatever is under way."""
        self._listener.connections.discard(self)
        self._transport = None
        while self._pipeline:
            self._pipeline.popleft().end(errors.Cancelled("the client went away"))

    def data_received(self, data: bytes) -> None:
        """Feed the parser; its callbacks do the rest."""
        if self._phase == LINGER:
            return
        self._now = now = self._listener.clock()
        self._block = None
        if not self._in_message and self._reusable:
            end = data.find(_END_OF_HEAD) + 4
            if end > 4:
                block = data[:end]
                head = self._memory.find(block)
                if head is not None and len(data) == end + head.length:
                    self._since = now
                    self._known(head, data[end:])
                    return
                self._block = block
        self._suspect = self._partial + len(data) > self._small
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as e:
                rest = memoryview(rest)[e.args[0] :]
                self._decline()
                if rest:
                    continue
            except httptools.HttpParserCallbackError as e:
                log.exception("reading a request failed unexpectedly", exc_info=e.__context__)
                self._refuse_rest(errors.InternalError("unexpected"))
            except httptools.HttpParserError:
                self._refuse_rest(errors.InvalidInput("the request is not valid HTTP/1.1"))
            break
        if self._phase == LINGER:
            return
        if not self._in_message:
            # What is not yet a request (blank lines) is no sign of life.
            self._phase = IDLE
            return
        phase = BODY if self._current is not None else HEADERS
        if phase == HEADERS:
            self._partial += len(data)
        if self._phase != phase:
            self._phase = phase
            self._since = now
        # How much of the read that began it was its own is not known.
        self._unseen = 0 if self._unseen < 0 else self._unseen + len(data)
        if self._unseen > self._limits.max_header_bytes:
            self._refuse_rest(errors.HeadersTooLarge("the request line and headers, or the trailers, are too large"))

    def _known(self, head: heads.RequestHead, body: bytes) -> None:
        """A whole request whose head came before, byte for byte: the parser need not see it."""
        pipeline = self._pipeline
        if pipeline and not pipeline[-1].keep_alive:
            return
        context = self._listener
        current = exchange.Exchange(self, context, head, context.new_id())
        pipeline.append(current)
        current.admit()
        current.complete(self._now, body)
        if len(pipeline) >= _MAX_PIPELINED:
            self._regulate()

    def eof_received(self) -> bool:
        """The peer left: nothing tells a half-closed connection from a closed one, and work for nobody is waste."""
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

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_message = True
        self._target = b""
        self._fields = []
        self._partial = self._body_bytes = 0
        self._unseen = -1

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Ask the door."""
        pipeline = self._pipeline
        if self._phase == LINGER or (pipeline and not pipeline[-1].keep_alive):
            # An answer before this one ends the connection, so that this one's could not be told.
            return
        fields = self._fields
        self._fields = _NOWHERE
        head = heads.of(self._parser, self._target, fields)
        headers, keep_alive, context = head.headers, head.keep_alive, self._listener
        request_id = context.request_id(headers.get(b"x-request-id"))
        current = exchange.Exchange(self, context, head, request_id, keep_alive=keep_alive)
        self._reusable = keep_alive
        self._current = current
        pipeline.append(current)
        if self._suspect and heads.too_large(self._target, fields, self._limits):
            current.keep_alive = False
            current.refuse(errors.HeadersTooLarge("the request line and headers are too large"))
            return
        if not self._framed(current, headers):
            return
        current.admit()
        block, self._block = self._block, None
        if block is not None and not current.answered:
            self._memory.remember(block, head)
        if len(pipeline) >= _MAX_PIPELINED:
            self._regulate()

    def _framed(self, current: exchange.Exchange, headers: dict[bytes, bytes]) -> bool:
        """Whether every reader of this request sees the same host, and the body's end in one place; else refused."""
        version, coding = self._parser.get_http_version(), headers.get(b"transfer-encoding")
        fault: errors.WindlassError | None = None
        if version != "1.0" and (version != "1.1" or b"host" not in headers):
            fault = errors.InvalidInput("the request is none of HTTP/1.1, or names no host")
        elif coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            fault = errors.Unsupported("the only transfer encoding here is chunked, in HTTP/1.1")
        if fault is not None:
            current.keep_alive = False
            current.refuse(fault)
            return False
        if self._parser.should_upgrade():
            length = headers.get(b"content-length", b"0")
            framing = b"transfer-encoding: chunked" if coding is not None else b"content-length: " + length
            if coding is not None or int(length):
                self._offered = (current, framing)
        return True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        self._unseen = -1
        current = self._current
        if current is not None:
            current.receive(body)
            if current.answered and self._body_bytes > exchange.DISCARD_BYTES and self._phase != LINGER:
                current.keep_alive = False
                self._read_no_more()

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._offered is not None:
            return
        self._in_message = False
        self._since = self._now
        current, self._current = self._current, None
        if current is None:
            return
        if current.answered and not current.keep_alive and not self._pipeline:
            self._close()
            return
        current.complete(self._now)

    def _decline(self) -> None:
        """Go on as plain HTTP/1.1 after an offer to upgrade, with the body that llhttp left unread."""
        if self._offered is None:
            self._parser = httptools.HttpRequestParser(self)
            return
        self._current, framing = self._offered
        self._offered = None
        self._parser = httptools.HttpRequestParser(resumed.Resumed(self))
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    # the exchange's side

    def respond(self, sender: exchange.Exchange, answer: base.Answer, extra: base.Fields) -> None:
        """Write the response, and those that waited for it; later ones wait for their turn."""
        pipeline = self._pipeline
        transport = self._transport
        if transport is None or not pipeline:
            return
        context, head = self._listener, sender.head
        if context.draining and pipeline[-1] is sender:
            sender.keep_alive = False
        lines = head.lines if sender.keep_alive else _CLOSE
        data = context.writer.response(answer, sender.request_id, lines, extra, head.method == b"HEAD")
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
            self._sweep_lingering(now, waited)
        elif self._read_paused and not self._write_full:
            # It is this server that keeps the peer waiting.
            self._since = now
        elif not self._in_message:
            if self._pipeline:
                self._since = now
            elif waited > (_DRAIN_IDLE_S if self._listener.draining else limits.keepalive_timeout_s):
                self._close()
        elif self._phase == BODY:
            slowest = limits.min_body_rate * waited
            if waited > limits.body_timeout_s or (waited > limits.header_timeout_s and self._body_bytes < slowest):
                self._refuse_rest(errors.SlowRequest("the body did not arrive in time"))
        elif waited > limits.header_timeout_s:
            self._refuse_rest(errors.SlowRequest("the headers did not arrive in time"))

    def _sweep_lingering(self, now: float, waited: float) -> None:
        transport = self._transport
        if self._pipeline or transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._since = now
        elif waited > (self._limits.header_timeout_s if unsent or not transport.can_write_eof() else _LINGER_S):
            # What TLS has handed down but not sent is not seen here, so it gets as long as what is.
            transport.abort()

    def drain(self) -> None:
        """Close if nothing is under way and was not lately; else the last answer closes, or the sweep."""
        if not self._pipeline and not self._in_message and self._listener.clock() - self._since > _DRAIN_IDLE_S:
            self._close()

    def end(self, error: errors.WindlassError) -> None:
        """Answer all that is under way with an error, and close."""
        for one in tuple(self._pipeline):
            one.end(error)
        self._linger()

    def _refuse_rest(self, error: errors.WindlassError) -> None:
        """Answer what is late or not HTTP, behind whatever is still to be answered, and read no more."""
        current, pipeline = self._current, self._pipeline
        if self._phase == LINGER:
            return
        if current is None:
            if pipeline and not pipeline[-1].keep_alive:
                self._read_no_more()
                return
            context = self._listener
            head = heads.RequestHead(b"GET", self._target or b"/", {}, keep_alive=False)
            current = exchange.Exchange(self, context, head, context.new_id(), keep_alive=False)
            self._current = current
            pipeline.append(current)
        self._in_message = True
        current.keep_alive = False
        if current.answered:
            self._read_no_more()
            return
        self._phase = LINGER
        self._since = self._listener.clock()
        current.refuse(error)

    def _read_no_more(self) -> None:
        """From now on only answers are written; behind the last of them the connection is closed."""
        self._phase = LINGER
        if not self._pipeline:
            self._linger()

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
        self._phase = LINGER
        self._since = self._listener.clock()
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
