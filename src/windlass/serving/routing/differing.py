"""The log of requests to which a shadow gave another class than the answer that was sent; labels are joined later.

Written by `shadow.py` on its own thread, read by targets. Must never hold what was asked: an id, two classes, and whose
they are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from windlass.serving.routing import segments

SEGMENT_BYTES = 1024 * 1024
# What one endpoint may keep, over all processes; the oldest segments go first.
RETAINED_BYTES = 64 * 1024 * 1024
# Longer ones are no classes that anybody would label.
_CLASS_CHARACTERS = 256
_FOLDER = "differing"


class Differing(msgspec.Struct, frozen=True):
    """One request of one row: `answered` is the class that `arm` sent, `mirrored` that of `shadow`.

    `time` is when they were compared, in seconds since the epoch; `epoch` the number of the rollout, 0 outside of one.
    """

    time: float
    request: str
    endpoint: str
    arm: str
    shadow: str
    answered: str
    mirrored: str
    epoch: int = 0


class Log:
    """The lines of one process about one endpoint, in the folder `state`; without one nothing is kept."""

    def __init__(self, state: str, endpoint: str, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._lines: list[bytes] = []
        self._segments: segments.Segments | None = None
        if state:
            folder = Path(state) / _FOLDER / endpoint
            self._segments = segments.Segments(
                folder, clock, segment_bytes=SEGMENT_BYTES, retained_bytes=RETAINED_BYTES
            )

    def add(self, request: str, arms: tuple[str, str], classes: tuple[str, str], epoch: int) -> None:
        """Take one, of the arm that answered and of the shadow; it is on disk after `write`."""
        if self._segments is not None and request and max(map(len, classes)) <= _CLASS_CHARACTERS:
            line = Differing(self._clock(), request, self._endpoint, *arms, *classes, epoch)
            self._lines.append(msgspec.json.encode(line) + b"\n")

    def write(self) -> None:
        """Write what was taken; lines that the disk refuses (`OSError`) are lost."""
        lines, self._lines = self._lines, []
        if lines and self._segments is not None:
            self._segments.append(b"".join(lines))

    def close(self) -> None:
        """End the segment that is written now."""
        if self._segments is not None:
            self._segments.close()


def read(folder: Path, endpoint: str, since: float = 0.0) -> Iterator[Differing]:
    """What is kept of an endpoint from `since` (seconds since the epoch) on; `folder` is the spec's `state`.

    A line that a crash cut off is passed over.
    """
    decode = msgspec.json.Decoder(Differing).decode
    for line in segments.read(folder / _FOLDER / endpoint, since):
        with contextlib.suppress(msgspec.DecodeError):
            found = decode(line)
            if found.time >= since:
                yield found
