"""Callers whose rows make runs fail: how much halving of failed batches they may cause, and who runs alone.

A batch that fails is halved until the bad row is by itself, which costs runs. Each caller pays for what its rows
caused from a budget; whoever spent it shares no run with others for a while. Asked by the batcher. Must never grow
with the number of callers without bound, or hold a failure against anybody forever.
"""

from __future__ import annotations

import msgspec

RUNS_PER_S = 64.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_REMEMBERED = 1_024


class _Record(msgspec.Struct, frozen=True):
    """What is left of a budget at a time, until when its caller runs alone, and for how long the next time."""

    left: float
    at: float
    until: float
    pause_s: float


class Suspects:
    """Token buckets by identity; true while anybody is remembered. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def charge(self, identity: str, runs: int, now: float) -> None:
        """A row of this caller's made a batch fail, which cost so many runs."""
        record = self._records.pop(identity, None) or _Record(RUNS_PER_S, now, 0.0, _FIRST_PAUSE_S)
        left = min(RUNS_PER_S, record.left + (now - record.at) * RUNS_PER_S) - runs
        until, pause_s = record.until, record.pause_s
        if left < 0.0 and until <= now:
            until, pause_s, left = now + pause_s, min(2.0 * pause_s, _LONGEST_PAUSE_S), RUNS_PER_S
        if len(self._records) >= _REMEMBERED:
            # The one that was charged longest ago.
            del self._records[next(iter(self._records))]
        self._records[identity] = _Record(left, now, until, pause_s)

    def alone(self, identity: str, now: float) -> bool:
        """Whether this caller's requests run by themselves. Forgets it when it gave no cause for long enough."""
        record = self._records.get(identity)
        if record is None:
            return False
        if record.until > now:
            return True
        if now - max(record.at, record.until) > record.pause_s:
            del self._records[identity]
        return False
