"""A timer for an event loop that is exact to some tens of microseconds; the loop's own are exact to a millisecond.

Used by the open-loop load generator. Must never be shared between loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Spec(ctypes.Structure):
    """`struct itimerspec`: an interval (never used here) and a first time."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Timer:
    """Calls `due()` at the time last given to `at`; a kernel timer (timerfd) that the loop watches."""

    __slots__ = ("_file", "_loop", "_pointer", "_spec")

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._file = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._spec = _Spec()
        self._pointer = ctypes.byref(self._spec)
        self._loop = loop
        loop.add_reader(self._file, self._fired, due)

    def at(self, when: float) -> None:
        """Fire at this time of CLOCK_MONOTONIC (`time.perf_counter`), in seconds; at once if it has passed."""
        whole = int(when)
        self._spec.at_s, self._spec.at_ns = whole, int((when - whole) * 1e9)
        _LIBC.timerfd_settime(self._file, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        """Never fire again."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _fired(self, due: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
        due()
