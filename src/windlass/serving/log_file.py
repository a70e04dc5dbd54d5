"""The log of a server that nobody watches: a file that several processes append to, cut when it is long.

Used by the supervisor of a detached server. Must never keep more than the file and the one before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

log = logging.getLogger("windlass")
MOST_BYTES = 16 * 1024 * 1024
_PERIOD_S = 1.0
_PIECE = 1024 * 1024


def keep_short(loop: asyncio.AbstractEventLoop, path: Path) -> None:
    """Look at the file once a second, as long as the loop runs."""
    rotate(path)
    loop.call_later(_PERIOD_S, keep_short, loop, path)


def rotate(path: Path, most_bytes: int = MOST_BYTES) -> bool:
    """Move what a file holds to `PATH.1` if it is too long. Whoever appends to it goes on in the same file.

    A line that is appended between the last read and the cut, some microseconds, is lost.
    """
    try:
        if path.stat().st_size <= most_bytes:
            return False
        before = os.open(f"{path}.1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with path.open("rb") as full, os.fdopen(before, "wb", buffering=0) as copy:
            while piece := full.read(_PIECE):
                copy.write(piece)
            os.truncate(path, 0)
    except OSError as e:
        log.warning("the log %s cannot be cut: %s", path, e.strerror)
        return False
    return True
