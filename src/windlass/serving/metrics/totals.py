"""The counts of all workers: memory shared by the processes of one server, a region for each, added up when asked.

Made by the supervisor, which hands its file descriptor to every worker; read by whoever shows counts. What was
counted survives the worker that counted it: when one ends, its region is folded into the region of the past. A reader
never sees a total go back or count double: a fold is told by a sequence that is odd while it lasts.
Must never be written by a reader, nor wait for a writer.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from windlass import errors, telemetry
from windlass.serving.metrics import counters, regions

Words: TypeAlias = npt.NDArray[np.uint64]
PAST = 0
LOST = "worker_lost"
_HEAD_BYTES = 4_096
_MAGIC, _REGIONS, _SEQUENCE = range(3)
_ATTEMPTS = 1_000
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_CODES = {kind: np.frombuffer(codes.encode(), np.uint8) for kind, codes in counters.KINDS.items()}
_COUNT, _SUM, _LATEST, _GAUGE = b"nsmg"


class _Addition:
    """Where each slot of one region goes in another, and how, so that a region is added by a few array operations."""

    def __init__(self, source: regions.Region, declare: Callable[[str, tuple[str, ...]], int]) -> None:
        """`declare(kind, key)` gives the first slot of a series in the region that is added to."""
        self._source = source
        self._declare = declare
        self._epoch = source.words[regions.EPOCH]
        self._read = 0
        self._to = np.zeros(0, np.intp)
        self._codes = np.zeros(0, np.uint8)

    @property
    def holds(self) -> bool:
        """Whether what was learned is still so: no series of the source has changed, or is changing."""
        return self._epoch % 2 == 0 and self._epoch == self._source.words[regions.EPOCH]

    def learn(self) -> bool:
        """Read what was declared since; False where that is being written."""
        try:
            new, self._read = self._source.series(self._read)
        except msgspec.DecodeError:
            return False
        if new:
            more = new[-1].start - regions.SLOTS_AT + len(_CODES[new[-1].kind]) - len(self._to)
            self._to = np.concatenate([self._to, np.zeros(more, np.intp)])
            self._codes = np.concatenate([self._codes, np.zeros(more, np.uint8)])
        # The last generations first: those that find no place beside them are counted with the earlier ones.
        for one in sorted(new, key=lambda one: (one.key[-1:], one.key), reverse=True):
            codes = _CODES[one.kind]
            here = self._declare(one.kind, one.key)
            start = one.start - regions.SLOTS_AT
            self._to[start : start + len(codes)] = np.arange(here, here + len(codes))
            self._codes[start : start + len(codes)] = codes
        return True

    def copy(self) -> Words:
        """The source's slots as they are now, each one whole."""
        return np.frombuffer(self._source.words, np.uint64, len(self._to), regions.SLOTS_AT * 8).copy()

    def add(self, words: Words, to: regions.Region, gauges: bool) -> None:
        """Add a copy of the source. Several series may go to one, where there was no room."""
        whole, doubles = np.frombuffer(to.words, np.uint64), np.frombuffer(to.words, np.float64)
        # Most slots are zero: buckets that nothing fell into.
        there = np.flatnonzero(words)
        here, codes = self._to[there], self._codes[there]
        counted = (codes == _COUNT) | (codes == _GAUGE) if gauges else codes == _COUNT
        np.add.at(whole, here[counted], words[there[counted]])
        np.add.at(doubles, here[codes == _SUM], words.view(np.float64)[there[codes == _SUM]])
        np.maximum.at(whole, here[codes == _LATEST], words[there[codes == _LATEST]])


class Memory:
    """The regions of one server: the past's, and one for each place of a worker (1 to `workers`)."""

    def __init__(self, fd: int) -> None:
        """Memory that another process has made; `UsageError` if the descriptor holds none."""
        self.fd = fd
        size = os.fstat(fd).st_size
        if size <= _HEAD_BYTES:
            raise errors.UsageError(f"file descriptor {fd} holds no counters")
        memory = memoryview(mmap.mmap(fd, size))
        self._head = memory[:_HEAD_BYTES].cast("Q")
        if self._head[_MAGIC] != regions.MAGIC:
            raise errors.UsageError(f"file descriptor {fd} holds no counters")
        self._regions = [
            regions.Region(memory[at : at + regions.BYTES]) for at in range(_HEAD_BYTES, size, regions.BYTES)
        ]
        self.workers = len(self._regions) - 1
        self._past: counters.Counters | None = None
        self._totals = counters.Counters()
        self._additions: list[_Addition] = []
        self._was_read = False

    @classmethod
    def create(cls, workers: int) -> Memory:
        """New memory with a place for each of `workers`, in a file descriptor that only a child given it inherits."""
        fd = os.memfd_create("windlass-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _HEAD_BYTES + (workers + 1) * regions.BYTES)
        # Nobody can cut it short under a process that has it mapped.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        os.pwrite(fd, regions.MAGIC.to_bytes(8, "little"), 0)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> Memory:
        """The memory that `create` made, in another process."""
        return cls(fd)

    def writer(self, place: int) -> counters.Counters:
        """The counters of the one process that counts at this place."""
        return counters.Counters(self._regions[place])

    def read(self) -> counters.Counters:
        """The totals over the past and every worker, good until the next read.

        What was read last while a fold goes on and on; `Unavailable` if nothing was.
        """
        for _ in range(_ATTEMPTS):
            before = self._head[_SEQUENCE]
            totals, additions = self._totals, self._additions
            if not additions or not all(addition.holds for addition in additions):
                totals = counters.Counters()
                additions = [_Addition(region, totals.declare) for region in self._regions]
            if before % 2 == 0 and all(addition.learn() for addition in additions):
                copies = [addition.copy() for addition in additions]
                if self._head[_SEQUENCE] == before and all(addition.holds for addition in additions):
                    self._totals, self._additions = totals, additions
                    self._add_up(copies)
                    return totals
            if self._was_read:
                return self._totals
        raise errors.Unavailable("the counters are being written", retry_after_s=1)

    def _add_up(self, copies: list[Words]) -> None:
        to = self._totals.region
        np.frombuffer(to.words, np.uint64)[regions.SLOTS_AT : to.words[regions.USED]] = 0
        for addition, words in zip(self._additions, copies, strict=True):
            addition.add(words, to, gauges=True)
        self._was_read = True

    def fold(self, place: int) -> int:
        """The worker at this place has ended: what it counted is past, and what it had in flight has failed.

        Returns the requests that were lost. Only the process that made the memory may call this.
        """
        if self._past is None:
            self._past = self.writer(PAST)
        past, source = self._past, self._regions[place]
        addition = _Addition(source, past.adopt)
        addition.learn()
        requests = [one for one in source.series()[0] if one.kind == "requests"]
        error = past.counter(telemetry.ERRORS, LOST)
        total = 0
        self._head[_SEQUENCE] += 1
        addition.add(addition.copy(), past.region, gauges=False)
        for one in requests:
            lost = counters.Requests(source, one.start).in_flight
            failed = counters.Requests(past.region, past.adopt(one.kind, one.key)).outcomes
            failed[counters.FAILED] += lost
            total += lost
        error[0] += total
        source.clear()
        self._head[_SEQUENCE] += 1
        return total
