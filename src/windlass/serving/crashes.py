"""Judges the deaths of workers: how long to wait before the next start, and whether a spec's models are to blame.

Asked by the fleet at each death. A spec that kills workers again and again soon after it came into force is bad: the
one before it, which did not, is put back. Must never blame a spec that has proved itself, nor one that has no better.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# So many more deaths than workers within the window, while a spec is on trial, are a loop.
WINDOW_S = 10.0
TRIAL_S = 120.0
_FEWEST = 3
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_FORGET_S = 30.0


class Judge:
    """The deaths of one fleet."""

    def __init__(self, workers: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`workers` may all die at once for a reason outside without their spec being blamed."""
        self._most = max(_FEWEST, workers + 1)
        self._clock = clock
        self._deaths: list[float] = []
        self._since = clock()
        # Those while the spec in force was.
        self._own: list[float] = []

    def in_force(self) -> None:
        """Another spec came into force: it is on trial, and none of the deaths so far is its own."""
        self._since = self._clock()
        self._own = []

    def died(self) -> float:
        """A worker died; the seconds to wait before its place is filled again."""
        now = self._clock()
        self._deaths = [at for at in self._deaths if now - at < _FORGET_S]
        before = len(self._deaths)
        self._deaths.append(now)
        self._own = [*(at for at in self._own if now - at < WINDOW_S), now]
        return 0.0 if before == 0 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(before - 1, 16))

    @property
    def on_trial(self) -> bool:
        """Whether the spec in force has not proved itself yet."""
        return self._clock() - self._since < TRIAL_S

    @property
    def looping(self) -> bool:
        """Whether the spec in force is to blame."""
        return self.on_trial and len(self._own) >= self._most
