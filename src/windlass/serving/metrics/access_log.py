"""The access log: a line of JSON for each answer.

Called by whoever answers a request, with a record. Must never block the loop, tell a secret (a query may hold one, so
it is cut), or let what a caller sent start a line or steer a terminal: whatever is not plain ASCII is escaped.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from windlass.serving.metrics import counters, log_writer

_PATH = 512
_WORD = 128
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
    """Has records written to a file descriptor that others may share."""

    def __init__(self, fd: int, series: counters.Counters, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the time of day, in seconds since 1970 UTC; lines lost are counted in `series`."""
        self._writer = log_writer.Writer(fd, series)
        self._clock = clock

    def __call__(self, record: Record) -> None:
        """Have a record written soon; it is dropped when too many wait."""
        # About what it holds in memory.
        size = 512 + len(record.target) + len(record.traceparent)
        self._writer.put(_render, (self._clock(), record), size)

    def close(self) -> None:
        """Write what waits, for at most a second."""
        self._writer.close()


def _render(item: tuple[float, Record]) -> bytes:
    return line(*item)


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
