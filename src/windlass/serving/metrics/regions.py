"""One region of counters: a header, a directory that says which series lies where, and slots of 64 bits.

Made by `counters` on memory of its own, or by `totals` on memory that processes share. One process writes a region;
any process may read it meanwhile: a slot is stored whole, and a series is told in the directory only when it is there.
Must never move a slot, so that whoever holds one may go on counting, or give one to another series untold: the epoch
is odd meanwhile, and another one after.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator

import msgspec

BYTES = 16 * 1024 * 1024
MAGIC = int.from_bytes(b"windlass", "little")
# Words of the header. DIRECTORY is the directory's length in bytes, USED counts the words taken, EPOCH is odd while
# series that were told change.
_MAGIC, EPOCH, DIRECTORY, USED = range(4)
_DIRECTORY_AT = 4_096
_DIRECTORY_BYTES = 1024 * 1024 - _DIRECTORY_AT
SLOTS_AT = (_DIRECTORY_AT + _DIRECTORY_BYTES) // 8


class Series(msgspec.Struct, frozen=True, array_like=True):
    """A line of the directory: `kind` says what the slots mean, `key` whose they are, `start` is the first word."""

    kind: str
    start: int
    key: tuple[str, ...]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Series).decode_lines


def size(key: tuple[str, ...]) -> int:
    """The bytes that a key takes in the directory: as many as those of a key that is to take its place."""
    return len(_encode(key))


class Region:
    """The memory of one region, `BYTES` long, as words (u64) and as doubles. Pages not touched take no memory."""

    __slots__ = ("_bytes", "doubles", "words")

    def __init__(self, memory: memoryview) -> None:
        """`memory` is all zero, or was a region before: then its series go on."""
        self._bytes = memory
        self.words = memory.cast("Q")
        self.doubles = memory.cast("d")
        if self.words[_MAGIC] != MAGIC:
            self.words[USED] = SLOTS_AT
            self.words[_MAGIC] = MAGIC

    def declare(self, kind: str, key: tuple[str, ...], slots: int) -> int | None:
        """The first of `slots` words, all zero, for a new series; None when the region or its directory is full."""
        words = self.words
        start, written = words[USED], words[DIRECTORY]
        line = _encode(Series(kind, start, key)) + b"\n"
        if start + slots > len(words) or written + len(line) > _DIRECTORY_BYTES:
            return None
        words[USED] = start + slots
        at = _DIRECTORY_AT + written
        self._bytes[at : at + len(line)] = line
        # Last of all: who reads the directory finds whole lines only.
        words[DIRECTORY] = written + len(line)
        return start

    def series(self, start: int = 0) -> tuple[list[Series], int]:
        """What was declared from byte `start` of the directory on, and the byte after it."""
        end = self.words[DIRECTORY]
        return _decode(self._bytes[_DIRECTORY_AT + start : _DIRECTORY_AT + end]), end

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Whoever reads meanwhile reads again, and then everything."""
        # It is odd already where its writer was killed meanwhile.
        self.words[EPOCH] |= 1
        try:
            yield
        finally:
            self.words[EPOCH] += 1

    def rename(self, old: Series, key: tuple[str, ...]) -> None:
        """Another key, as long as the old one, for a series that nobody counts in; while `changing`."""
        line, renamed = _encode(old), _encode(Series(old.kind, old.start, key))
        end = _DIRECTORY_AT + self.words[DIRECTORY]
        at = _DIRECTORY_AT + bytes(self._bytes[_DIRECTORY_AT:end]).index(line)
        self._bytes[at : at + len(line)] = renamed

    def clear(self) -> None:
        """Forget every series. Only when nobody counts here any more."""
        words = self.words
        used = words[USED]
        with self.changing():
            words[DIRECTORY] = 0
            self._bytes[SLOTS_AT * 8 : used * 8] = bytes((used - SLOTS_AT) * 8)
            words[USED] = SLOTS_AT


def private() -> Region:
    """A region that no other process sees."""
    return Region(memoryview(mmap.mmap(-1, BYTES)))
