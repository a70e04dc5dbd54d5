"""What an HTTP/2 connection sends: frames gathered for one write per turn of the loop, within the peer's windows.

Made by a connection, shared by its streams. Must never send more data than the peer's windows allow, or hand the
transport more data while it is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from windlass.serving.transport import http2_frames as frames

# What is gathered for one write while large bodies are sent.
_WRITE_BYTES = 262_144
# How many streams are remembered that ended here before the peer ended them: what still comes for them is ignored.
_ABANDONED = 1_024
# Frames that one frame of ours may honestly be answered with: window updates and a measuring PING.
_WORTH = 3
_WORTHY_BYTES = 256


class Sending(Protocol):
    """A stream with data that waits."""

    id: int
    window: int
    since: float
    ended: bool
    on_ready: Callable[[], None] | None

    def advance(self) -> int:
        """Send one frame of what waits; its bytes of data, or -1 if no window allows one."""
        ...


class Output:
    """The sending half of a connection. All of it belongs to the loop's thread.

    `worth` counts what the peer may answer with control frames; `queued` are bytes of data that no window allowed yet.
    """

    __slots__ = (
        "_gathered",
        "_loop",
        "abandoned",
        "blocked",
        "frame_size",
        "full",
        "half_closed",
        "initial_window",
        "leaving",
        "left_at",
        "now",
        "queued",
        "resize_table",
        "scheduled",
        "streams",
        "transport",
        "window",
        "worth",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        # What they are is the session's to say.
        self.streams: dict[int, Any] = {}
        self.blocked: dict[int, Sending] = {}
        self.abandoned: dict[int, None] = {}
        self.window = self.initial_window = frames.DEFAULT_WINDOW
        self.frame_size = frames.MIN_FRAME_SIZE
        self.queued = self.worth = 0
        self.now = 0.0
        self.full = self.leaving = self.half_closed = False
        # When this side had said its last; what still comes is thrown away.
        self.left_at: float | None = None
        # Whether a flush comes by itself; whether the next block must say that no table is used (RFC 7541, 4.2).
        self.scheduled = self.resize_table = False
        self._gathered: list[bytes | memoryview] = []
        self._loop = loop

    def push(self, data: bytes | memoryview) -> None:
        """Send these bytes, which are whole frames or follow their frame's header, with the turn's write."""
        self._gathered.append(data)
        if not self.scheduled:
            self.scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was gathered, and what the windows now allow of what waited."""
        self.scheduled = True
        if self.blocked:
            self._pump()
        self._write()
        self.scheduled = False
        if self.leaving and not self.streams:
            self.leave()

    def leave(self) -> None:
        """Leave the closing to the peer, which has all that it is sent; `half_close` when it does not."""
        if self.left_at is None:
            self.left_at = self.now

    def half_close(self) -> None:
        """Write no more, and read on: closed at once, data on its way here would cost the peer its answers."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.half_closed:
            return
        self.half_closed = True
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _write(self) -> None:
        gathered, transport = self._gathered, self.transport
        if gathered:
            self._gathered = []
            if transport is not None:
                transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def _pump(self) -> None:
        """A frame of each stream in turn, until no window allows one or the transport is full."""
        gathered = 0
        moved = True
        while moved:
            moved = False
            for stream in tuple(self.blocked.values()):
                if self.full:
                    return
                size = stream.advance()
                if size >= 0:
                    moved = True
                    gathered += size
                    if gathered >= _WRITE_BYTES:
                        gathered = 0
                        self._write()

    def resume(self) -> None:
        """The transport takes more."""
        self.full = False
        for stream in tuple(self.streams.values()):
            if stream.on_ready is not None and stream.ready:
                stream.on_ready()
        self.flush()

    def data(self, stream: int, data: bytes | memoryview, end: bool) -> None:
        """A DATA frame, which the windows must have allowed."""
        size = len(data)
        self.window -= size
        if end or size >= _WORTHY_BYTES:
            self.worth += _WORTH
        self.push(frames.header(size, frames.DATA, frames.END_STREAM if end else 0, stream))
        if size:
            self.push(data)

    def headers(self, stream: int, block: bytes, end: bool) -> None:
        """A header block."""
        if self.resize_table:
            self.resize_table = False
            block = b"\x20" + block
        self.push(frames.headers(stream, block, frames.END_STREAM if end else 0, self.frame_size))

    def finished(self, stream: Sending) -> None:
        """Our side of a stream has ended; while the peer still sends, its stream stays, and nobody reads it."""
        if stream.ended:
            self.forget(stream)
        else:
            stream.since = self.now
            self.blocked.pop(stream.id, None)

    def reset(self, stream: Sending, code: int) -> None:
        """End a stream at once."""
        if stream.id in self.streams:
            self.push(frames.rst_stream(stream.id, code))
            self.abandon(stream.id)
            self.forget(stream)

    def abandon(self, stream: int) -> None:
        """From now on ignore what comes for a stream."""
        if len(self.abandoned) >= _ABANDONED:
            del self.abandoned[next(iter(self.abandoned))]
        self.abandoned[stream] = None

    def forget(self, stream: Sending) -> None:
        """A stream has ended on both sides."""
        self.streams.pop(stream.id, None)
        if self.blocked:
            self.blocked.pop(stream.id, None)

    def settle(self, settings: dict[int, int]) -> None:
        """Take the peer's settings; `ConnectionFault` if a stream's window grows too large by them (6.9.2)."""
        self.frame_size = settings.get(frames.FRAME_SIZE, self.frame_size)
        # This side uses no table, which a peer that wants a smaller one has to be told once.
        if settings.get(frames.HEADER_TABLE_SIZE, frames.DEFAULT_TABLE) < frames.DEFAULT_TABLE:
            self.resize_table = True
        initial = settings.get(frames.INITIAL_WINDOW_SIZE)
        if initial is not None and initial != self.initial_window:
            change = initial - self.initial_window
            self.initial_window = initial
            for stream in self.streams.values():
                stream.window += change
                if stream.window > frames.MAX_WINDOW:
                    raise frames.ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window is above 2^31-1")
        self.push(frames.SETTINGS_ACK)
