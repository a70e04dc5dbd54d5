"""A board that all processes of one server see: for each worker when its loop last turned, and its open connections.

Made by the supervisor, which hands its file descriptor to every worker; a worker writes its own row and reads the
others' to take its share of new connections. Must never be waited for: a row is three whole words, written in place.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

# Not ready within 5 s is what is promised; whoever looks may look a moment later.
STALE_S = 4.5
_BEAT, _CONNECTIONS, _UNDER_WAY = range(3)
_WORDS = 8  # a row has a cache line of its own


class Board:
    """The rows of one server, by place. A place where nobody works has a beat of 0."""

    def __init__(self, fd: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` gives nanoseconds, the same in every process."""
        self.fd = fd
        self._clock = clock
        self._words = memoryview(mmap.mmap(fd, os.fstat(fd).st_size)).cast("Q")
        self._places = range(0, len(self._words), _WORDS)

    @classmethod
    def create(cls, places: int) -> Board:
        """A new board, in a file descriptor that only a child given it inherits."""
        fd = os.memfd_create("windlass-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, places * _WORDS * 8)
        return cls(fd)

    def beat(self, place: int, connections: int) -> None:
        """The loop of the worker at this place turned, and it has so many connections."""
        at = place * _WORDS
        self._words[at + _CONNECTIONS] = connections
        self._words[at + _BEAT] = self._clock()

    def clear(self, place: int) -> None:
        """Nobody works at this place."""
        at = place * _WORDS
        self._words[at + _BEAT] = self._words[at + _CONNECTIONS] = self._words[at + _UNDER_WAY] = 0

    def work(self, place: int, under_way: int) -> None:
        """The worker at this place has so many requests under way."""
        self._words[place * _WORDS + _UNDER_WAY] = under_way

    def under_way(self, place: int) -> int:
        """The requests under way that a worker told last."""
        return self._words[place * _WORDS + _UNDER_WAY]

    def connections(self, place: int) -> int:
        """The open connections that a worker told last."""
        return self._words[place * _WORDS + _CONNECTIONS]

    def age_s(self, place: int) -> float:
        """Seconds since the worker's loop turned; infinite where nobody works."""
        beat = self._words[place * _WORDS + _BEAT]
        return (self._clock() - beat) / 1e9 if beat else float("inf")

    def fewest(self, besides: int) -> int | None:
        """The fewest connections of any other worker that makes progress; None where there is no other."""
        fresh = self._clock() - int(STALE_S * 1e9)
        words = self._words
        others = [
            words[at + _CONNECTIONS] for at in self._places if words[at + _BEAT] > fresh and at != besides * _WORDS
        ]
        return min(others, default=None)
