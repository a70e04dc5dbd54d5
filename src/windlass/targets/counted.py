"""What the local server counted, kept over its lives: a server that is started again begins at zero.

Used by `local.py`. Each document of outcomes is laid over what was kept of the same life of the server, so that it may
come twice. Must never add a count twice, and never conclude anything from it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from windlass.types import deployment

# Older segments are of rollouts long ended.
_KEPT = 256
_COUNTS = ("admitted", "ok", "rejected", "expired", "cancelled", "failed", "slow")


class Total(msgspec.Struct, frozen=True):
    """All that was counted of a deployment; `generation` is that of the weights in force."""

    generation: int = 0
    bounds: tuple[float, ...] = ()
    segments: tuple[deployment.Segment, ...] = ()
    mirrored: deployment.Mirrored | None = None


class _Kept(msgspec.Struct, frozen=True):
    """A file: the present life of the server, what it counted, and what those before it did.

    The generations of a life are `base` and the server's own, so that they grow from life to life. What single arms
    answered, which nobody drew, has the generation `base` itself, below those of any rollout.
    """

    instance: str = ""
    base: int = 0
    now: Total = Total()
    before: Total = Total()


class Counted:
    """A folder with one file for each deployment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def add(self, name: str, document: Mapping[str, Any]) -> Total:
        """Everything of a deployment, with what the server tells now (the document of its `GET /outcomes`)."""
        path = self._folder / f"{name}.json"
        with self._lock:
            kept = _read(path)
            instance = str(document["instance"])
            if instance != kept.instance:
                before = _over(kept.before, kept.now)
                kept = _Kept(instance, _last(before) + 1, Total(), before)
            now = _laid(kept.now, _told(document, document["endpoints"].get(name, {}), kept.base))
            if now != kept.now:
                kept = msgspec.structs.replace(kept, now=now)
                _write(path, kept)
        return _over(kept.before, kept.now)

    def kept(self, name: str) -> Total:
        """Everything of a deployment that the server has told so far."""
        with self._lock:
            kept = _read(self._folder / f"{name}.json")
        return _over(kept.before, kept.now)

    def forget(self, name: str) -> None:
        """Drop what was kept of a deployment that is no more."""
        with self._lock:
            (self._folder / f"{name}.json").unlink(missing_ok=True)


def _told(document: Mapping[str, Any], endpoint: Mapping[str, Any], base: int) -> Total:
    """What one document says of an endpoint, with this life's generations."""
    counts: dict[int, dict[str, deployment.Counts]] = {}
    shares: dict[int, dict[str, float]] = {}
    for line in endpoint.get("alone", ()):
        counts.setdefault(base, {})[line["arm"]] = _counts(line)
        shares[base] = {}
    for line in endpoint.get("outcomes", ()):
        number = base + line["generation"]
        counts.setdefault(number, {})[line["arm"]] = _counts(line)
        shares.setdefault(number, {})[line["arm"]] = line["share"]
    own = endpoint.get("weights", 0)
    current = base + own
    if own and endpoint.get("shares"):
        # Arms that nobody was sent to yet had their share all the same.
        shares[current] = {**endpoint["shares"]}
        counts.setdefault(current, {})
    return Total(
        generation=current,
        bounds=tuple(document.get("bounds", ())),
        segments=tuple(deployment.Segment(n, shares[n], counts[n]) for n in sorted(counts)),
        mirrored=_mirrored(endpoint.get("shadow", {})),
    )


def _counts(line: Mapping[str, Any]) -> deployment.Counts:
    return deployment.Counts(
        **{field: line[field] for field in _COUNTS},
        latency=tuple(line["latency_s"]["counts"]),
        # Nothing sticks to an arm that is alone.
        first_bad=line.get("first_bad"),
    )


def _mirrored(told: Mapping[str, int]) -> deployment.Mirrored | None:
    if not told:
        return None
    return deployment.Mirrored(
        compared=told.get("compared", 0),
        disagreed=told.get("disagreed", 0),
        failed=told.get("failed", 0),
        dropped=told.get("dropped", 0),
        rows=told.get("scored", 0),
        same=told.get("same_top", 0),
        classed=told.get("classed", 0),
        class_differed=told.get("class_differed", 0),
    )


def _laid(kept: Total, told: Total) -> Total:
    """A newer document over an older one of the same life: what the server told apart no more stays as it was."""
    segments = {segment.generation: segment for segment in kept.segments}
    for segment in told.segments:
        known = segments.get(segment.generation)
        # An arm that nobody was sent to under these weights is in no line of theirs.
        shares = segment.shares if known is None else {**known.shares, **segment.shares}
        counts = segment.counts if known is None else {**known.counts, **segment.counts}
        segments[segment.generation] = deployment.Segment(segment.generation, shares, counts)
    return Total(
        generation=told.generation,
        bounds=told.bounds or kept.bounds,
        segments=tuple(segments[number] for number in sorted(segments))[-_KEPT:],
        mirrored=told.mirrored or kept.mirrored,
    )


def _over(before: Total, now: Total) -> Total:
    """Two lives as one: their generations differ, the counts of mirrors add up."""
    if before.bounds != now.bounds and before.bounds and now.bounds:
        # Another version of the server has other bounds of latencies: its counts are no sequel to these.
        before = Total(mirrored=before.mirrored)
    mirrored = now.mirrored or before.mirrored
    if now.mirrored is not None and before.mirrored is not None:
        pairs = zip(msgspec.structs.astuple(before.mirrored), msgspec.structs.astuple(now.mirrored), strict=True)
        mirrored = deployment.Mirrored(*(a + b for a, b in pairs))
    return Total(
        generation=now.generation or before.generation,
        bounds=now.bounds or before.bounds,
        segments=(*before.segments, *now.segments)[-_KEPT:],
        mirrored=mirrored,
    )


def _last(total: Total) -> int:
    return max(total.generation, *(segment.generation for segment in total.segments), 0)


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return _Kept()


def _write(path: Path, kept: _Kept) -> None:
    """In the place of the old one at once; a crash leaves one of the two."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_bytes(msgspec.json.encode(kept))
    fresh.replace(path)
