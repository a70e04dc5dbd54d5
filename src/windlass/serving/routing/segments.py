"""Logs of lines in append-only segments: one file a process at a time, the oldest removed first.

Used by `exposures.py` and `differing.py`. Must never leave a torn line before another one, nor keep more than it may.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path


class Segments:
    """The segments that one process writes to `folder`; not to be used by two threads at once.

    A segment has at most `segment_bytes`, all that processes keep there at most `retained_bytes`. `clock` gives seconds
    since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float], *, segment_bytes: int, retained_bytes: int) -> None:
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._retained_bytes = retained_bytes
        self._descriptor = -1
        self._name = ""
        self._written = 0

    def append(self, data: bytes) -> None:
        """Write whole lines, all of them or (`OSError`) none."""
        if self._descriptor >= 0 and self._written + len(data) > self._segment_bytes:
            self.close()
        if self._descriptor < 0:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._name = f"{int(self._clock() * 1e9):020d}-{os.getpid()}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._folder / self._name, flags, 0o600)
            self._written = 0
            self._retain()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # What is torn would spoil the line after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._written)
            raise
        self._written += len(data)

    def close(self) -> None:
        """End the segment that is written now."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _retain(self) -> None:
        """Remove the oldest segments until all that is kept is within bounds."""
        sizes = {}
        for path in self._folder.glob("*.jsonl"):
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:  # another process removed it
                continue
        total = sum(sizes.values()) + self._segment_bytes
        for path in sorted(sizes):
            if total <= self._retained_bytes:
                break
            if path.name != self._name:
                path.unlink(missing_ok=True)
                total -= sizes[path]


def read(folder: Path, since: float) -> Iterator[bytes]:
    """The lines of the segments that were written to since then (epoch seconds), segment by segment, oldest first."""
    for path in sorted(folder.glob("*.jsonl")):
        try:
            with path.open("rb") as segment:
                if os.fstat(segment.fileno()).st_mtime >= since:
                    yield from segment
        except FileNotFoundError:  # its time came while the others were read
            continue
