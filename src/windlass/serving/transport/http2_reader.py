"""What an HTTP/2 peer sends, from reads of any size to whole frames.

Held by a session. Must never keep more than one frame that is not whole, or look at its beginning again and again.
"""

from __future__ import annotations

from windlass.serving.transport import http2_frames as frames


class Reader:
    """Holds what is no whole frame yet: `partial`, which began `since`. `begun`: the preface was there."""

    __slots__ = ("_needed", "begun", "partial", "since")

    def __init__(self, now: float) -> None:
        self.partial = bytearray()
        self.since = now
        self.begun = False
        # How many bytes there must be before it is worth looking at them again.
        self._needed = len(frames.PREFACE)

    def whole(self, data: bytes) -> bytes | None:
        """What came before and this, if it is a whole frame or more; `ConnectionFault` if it is not HTTP/2."""
        if self.begun and not self.partial:
            return data
        partial = self.partial
        partial += data
        if not self.begun:
            if not frames.PREFACE.startswith(partial[: len(frames.PREFACE)]):
                raise frames.ConnectionFault(frames.PROTOCOL_ERROR, "the preface is not HTTP/2's")
            if len(partial) < len(frames.PREFACE):
                return None
            self.begun = True
            data = bytes(partial[len(frames.PREFACE) :])
        elif len(partial) < self._needed:
            return None
        else:
            data = bytes(partial)
        self.partial = bytearray()
        return data

    def keep(self, rest: bytes, now: float) -> None:
        """Keep the beginning of a frame until there is the rest."""
        self.partial += rest
        self.since = now
        self._needed = frames.HEADER_SIZE
        if len(rest) >= frames.HEADER_SIZE:
            self._needed += int.from_bytes(rest[:3], "big")

    def body_of(self) -> int:
        """The stream whose body the frame is a part of that is not whole yet; 0 if there is none."""
        partial = self.partial
        if len(partial) < frames.HEADER_SIZE or partial[3] != frames.DATA:
            return 0
        return int.from_bytes(partial[5:9], "big") & frames.MAX_STREAM_ID
