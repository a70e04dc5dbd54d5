"""The exposure log: one line for each request whose arm was drawn, to which labels and outcomes are joined later.

Noted by routers on the loop, written by one thread to append-only segments, one file a process at a time; a crash loses
what was noted in its last moment (`FLUSH_S`). Must never make the loop wait for the disk (what the disk cannot take is
counted and lost), and never hold a sticky key itself.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from windlass import telemetry
from windlass.serving.metrics import counters
from windlass.serving.routing import segments

log = logging.getLogger(__name__)
How: TypeAlias = Literal["draw", "sticky", "pin", "override", "version"]
SEGMENT_BYTES = 16 * 1024 * 1024
# What one endpoint may keep, over all processes; the oldest segments go first.
RETAINED_BYTES = 512 * 1024 * 1024
BUFFER_LINES = 65_536
FLUSH_S = 0.2
_CLOSING_S = 5.0
_FOLDER = "exposures"


class Exposure(msgspec.Struct, frozen=True):
    """Who was sent where. Only `draw` and `sticky` are evidence: the others were chosen, with probability 1.

    `time` is in seconds since the epoch, `generation` that of the weights, `key` a keyed hash of the sticky key
    (empty: none was sent), `caller` the API key's id.
    """

    time: float
    request: str
    endpoint: str
    arm: str
    probability: float
    generation: int
    how: How
    key: str = ""
    caller: str = ""


class _Journal:
    """One endpoint's lines that wait for the disk, and the segment that is written now."""

    def __init__(self, written: segments.Segments, endpoint: str, series: counters.Counters) -> None:
        self.segments = written
        self.lines: collections.deque[bytes] = collections.deque()
        # Counted by the loop: draws, and lines for which there was no room; by the thread: lines the disk refused.
        self.noted = series.counter(telemetry.EXPOSURES, endpoint, "noted")
        self.crowded = series.counter(telemetry.EXPOSURES, endpoint, "dropped")
        self.lost = series.counter(telemetry.EXPOSURES, endpoint, "lost")
        self.failing = False


class Exposures:
    """The logs of one process, in the folder `state`; without one nothing is kept."""

    def __init__(self, state: str, series: counters.Counters, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(state) / _FOLDER if state else None
        self._series = series
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._journals: dict[str, _Journal] = {}
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def journal(self, endpoint: str) -> Callable[..., None] | None:
        """`note(request, arm, probability, generation, how, key, caller)` for an endpoint; None if nothing is kept."""
        if self._folder is None:
            return None
        journal = self._journals.get(endpoint)
        if journal is None:
            written = segments.Segments(
                self._folder / endpoint, self._clock, segment_bytes=SEGMENT_BYTES, retained_bytes=RETAINED_BYTES
            )
            journal = self._journals[endpoint] = _Journal(written, endpoint, self._series)
        encode, clock = self._encode, self._clock

        def note(request: str, arm: str, probability: float, generation: int, how: How, key: str, caller: str) -> None:
            journal.noted[0] += 1
            if len(journal.lines) >= BUFFER_LINES:
                journal.crowded[0] += 1
                return
            line = encode(Exposure(clock(), request, endpoint, arm, probability, generation, how, key, caller))
            journal.lines.append(line + b"\n")

        return note

    def start(self) -> None:
        """Write from now on, on a thread of its own; at most once."""
        if self._thread is None and self._folder is not None:
            self._thread = threading.Thread(target=self._serve, name="exposures", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Write what is there. Lines that the disk refuses are lost and counted."""
        with self._writing:
            for journal in list(self._journals.values()):
                # The loop appends meanwhile: only what is there now is taken, line by line.
                lines = [journal.lines.popleft() for _ in range(len(journal.lines))]
                if not lines:
                    continue
                try:
                    journal.segments.append(b"".join(lines))
                    journal.failing = False
                except OSError as e:
                    journal.lost[0] += len(lines)
                    if not journal.failing:
                        log.error("exposures are lost until they can be written again: %s", e.strerror)
                    journal.failing = True

    def close(self) -> None:
        """Write the rest, then end; a disk that hangs is not waited for."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_CLOSING_S)
            if self._thread.is_alive():
                return
        self.flush()
        for journal in self._journals.values():
            journal.segments.close()

    def _serve(self) -> None:
        while not self._ended.wait(FLUSH_S):
            self.flush()


def read(folder: Path, endpoint: str, since: float = 0.0) -> Iterator[Exposure]:
    """The exposures of an endpoint from `since` (seconds since the epoch) on, segment by segment, oldest first.

    `folder` is the spec's `state`. A line that a crash cut off is passed over.
    """
    decode = msgspec.json.Decoder(Exposure).decode
    for line in segments.read(folder / _FOLDER / endpoint, since):
        with contextlib.suppress(msgspec.DecodeError):
            found = decode(line)
            if found.time >= since:
                yield found
