"""The rules of HTTP/2 for what a peer sends (RFC 9113): frames in one pass over what was read, and their streams.

Fed by a connection with whole reads. Must never keep more of a request than the limits allow, or let a peer have work
done that costs it nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from windlass import errors
from windlass.serving.door import heads
from windlass.serving.transport import http2_frames as frames
from windlass.serving.transport import http2_guard, http2_heads, http2_output, http2_reader, listener
from windlass.serving.transport import http2_hpack as hpack
from windlass.serving.transport import http2_streams as streams

Factory: TypeAlias = Callable[[listener.Listener, streams.Stream, heads.RequestHead], streams.Receiver]
# The longest frame that is read; a body of a megabyte comes in few of them.
FRAME_SIZE = 65_536
DRAIN_PING = b"windlass"
_MAX_CONTINUATIONS = 32
# With more than this unsent for want of windows, no request is taken.
_MAX_QUEUED = 67_108_864
_SKIPPED = 16


class Session:
    """The streams of one connection. `receiver` says what answers a request; `output` sends.

    `reader` has what is no whole frame yet; `block_stream` is the stream whose header block is not complete (0: none),
    which began at `block_since`. `opened` counts the requests, `last` is the last one's stream, and those
    above `last_served` are not taken any more.
    """

    def __init__(self, context: listener.Listener, receiver: Factory, output: http2_output.Output, peer: str) -> None:
        self.output = output
        self.streams: dict[int, streams.Stream] = {}
        output.streams = self.streams
        self.block_since = self.now = context.clock()
        self.reader = http2_reader.Reader(self.now)
        self.block_stream = 0
        self.last = self.opened = 0
        self.last_served = frames.MAX_STREAM_ID
        # Whether the first settings are here; whether nothing more is read.
        self.greeted = self.ended = False
        self.drained = False
        self._peer = peer
        self._listener = context
        self._limits = context.limits
        self._receiver = receiver
        self._blocks = http2_heads.Blocks(context.limits)
        self._block_flags = 0
        self._block = bytearray()
        self._continuations = 0
        self._credit = streams.CONNECTION_WINDOW
        self._skipped: list[tuple[int, int]] = []
        self._guard = http2_guard.Guard(context.limits, self.now)

    def receive(self, data: bytes, now: float) -> None:
        """Take what was read; `ConnectionFault` if the connection cannot go on."""
        self.now = now
        whole = self.reader.whole(data)
        if whole is not None:
            self._read(whole)

    def partial_stream(self) -> streams.Stream | None:
        """The stream whose body the frame is a part of that is not complete yet."""
        return self.streams.get(self.reader.body_of())

    def _read(self, data: bytes) -> None:
        position, size, unpack = 0, len(data), frames.FRAME.unpack_from
        while size - position >= frames.HEADER_SIZE:
            upper, lower, kind, flags, number = unpack(data, position)
            length = upper << 8 | lower
            if length > FRAME_SIZE:
                raise frames.ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame is longer than the settings allow")
            start = position + frames.HEADER_SIZE
            end = start + length
            if end > size:
                break
            number &= frames.MAX_STREAM_ID
            if self.block_stream and (kind != frames.CONTINUATION or number != self.block_stream):
                raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == frames.DATA and self.greeted:
                self._on_data(data, start, end, flags, number)
            elif kind == frames.HEADERS and self.greeted:
                self._on_headers(data, start, end, flags, number)
            else:
                self._on_other(kind, data, start, end, flags, number)
            if self.ended:
                return
            position = end
        if position < size:
            self.reader.keep(data[position:], self.now)

    def _on_data(self, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        length = end - start
        self._credit -= length
        if self._credit < streams.CONNECTION_WINDOW // 2:
            if self._credit < 0:
                raise frames.ConnectionFault(frames.FLOW_CONTROL_ERROR, "the connection's window is exceeded")
            self.output.push(frames.window_update(0, streams.CONNECTION_WINDOW - self._credit))
            self._credit = streams.CONNECTION_WINDOW
        if flags & frames.PADDED:
            start, end = frames.unpad(data, start, end)
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            self._on_stray(number, stream)
            return
        size = end - start
        stream.credit -= length
        stream.size += size
        if stream.credit < 0:
            self._violate(stream, frames.FLOW_CONTROL_ERROR)
            return
        receiver = stream.receiver
        if receiver is None:
            self._discard(stream, flags)
            return
        if flags & frames.END_STREAM:
            if stream.expected >= 0 and stream.size != stream.expected:
                self._violate(stream, frames.PROTOCOL_ERROR)
                return
            stream.ended = True
            if stream.size == size:
                receiver.complete(self.now, data[start:end])
            else:
                if size:
                    receiver.receive(data[start:end])
                receiver.complete(self.now)
        elif size:
            if 0 <= stream.expected < stream.size:
                self._violate(stream, frames.PROTOCOL_ERROR)
                return
            receiver.receive(data[start:end])
            stream.replenish()
        else:
            self._guard.control(self.now, self.opened, self.output.worth)
            stream.replenish()

    def _discard(self, stream: streams.Stream, flags: int) -> None:
        """The answer came before the end of the request: of the rest the window, which is not renewed, lets in little.

        To reset the stream at once would be allowed (8.1), but clients take that for a failure of what they received.
        """
        if flags & frames.END_STREAM:
            stream.ended = True
            self.output.forget(stream)

    def _on_stray(self, number: int, stream: streams.Stream | None) -> None:
        """DATA for a stream that takes none (5.1)."""
        if stream is not None:
            self._violate(stream, frames.STREAM_CLOSED)
        elif number == 0 or self._idle(number):
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "there is no such stream")
        elif number <= self.last_served and number not in self.output.abandoned:
            self._guard.reset(self.now)
            self.output.push(frames.rst_stream(number, frames.STREAM_CLOSED))

    def _on_headers(self, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        if flags & frames.PADDED:
            start, end = frames.unpad(data, start, end)
        if flags & frames.WITH_PRIORITY:
            start += 5
            if start > end:
                raise frames.ConnectionFault(frames.FRAME_SIZE_ERROR, "a HEADERS frame is too short")
        if not number & 1:
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a client's streams have odd numbers")
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, data[start:end])
            return
        self.block_stream, self._block_flags = number, flags
        self._block = bytearray(data[start:end])
        self._continuations = 0
        self.block_since = self.now

    def _on_continuation(self, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        if not self.block_stream:
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a CONTINUATION continues nothing")
        self._block += data[start:end]
        self._continuations += 1
        if self._continuations > _MAX_CONTINUATIONS or len(self._block) > self._limits.max_header_bytes:
            raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & frames.END_HEADERS:
            self.block_stream = 0
            block, self._block = bytes(self._block), bytearray()
            self._on_block(number, self._block_flags, block)

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        """A whole header block: a request's, or its trailers."""
        if number <= self.last:
            self._on_trailers(number, flags, self._blocks.fields(block))
            return
        try:
            head, expected = self._blocks.request(block)
        except http2_heads.Malformed:
            self._open(number)
            self._guard.reset(self.now)
            self.output.push(frames.rst_stream(number, frames.PROTOCOL_ERROR))
            self.output.abandon(number)
            return
        ended = bool(flags & frames.END_STREAM)
        if not self._open(number):
            return
        output = self.output
        if (ended and expected > 0) or len(self.streams) >= self._limits.max_streams or output.queued > _MAX_QUEUED:
            self._guard.reset(self.now)
            code = frames.PROTOCOL_ERROR if ended and expected > 0 else frames.REFUSED_STREAM
            output.push(frames.rst_stream(number, code))
            output.abandon(number)
            return
        self.streams[number] = stream = streams.Stream(
            output, number, self._peer, output.initial_window, expected, self.now, ended=ended
        )
        stream.receiver = receiver = self._receiver(self._listener, stream, head)
        receiver.admit()
        if ended and stream.alive:
            receiver.complete(self.now, b"")

    def _open(self, number: int) -> bool:
        """Take a stream's number; False if it is no longer served."""
        if number > self.last + 2:
            # Those between can never be opened any more (5.1.1).
            self._skipped = [*self._skipped[-_SKIPPED:], (self.last + 2, number - 2)]
        self.last = number
        self.opened += 1
        return number <= self.last_served

    def _on_trailers(self, number: int, flags: int, fields: list[hpack.Field]) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if number in self.output.abandoned or number > self.last_served:
                return
            skipped = any(low <= number <= high for low, high in self._skipped)
            code = frames.PROTOCOL_ERROR if skipped else frames.STREAM_CLOSED
            raise frames.ConnectionFault(code, "a header block is for a stream that has ended")
        if stream.ended:
            self._violate(stream, frames.STREAM_CLOSED)
            return
        try:
            http2_heads.check_trailers(fields)
        except http2_heads.Malformed:
            self._violate(stream, frames.PROTOCOL_ERROR)
            return
        early = stream.receiver is not None and stream.expected not in (-1, stream.size)
        if not flags & frames.END_STREAM or early:
            self._violate(stream, frames.PROTOCOL_ERROR)
            return
        if stream.receiver is None:
            self._discard(stream, flags)
            return
        stream.ended = True
        stream.receiver.complete(self.now)

    def _on_other(self, kind: int, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        """Frames that bring no request."""
        if not self.greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.CONTINUATION:
            self._on_continuation(data, start, end, flags, number)
            return
        if kind == frames.RST_STREAM:
            self._on_reset(number, end - start)
            return
        self._guard.control(self.now, self.opened, self.output.worth)
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(data, start, end, number)
        elif kind == frames.SETTINGS:
            self._on_settings(data, start, end, flags, number)
        elif kind == frames.PING:
            self._on_ping(data, start, end, flags, number)
        elif kind == frames.PUSH_PROMISE:
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a client pushes nothing")
        elif kind == frames.GOAWAY:
            _expect(end - start >= 8, number == 0)
            self.output.leaving = True
        elif kind == frames.PRIORITY:
            _expect(size=True, stream=number != 0)
            if end - start != 5:
                self._fault(number, frames.FRAME_SIZE_ERROR)

    def _on_settings(self, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        acknowledges = bool(flags & frames.ACK)
        _expect((end - start) % 6 == 0 and not (acknowledges and end > start), number == 0)
        self.greeted = True
        if not acknowledges:
            self.output.settle(frames.read_settings(data, start, end))

    def _on_ping(self, data: bytes, start: int, end: int, flags: int, number: int) -> None:
        _expect(end - start == 8, number == 0)
        if not flags & frames.ACK:
            self.output.push(frames.ping_ack(data[start:end]))
        elif data[start:end] == DRAIN_PING:
            self.drained = True

    def _on_window_update(self, data: bytes, start: int, end: int, number: int) -> None:
        _expect(end - start == 4, not self._idle(number))
        increment = int.from_bytes(data[start:end], "big") & frames.MAX_WINDOW
        output = self.output
        if number:
            stream = self.streams.get(number)
            if stream is None:
                return
            stream.window += increment
            if increment == 0 or stream.window > frames.MAX_WINDOW:
                self._violate(stream, frames.FLOW_CONTROL_ERROR if increment else frames.PROTOCOL_ERROR)
            return
        output.window += increment
        if increment == 0:
            raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a window grows by nothing")
        if output.window > frames.MAX_WINDOW:
            raise frames.ConnectionFault(frames.FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")

    def _on_reset(self, number: int, size: int) -> None:
        _expect(size == 4, number != 0 and not self._idle(number))
        stream = self.streams.get(number)
        if stream is None or not stream.alive:
            # It has its answer: nothing is saved, and nothing was done for nothing.
            self._guard.control(self.now, self.opened, self.output.worth)
        else:
            self._guard.reset(self.now)
        if stream is not None:
            self.give_up(stream, errors.Cancelled("the caller gave up"))

    def _idle(self, number: int) -> bool:
        """Whether no request ever had this stream (5.1): an even number is the server's, who opens none."""
        return number > self.last or (number != 0 and not number & 1)

    def _fault(self, number: int, code: int) -> None:
        """Reset a stream for a frame of it, whatever its state."""
        self._guard.reset(self.now)
        stream = self.streams.get(number)
        if stream is not None:
            self._violate(stream, code)
        else:
            self.output.push(frames.rst_stream(number, code))

    def _violate(self, stream: streams.Stream, code: int) -> None:
        """End a stream that broke a rule."""
        self._guard.reset(self.now)
        self.stop(stream, code, errors.Cancelled("the request broke a rule of HTTP/2"))

    def stop(self, stream: streams.Stream, code: int, error: errors.WindlassError) -> None:
        """Reset a stream and drop its work."""
        receiver = stream.receiver
        stream.close()
        self.output.reset(stream, code)
        if receiver is not None:
            receiver.end(error)

    def give_up(self, stream: streams.Stream, error: errors.WindlassError) -> None:
        """Drop a stream that the peer does not want any more."""
        receiver = stream.receiver
        stream.close()
        self.output.forget(stream)
        if receiver is not None:
            receiver.end(error)


def _expect(size: bool, stream: bool) -> None:
    """`ConnectionFault` if a frame's size or stream is none that its type may have."""
    if not stream:
        raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "a frame is on a stream where it may not be")
    if not size:
        raise frames.ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame has a size that its type may not have")
