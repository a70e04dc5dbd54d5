"""The access log: a line of JSON for each answer, written by a thread of its own.

Called by whoever answers a request, with a record. Must never block the loop, tell a secret (a query may hold one, so
it is cut), or let what a caller sent start a line or steer a terminal: whatever is not plain ASCII is escaped.
"""

from __future__ import annotations

import collections
import datetime as dt
import json
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import telemetry
from windlass.serving import counters

# Of lines that wait to be written, at most about so much is kept; more are dropped and counted.
MAX_BYTES = 4_194_304
# Lines of several workers stay whole in a pipe when no write is longer than this.
_PIPE_BYTES = 4_096
_PATH = 512
_WORD = 128
_GATHER_S = 0.01
_CLOSE_S = 1.0
# https://www.w3.org/TR/trace-context-1/#traceparent-header: `ff` is no version, all zeros are no id, and only a later
# version may say more.
_TRACE = re.compile(rb"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL)


class Record(msgspec.Struct, frozen=True):
    """One answered request. `method` and `target` are as they came; `seconds` from the last byte to the answer.

    `model`, `version`, `arm` and `protocol` are empty where none was found; `traceparent` is the header, or empty.
    """

    method: bytes
    target: bytes
    status: int
    bytes_in: int
    bytes_out: int
    seconds: float
    peer: str
    caller: str
    request_id: str
    model: str = ""
    version: str = ""
    arm: str = ""
    protocol: str = ""
    grpc_status: int | None = None
    traceparent: bytes = b""


class Log:
    """Writes records to a file descriptor that others may share. Call it on the loop's thread."""

    def __init__(self, fd: int, series: counters.Counters, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the time of day, in seconds since 1970 UTC."""
        self._fd = fd
        self._clock = clock
        self._records: collections.deque[tuple[float, Record]] = collections.deque()
        # Each has one writer: the loop's thread, and the log's.
        self._given = self._taken = 0
        self._full = series.counter(telemetry.LOG_DROPPED, "full")
        self._failed = series.counter(telemetry.LOG_DROPPED, "failed")
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        """Have a record written soon; it is dropped when too many wait."""
        size = _size(record)
        if self._given - self._taken + size > MAX_BYTES:
            self._full[0] += 1
            return
        self._given += size
        self._records.append((self._clock(), record))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what waits, for at most a second."""
        self._ending.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not (self._ending.is_set() and not self._records):
            self._wake.wait()
            # A burst is one write; and the loop need not wake this thread for each line.
            self._ending.wait(_GATHER_S)
            self._wake.clear()
            self._drain()

    def _drain(self) -> None:
        lines = 0
        chunk = b""
        while self._records:
            at, record = self._records.popleft()
            text = line(at, record)
            if chunk and len(chunk) + len(text) > _PIPE_BYTES:
                self._write(chunk, lines)
                chunk, lines = b"", 0
            chunk += text
            lines += 1
            self._taken += _size(record)
        if chunk:
            self._write(chunk, lines)

    def _write(self, chunk: bytes, lines: int) -> None:
        while chunk:
            try:
                chunk = chunk[os.write(self._fd, chunk) :]
            except BlockingIOError:
                if self._ending.wait(_GATHER_S):
                    self._failed[0] += lines
                    return
            except OSError:
                # Nobody reads it, or the disk is full: what answers requests goes on.
                self._failed[0] += lines
                return


def line(at: float, record: Record) -> bytes:
    """A record as a line of JSON: plain ASCII, without the target's query."""
    fields: dict[str, Any] = {
        "time": dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds"),
        "method": record.method.decode("latin-1")[:_WORD],
        "path": _path(record.target),
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "ms": round(record.seconds * 1e3, 3),
        "peer": record.peer[:_WORD],
        "caller": record.caller[:_WORD],
        "request_id": record.request_id[:_WORD],
    }
    for name in ("model", "version", "arm", "protocol"):
        value = getattr(record, name)
        if value:
            fields[name] = value[:_WORD]
    if record.grpc_status is not None:
        fields["grpc_status"] = record.grpc_status
    trace = trace_id(record.traceparent)
    if trace:
        fields["trace_id"] = trace
    text = msgspec.json.encode(fields)
    if not text.isascii() or b"\x7f" in text:
        text = json.dumps(fields, separators=(",", ":")).encode().replace(b"\x7f", b"\\u007f")
    return text + b"\n"


def trace_id(traceparent: bytes) -> str:
    """The trace id of a W3C `traceparent` header, 32 hexadecimal digits; empty if the header is not valid."""
    found = _TRACE.fullmatch(traceparent) if len(traceparent) <= _PATH else None
    if found is None or (found[2] and traceparent.startswith(b"00")):
        return ""
    return found[1].decode()


def _path(target: bytes) -> str:
    """The path alone: neither a query nor the user of an absolute target is anybody's to read."""
    if not target.startswith(b"/"):
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2] if b"://" in target else target
    return target.partition(b"?")[0].partition(b"#")[0][:_PATH].decode("latin-1")


def _size(record: Record) -> int:
    """About what a record holds in memory, in bytes."""
    return 512 + len(record.target) + len(record.traceparent)
