"""How many requests each key has made today (UTC), kept in a file so that a restart does not begin again.

Held by the supervisor's lessor. Must never write more than once a second, nor leave half a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from windlass import errors
from windlass.types import strict_json

FILE = "quotas.json"
DAY_S = 86_400
_SAVE_EVERY_S = 1.0


class Day(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One day's counts by key. `number` is the day since the epoch, UTC."""

    number: int
    used: dict[str, int]


class Counts:
    """The counts of the current day. `folder` empty: they are not kept. `wall` gives seconds since the epoch."""

    def __init__(self, folder: str, wall: Callable[[], float]) -> None:
        """`UsageError` if the file is there and cannot be understood: counting from nothing would lift the limits."""
        self._path = Path(folder) / FILE if folder else None
        self._wall = wall
        self._saved_at = 0.0
        self._changed = False
        kept = self._load()
        self._number = int(wall()) // DAY_S
        self._used = dict(kept.used) if kept is not None and kept.number == self._number else {}

    def used(self, key: str) -> int:
        """Requests of a key so far today."""
        return self._used.get(key, 0)

    def spend(self, key: str, count: int) -> None:
        """So many more."""
        self._used[key] = self._used.get(key, 0) + count
        self._changed = True

    def turn(self) -> bool:
        """Whether a new day began since this was last asked; then all counts are 0."""
        number = int(self._wall()) // DAY_S
        if number == self._number:
            return False
        self._number, self._used, self._changed = number, {}, True
        return True

    def save(self, *, last: bool = False) -> None:
        """Write what changed, at most once a second; `last`: whatever the time."""
        now = self._wall()
        if self._path is None or not self._changed or (not last and 0 <= now - self._saved_at < _SAVE_EVERY_S):
            return
        self._saved_at = now
        self._changed = False
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(strict_json.canonical(Day(self._number, self._used)))
        fresh.replace(self._path)

    def _load(self) -> Day | None:
        if self._path is None:
            return None
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return strict_json.decode(data, Day, what=FILE)
        except errors.InvalidInput as e:
            raise errors.UsageError(
                f"the counts of the keys' daily quotas cannot be read: {e.message}.",
                hint=f"Restore {self._path}, or remove it to count from nothing.",
            ) from None
