"""What a shadow answered otherwise, kept to be looked at: the largest differences, and a fair sample of all.

Written by `shadow.py` on its own thread, to one file a process. Must never grow: both parts have a fixed number of
places, and what is too large is kept without its tensors.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from windlass.types import tensor, tensor_codec

WORST = 64
SAMPLED = 64
RECORD_BYTES = 256 * 1024
_FILES = 16
_FOLDER = "shadow"


class Disagreement(msgspec.Struct, frozen=True):
    """One request and both answers to it. `inputs`, `answer` and `mirrored` are tensor files, empty if too large.

    `time` is in seconds since the epoch, `difference` the largest between two elements, `arm` whose answer was sent.
    """

    request: str
    arm: str
    shadow: str
    difference: float
    time: float = 0.0
    inputs: bytes = b""
    answer: bytes = b""
    mirrored: bytes = b""


class Store:
    """The disagreements of one process with one shadow; kept in memory only if `state` is empty."""

    def __init__(
        self,
        state: str,
        endpoint: str,
        *,
        draw: Callable[[int], int] = random.randrange,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = Path(state) / _FOLDER / endpoint if state else None
        self._draw = draw
        self._clock = clock
        self._worst: list[tuple[float, int, bytes]] = []
        self._sample: list[tuple[int, bytes]] = []
        self._seen = 0
        self._changed = False

    def add(
        self, about: Disagreement, inputs: tensor.Tensors, answer: tensor.Tensors, mirrored: tensor.Tensors
    ) -> None:
        """Stamp and take one, if it is among the largest or drawn for the sample (Vitter's algorithm R)."""
        self._seen += 1
        worst = len(self._worst) < WORST or about.difference > self._worst[0][0]
        place = len(self._sample) if len(self._sample) < SAMPLED else self._draw(self._seen)
        if not worst and place >= SAMPLED:
            return
        if sum(a.nbytes for part in (inputs, answer, mirrored) for a in part.values()) <= RECORD_BYTES:
            about = msgspec.structs.replace(
                about,
                inputs=tensor_codec.pack(inputs),
                answer=tensor_codec.pack(answer),
                mirrored=tensor_codec.pack(mirrored),
            )
        line = msgspec.json.encode(msgspec.structs.replace(about, time=self._clock()))
        if worst:
            (heapq.heappush if len(self._worst) < WORST else heapq.heapreplace)(
                self._worst, (about.difference, self._seen, line)
            )
        if place < SAMPLED:
            self._sample[place : place + 1] = [(self._seen, line)]
        self._changed = True

    def write(self) -> None:
        """Replace the file, whole or not at all, if anything changed."""
        if self._folder is None or not self._changed:
            return
        self._changed = False
        kept = {number: line for _, number, line in self._worst} | dict(self._sample)
        path = self._folder / f"{os.getpid()}.jsonl"
        partial = path.with_suffix(".partial")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.touch(mode=0o600)
        partial.write_bytes(b"".join(line + b"\n" for _, line in sorted(kept.items())))
        partial.replace(path)
        for old in sorted(self._folder.glob("*.jsonl"), key=_age)[_FILES:]:
            old.unlink(missing_ok=True)


def _age(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return -path.stat().st_mtime
    return 0.0


def read(folder: Path, endpoint: str) -> list[Disagreement]:
    """All that is kept for an endpoint, the largest difference first; `folder` is the spec's `state`.

    `tensor_codec.unpack` gives the tensors. A broken line is passed over.
    """
    found: list[Disagreement] = []
    decode = msgspec.json.Decoder(Disagreement).decode
    for path in (folder / _FOLDER / endpoint).glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    found.append(decode(line))
    return sorted(found, key=lambda one: -one.difference)
