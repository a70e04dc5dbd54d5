"""One HTTP/2 stream: a request that comes in and the response that goes out, each within its window.

Made by a connection for each request; what it hands the request to is a `Receiver`, which answers by the stream.
Must never send behind its end, keep a receiver after it, or wait in silence: whoever sends much watches `ready`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from windlass import errors
from windlass.serving.transport import http2_frames as frames
from windlass.serving.transport import http2_hpack as hpack
from windlass.serving.transport import http2_output

# The receive windows that this server gives, in bytes.
WINDOW = 1_048_576
CONNECTION_WINDOW = 16_777_216
_CONTINUE = hpack.status(100)
# The blocks of gRPC's usual answer, made once.
GRPC_HEAD = b"\x88" + hpack.encode([(b"content-type", b"application/grpc")])
GRPC_OK = hpack.encode([(b"grpc-status", b"0")])
_END_BOTH = frames.END_HEADERS | frames.END_STREAM


class Receiver(Protocol):
    """What a connection hands a request to."""

    def admit(self) -> None:
        """The headers are complete."""
        ...

    def receive(self, data: bytes) -> None:
        """A part of the body."""
        ...

    def complete(self, now: float, body: bytes | None = None) -> None:
        """The body is complete: `body`, if it came in one piece, else what was received."""
        ...

    def end(self, error: errors.WindlassError) -> None:
        """Answer with an error, if the stream still can, and drop the work."""
        ...


class Stream(msgspec.Struct, eq=False):
    """`alive` until both sides or one of them ended it for good. `window` is what may be sent, `credit` received.

    A receiver that reads as it goes sets `timed` False, so that its peer may take its time, and `on_ready`, called
    when `ready` is true again. A struct, because one is made for every request.
    """

    output: http2_output.Output
    id: int
    peer: str
    window: int
    # The Content-Length that was told, or -1; and the bytes of the body that came.
    expected: int
    since: float
    receiver: Receiver | None = None
    on_ready: Callable[[], None] | None = None
    credit: int = WINDOW
    size: int = 0
    alive: bool = True
    ended: bool = False
    timed: bool = True
    paused: bool = False
    # Data that waits for a window, and the trailers behind it (empty: none, but the end).
    _waiting: collections.deque[memoryview] | None = None
    _tail: bytes | None = None

    @property
    def ready(self) -> bool:
        """Whether what is sent now goes out now."""
        return self.alive and self._waiting is None and not self.output.full

    @property
    def stalled(self) -> bool:
        """Whether data waits for a window."""
        return self._waiting is not None

    def send_headers(self, fields: Iterable[tuple[bytes, bytes]], end: bool = False) -> None:
        """The response's head: `:status` first, names in lower case."""
        self.send_block(hpack.encode(fields), end)

    def send_block(self, block: bytes, end: bool = False) -> None:
        """The response's head as a block that was encoded before."""
        if self.alive:
            self.output.headers(self.id, block, end)
            if end:
                self._finish()

    def send_continue(self) -> None:
        """An interim response: the peer may send the body."""
        if not self.ended:
            self.send_block(_CONTINUE)

    def send_data(self, data: bytes, end: bool = False) -> None:
        """A part of the response's body; what no window allows yet waits here."""
        output, size = self.output, len(data)
        if not self.alive:
            return
        if self._waiting is not None or (
            size and (size > self.window or size > output.window or size > output.frame_size or output.full)
        ):
            self._wait(data, b"" if end else None)
            return
        self.window -= size
        output.worth += 1
        output.data(self.id, data, end)
        if end:
            self._finish()

    def send_trailers(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """The trailers, which end the response."""
        block = hpack.encode(fields)
        if not self.alive:
            return
        if self._waiting is not None:
            self._tail = block
            return
        self.output.headers(self.id, block, end=True)
        self._finish()

    def respond(self, head: bytes, body: bytes, trailers: bytes = b"") -> None:
        """A whole response from encoded blocks: head, body, and trailers if there are any."""
        output, size, number = self.output, len(body), self.id
        if not self.alive:
            return
        most = output.frame_size
        if (
            size > self.window
            or size > output.window
            or size > most
            or output.full
            or output.resize_table
            or len(head) > most
            or len(trailers) > most
            or self._waiting is not None
        ):
            output.headers(number, head, end=False)
            self._wait(body, trailers)
            return
        output.window -= size
        head_size, tail_size, pack = len(head), len(trailers), frames.FRAME.pack
        parts = [pack(head_size >> 8, head_size & 0xFF, frames.HEADERS, frames.END_HEADERS, number), head]
        if trailers:
            if size:
                parts += (pack(size >> 8, size & 0xFF, frames.DATA, 0, number), body)
            parts += (pack(tail_size >> 8, tail_size & 0xFF, frames.HEADERS, _END_BOTH, number), trailers)
        else:
            parts += (pack(size >> 8, size & 0xFF, frames.DATA, frames.END_STREAM, number), body)
        output.push(b"".join(parts))
        self._finish()

    def reset(self, code: int = frames.CANCEL) -> None:
        """End the stream with an error code, at once."""
        if self.alive:
            output = self.output
            self.close()
            output.reset(self, code)

    def pause(self) -> None:
        """Give the peer no more window than it has: what was received is not used up yet."""
        self.paused = True

    def resume(self) -> None:
        """Give the window back."""
        self.paused = False
        self.replenish()

    def replenish(self) -> None:
        """Give back the bytes that were received, if it is worth a frame."""
        if self.credit <= WINDOW // 2 and self.alive and not self.ended and not self.paused:
            self.output.push(frames.window_update(self.id, WINDOW - self.credit))
            self.credit = WINDOW

    def close(self) -> None:
        """Nothing is sent any more; the receiver is let go."""
        self.alive = False
        self.receiver = self.on_ready = None
        if self._waiting is not None:
            self.output.queued -= sum(map(len, self._waiting))
            self._waiting = None

    def advance(self) -> int:
        """Send one frame of what waits; its bytes of data, or -1 if no window allows one."""
        output, waiting = self.output, self._waiting
        size = 0
        if waiting:
            chunk = waiting[0]
            size = min(len(chunk), max(0, min(self.window, output.window)), output.frame_size)
            if not size and len(chunk):
                return -1
            last = size == len(chunk) and len(waiting) == 1 and self._tail == b""
            if size == len(chunk):
                waiting.popleft()
            else:
                waiting[0] = chunk[size:]
            self.window -= size
            output.queued -= size
            self.since = output.now
            output.data(self.id, chunk[:size], last)
            if last:
                self._finish()
        if not waiting and self.alive:
            self._emptied()
        return size

    def _emptied(self) -> None:
        output, tail = self.output, self._tail
        self._waiting = None
        output.blocked.pop(self.id, None)
        if tail is not None:
            output.headers(self.id, tail, end=True)
            self._finish()
        elif self.on_ready is not None and not output.full:
            self.on_ready()

    def _wait(self, data: bytes, tail: bytes | None) -> None:
        output = self.output
        if self._waiting is None:
            self._waiting = collections.deque()
            self.since = output.now
            output.blocked[self.id] = self
        self._waiting.append(memoryview(data))
        output.queued += len(data)
        self._tail = tail
        output.push(b"")

    def _finish(self) -> None:
        self.close()
        self.output.finished(self)
