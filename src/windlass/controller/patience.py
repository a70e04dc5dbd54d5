"""When to try again what failed: ever later, and not all at the same moment.

Used by the loop and by deliveries. Must never look at a clock: it is told the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable


def pause(failures: int, *, first_s: float, longest_s: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next try after so many failures in a row: doubled each time, between half of it and all."""
    # 2**64 is beyond any bound, and no float overflows on the way there.
    whole = min(longest_s, first_s * 2.0 ** min(max(0, failures - 1), 64))
    return whole * (0.5 + 0.5 * draw())


class Patience:
    """What failed, by name, and from when on it may be tried again."""

    def __init__(
        self, *, first_s: float = 1.0, longest_s: float = 60.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._failed: dict[str, tuple[int, float]] = {}

    def failed(self, name: str, now: float) -> float:
        """Note a failure; the seconds until it may be tried again."""
        failures = self._failed.get(name, (0, 0.0))[0] + 1
        wait = pause(failures, first_s=self._first_s, longest_s=self._longest_s, draw=self._draw)
        self._failed[name] = (failures, now + wait)
        return wait

    def worked(self, name: str) -> None:
        """Forget its failures."""
        self._failed.pop(name, None)

    def due(self, name: str, now: float) -> bool:
        """Whether it may be tried now. A clock that was set back makes nobody wait longer than the longest pause."""
        at = self._failed.get(name, (0, 0.0))[1]
        return at <= now or at - now > self._longest_s
