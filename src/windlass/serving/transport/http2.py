"""HTTP/2 on a connection: its transport, a write per turn, and a timer for every wait.

Made for each connection whose first bytes are HTTP/2's (`http2_session.py` has its rules). Must never read on while
too much waits to be written, or let a slow or silent peer hold its place.
"""

from __future__ import annotations

import asyncio
import logging

from windlass import errors
from windlass.serving.transport import http2_frames as frames
from windlass.serving.transport import http2_output, http2_session, listener, peers, rpc_receivers
from windlass.serving.transport import http2_streams as streams
from windlass.types import spec

log = logging.getLogger(__name__)
_LINGER_S = 2.0
# For a peer to close itself, once it was told to: grpc's C core gives up answers that it has not read when we do.
_PATIENCE_S = 0.2
# How long a peer that drains may take to answer the last PING; and how long an idle one may stay meanwhile.
_DRAIN_S = 1.0


class Connection(asyncio.Protocol):
    """One peer. `receiver` says what answers a request."""

    def __init__(self, context: listener.Listener, receiver: http2_session.Factory = rpc_receivers.receiver) -> None:
        self.peer = peers.LOCAL
        self._listener = context
        self._limits = context.limits
        self._receiver = receiver
        self._output = http2_output.Output(context.loop)
        self._session = http2_session.Session(context, receiver, self._output, self.peer)
        # Since when nothing was asked, or nothing more was read here.
        self._since = 0.0
        self._opened = 0
        # Since when the peer has not read what it was sent (0: not looked at yet), and how much that was; since when
        # this side drains.
        self._stalled_since = 0.0
        self._unsent = 0
        self._draining_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection and send the settings."""
        context, output = self._listener, self._output
        output.transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self.peer = peers.peer_of(transport.get_extra_info("peername"))
        self._session = http2_session.Session(context, self._receiver, output, self.peer)
        self._since = output.now = context.clock()
        context.connections.add(self)
        output.push(_greeting(self._limits))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Drop whatever is under way."""
        self._listener.connections.discard(self)
        self._output.transport = None
        self._session.ended = True
        self._drop(errors.Cancelled("the client went away"))

    def data_received(self, data: bytes) -> None:
        """Read all whole frames; what they ask for and is answered at once is written in one piece."""
        session, output = self._session, self._output
        if session.ended or output.left_at is not None:
            return
        now = output.now = self._listener.clock()
        output.scheduled = True
        try:
            session.receive(data, now)
        except frames.ConnectionFault as e:
            self._fail(e.code, str(e))
        except Exception as e:
            log.exception("reading a frame failed unexpectedly", exc_info=e)
            self._fail(frames.INTERNAL_ERROR, "unexpected")
        if session.drained:
            self._go_away()
        output.flush()

    def eof_received(self) -> bool:
        """The peer left: work for nobody is waste."""
        return False

    def pause_writing(self) -> None:
        """The peer does not read its answers: read no more of its requests."""
        output = self._output
        output.full = True
        self._stalled_since = 0.0
        if output.transport is not None and not output.transport.is_closing():
            output.transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        output = self._output
        if output.transport is not None and not output.transport.is_closing():
            output.transport.resume_reading()
        output.resume()

    # the listener's side

    def sweep(self, now: float) -> None:
        """Close what took too long."""
        output, session, limits = self._output, self._session, self._limits
        transport = output.transport
        if transport is None:
            return
        output.now = now
        if output.full or transport.is_closing() or (output.left_at is not None and transport.get_write_buffer_size()):
            self._sweep_unread(now, transport)
        elif output.left_at is not None:
            if now - output.left_at > _LINGER_S:
                transport.abort()
            elif now - output.left_at > _PATIENCE_S:
                output.half_close()
        elif not session.greeted:
            if now - self._since > limits.header_timeout_s:
                self._end(frames.SETTINGS_TIMEOUT, "the settings did not arrive in time")
        elif self._late(now):
            self._end(frames.ENHANCE_YOUR_CALM, "a frame did not arrive in time")
        else:
            self._sweep_streams(now)
            self._sweep_idle(now)

    def _sweep_unread(self, now: float, transport: asyncio.Transport) -> None:
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent or not self._stalled_since:
            self._unsent, self._stalled_since = unsent, now
        elif now - self._stalled_since > self._limits.body_timeout_s:
            transport.abort()

    def _late(self, now: float) -> bool:
        """Whether a header block or a frame takes too long; one that is a part of a body has the body's time."""
        session, limits = self._session, self._limits
        if session.block_stream and now - session.block_since > limits.header_timeout_s:
            return True
        if not session.reader.partial:
            return False
        # A slow body is first answered on its stream.
        more = limits.body_timeout_s if session.partial_stream() is not None else 0.0
        return now - session.reader.since > limits.header_timeout_s + more

    def _sweep_streams(self, now: float) -> None:
        session, output, limits, coming = self._session, self._output, self._limits, self._session.partial_stream()
        for stream in tuple(session.streams.values()):
            waited = now - stream.since
            if not stream.alive:
                if waited > _LINGER_S:
                    output.reset(stream, frames.NO_ERROR)
            elif stream.stalled:
                if waited > limits.body_timeout_s:
                    session.stop(stream, frames.CANCEL, errors.Cancelled("the caller does not read its answer"))
            elif stream.timed and not stream.ended and waited > limits.header_timeout_s:
                came = stream.size + (len(session.reader.partial) if stream is coming else 0)
                if (waited > limits.body_timeout_s or came < limits.min_body_rate * waited) and stream.receiver:
                    stream.receiver.end(errors.SlowRequest("the body did not arrive in time"))

    def _sweep_idle(self, now: float) -> None:
        session = self._session
        if session.streams or session.opened != self._opened:
            self._since, self._opened = now, session.opened
        draining = self._draining_since
        overdue = draining is not None and now - draining > _DRAIN_S
        if overdue or now - self._since > self._limits.keepalive_timeout_s:
            self._go_away()
            self._output.flush()

    def drain(self) -> None:
        """Tell the peer to ask elsewhere; what it had sent before it knows is still answered (6.8)."""
        if self._draining_since is None and self._output.left_at is None:
            self._draining_since = self._listener.clock()
            self._output.push(frames.goaway(frames.MAX_STREAM_ID, frames.NO_ERROR))
            self._output.push(frames.ping(http2_session.DRAIN_PING))

    def end(self, error: errors.WindlassError) -> None:
        """Answer all that is under way with an error, and close."""
        for stream in tuple(self._session.streams.values()):
            if stream.receiver is not None:
                stream.receiver.end(error)
        if self._output.left_at is None:
            self._end(frames.NO_ERROR, "")

    # our own

    def _go_away(self) -> None:
        """Take no more requests, and close behind the last answer."""
        session, output = self._session, self._output
        if not output.leaving and not session.ended:
            session.last_served = session.last
            output.push(frames.goaway(session.last, frames.NO_ERROR))
            output.leaving = True
        session.drained = False

    def _fail(self, code: int, text: str) -> None:
        """Say why the connection ends, and throw away what still comes, so that the peer can read it."""
        session, output = self._session, self._output
        session.ended = True
        session.reader.partial = bytearray()
        output.now = self._listener.clock()
        output.push(frames.goaway(session.last, code, text.encode()))
        self._drop(errors.Cancelled("the connection broke a rule of HTTP/2"))
        output.flush()
        output.leave()
        if code != frames.NO_ERROR:
            output.half_close()

    def _end(self, code: int, text: str) -> None:
        self._output.flush()
        self._fail(code, text)

    def _drop(self, error: errors.WindlassError) -> None:
        for stream in tuple(self._session.streams.values()):
            self._session.give_up(stream, error)


def _greeting(limits: spec.ServerLimits) -> bytes:
    """What this side says first: its settings, and the connection's window."""
    ours = {
        frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
        frames.INITIAL_WINDOW_SIZE: streams.WINDOW,
        frames.FRAME_SIZE: http2_session.FRAME_SIZE,
        frames.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        frames.NO_RFC7540_PRIORITIES: 1,
    }
    return frames.settings(ours) + frames.window_update(0, streams.CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
