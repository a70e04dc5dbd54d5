"""Keeps the loop awake for a moment after an answer, where the next request is likely to follow at once.

A loop that sleeps between the requests of one quick caller pays for falling asleep and waking up each time, on this
side and in the caches, more than the request itself costs. Told by batchers of models that run on the loop. Must never
poll for long, or go on polling for requests that do not come: each moment spent in vain doubles the answers until the
next try (the idea of adaptive busy polling, as in Linux' haltpoll governor).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LINGER_S = 60e-6
_LONGEST_PAUSE = 256


class Poller:
    """One loop's. While it polls, the loop looks for input without sleeping."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self._clock = clock
        self._polling = False
        self._until = 0.0
        # Answers to let pass before the next try, and how many after a try in vain.
        self._skip = 0
        self._pause = 1

    def answered(self) -> None:
        """A lone request was answered. If this came while polling, polling pays: it goes on."""
        if self._polling:
            self._pause = 1
        elif self._skip:
            self._skip -= 1
            return
        else:
            self._polling = True
            self._loop.call_soon(self._turn)
        self._until = self._clock() + LINGER_S

    def _turn(self) -> None:
        if self._clock() < self._until:
            self._loop.call_soon(self._turn)
            return
        self._polling = False
        self._skip = self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
