"""Temporary folders that are gone afterwards, also when Ctrl-C comes while they are made or removed.

Used by probation and by sandboxed capture for what their child reads and writes. Must never leave a folder behind that
the process lived long enough to remove.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A fresh folder that only this user can enter, removed with all that is in it."""
    with _uninterrupted():
        path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        with _uninterrupted():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put an interrupt off until the end of the block. Python handles signals in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])
