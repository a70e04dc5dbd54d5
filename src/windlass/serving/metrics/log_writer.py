"""Lines on their way to a file descriptor: a thread writes them, and what waits is bounded.

Used by the access log, and as a handler of `logging`, so that a log that is read slowly, or not at all, stops nobody.
Must never block whoever has a line to write; what finds no room is dropped and counted.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from windlass import telemetry
from windlass.serving.metrics import counters

# Of lines that wait to be written, about so much is kept.
MAX_BYTES = 4_194_304
# Lines of several processes stay whole in a pipe when no write is longer than this.
_PIPE_BYTES = 4_096
_GATHER_S = 0.01
_CLOSE_S = 1.0


class Writer:
    """Writes to a file descriptor that others may share."""

    def __init__(self, fd: int, series: counters.Counters) -> None:
        """Lines lost are counted in `series`."""
        self._fd = fd
        self._waiting: collections.deque[tuple[Callable[[Any], bytes], Any, int]] = collections.deque()
        # Guards what is counted, and is never held while writing.
        self._lock = threading.Lock()
        self._held = 0
        self._full = series.counter(telemetry.LOG_DROPPED, "full")
        self._failed = series.counter(telemetry.LOG_DROPPED, "failed")
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, render: Callable[[Any], bytes], item: Any, size: int) -> None:
        """Have `render(item)`, a line, written soon; about `size` bytes are held for it until then."""
        with self._lock:
            if self._held + size > MAX_BYTES:
                self._full[0] += 1
                return
            self._held += size
        self._waiting.append((render, item, size))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what waits, for at most a second."""
        self._ending.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not (self._ending.is_set() and not self._waiting):
            self._wake.wait()
            # A burst is one write; and whoever writes need not wake this thread for each line.
            self._ending.wait(_GATHER_S)
            self._wake.clear()
            self._drain()

    def _drain(self) -> None:
        chunk, lines = b"", 0
        while self._waiting:
            render, item, size = self._waiting.popleft()
            try:
                text = render(item)
            except Exception:  # noqa: BLE001 - one line that cannot be told must not silence the others
                text = b""
                with self._lock:
                    self._failed[0] += 1
            if chunk and len(chunk) + len(text) > _PIPE_BYTES:
                self._write(chunk, lines)
                chunk, lines = b"", 0
            chunk += text
            lines += 1
            with self._lock:
                self._held -= size
        if chunk:
            self._write(chunk, lines)

    def _write(self, chunk: bytes, lines: int) -> None:
        try:
            while chunk:
                try:
                    chunk = chunk[os.write(self._fd, chunk) :]
                except BlockingIOError:
                    if self._ending.wait(_GATHER_S):
                        raise
        except OSError:
            # Nobody reads it, or the disk is full: what answers requests goes on.
            with self._lock:
                self._failed[0] += lines


class Handler(logging.Handler):
    """Log records by way of a writer of their own."""

    def __init__(self, fd: int, series: counters.Counters) -> None:
        super().__init__()
        self._writer = Writer(fd, series)

    def emit(self, record: logging.LogRecord) -> None:
        """logging's side: a record that cannot be told is passed over, as logging does."""
        try:
            text = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - logging's own rule: a bad log call must not end what it tells of
            self.handleError(record)
            return
        self._writer.put(bytes, text, len(text))

    def close(self) -> None:
        """logging's side: write what waits."""
        self._writer.close()
        super().close()
