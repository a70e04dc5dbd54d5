"""A load generator: connections that each ask again as soon as they are answered, and an account of every answer.

Used by the demo and by tests that move versions under load. Must never count a request twice or lose one: what was
sent is answered, failed or broken off.
"""

from __future__ import annotations

import asyncio
import collections
import re
import threading
import time
import urllib.parse

import httptools
import msgspec
import uvloop

_VERSION = re.compile(rb'"(?:model_)?version":\s*"([^"]{0,32})"')
_BATCH = re.compile(rb"batch;desc=(\d+)")
_MAX_KEPT = 200_000
_AGAIN_S = 0.05


class Report(msgspec.Struct):
    """What came of a load. `seconds` holds the latencies of answered requests, up to 200,000 of them."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    broken: int = 0
    duration_s: float = 0.0
    seconds: list[float] = []
    versions: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    batches: collections.Counter[int] = msgspec.field(default_factory=collections.Counter)
    statuses: collections.Counter[int] = msgspec.field(default_factory=collections.Counter)

    def quantile(self, q: float) -> float:
        """The latency in seconds below which a share `q` of the answers lie; NaN without answers."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")

    @property
    def mean_batch(self) -> float:
        """Mean rows of the run that an answer shared; 0 when the server did not say."""
        total = sum(self.batches.values())
        return sum(rows * count for rows, count in self.batches.items()) / total if total else 0.0


class _Asker(asyncio.Protocol):
    def __init__(self, load: Load, done: asyncio.Future[None]) -> None:
        self._load = load
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._started = 0.0
        self._waiting = False
        self._body = b""
        self._batch = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._waiting:
            self._load.report.broken += 1
        if not self._done.done():
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"server-timing":
            self._batch = value

    def on_body(self, body: bytes) -> None:
        if len(self._body) < 512:
            self._body += body

    def on_message_complete(self) -> None:
        report = self._load.report
        status = self._parser.get_status_code()
        report.statuses[status] += 1
        self._waiting = False
        if 200 <= status < 300:
            report.answered += 1
            if len(report.seconds) < _MAX_KEPT:
                report.seconds.append(time.perf_counter() - self._started)
            version = _VERSION.search(self._body)
            if version is not None:
                report.versions[version[1].decode()] += 1
            batch = _BATCH.search(self._batch)
            if batch is not None:
                report.batches[int(batch[1])] += 1
        else:
            report.failed += 1
        if self._transport is None:
            return
        if self._load.over():
            self._transport.close()
        elif not self._parser.should_keep_alive():
            self._transport.close()
            self._load.reconnect()
        else:
            self._ask()

    def _ask(self) -> None:
        if self._transport is None:
            return
        self._body = self._batch = b""
        self._waiting = True
        self._load.report.sent += 1
        self._started = time.perf_counter()
        self._transport.write(self._load.request)


class Load:
    """A closed loop of `connections` on one URL, in a thread with a loop of its own, until `stop` or `seconds`."""

    def __init__(
        self,
        url: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        connections: int = 16,
        seconds: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        lines = {
            "host": parts.netloc,
            "content-type": content_type,
            "content-length": str(len(body)),
            "x-server-timing": "1",
            **(headers or {}),
        }
        head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        self.request = head.encode() + body
        self.report = Report()
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._connections = connections
        self._seconds = seconds
        self._stop = threading.Event()
        self._until = float("inf")
        self._missing = 0
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="load", daemon=True)

    def start(self) -> Load:
        """Begin to ask."""
        self._thread.start()
        return self

    def stop(self) -> Report:
        """Let each connection have its last answer, and give the account."""
        self._stop.set()
        self._thread.join()
        return self.report

    def wait(self) -> Report:
        """Until `seconds` are over; the account."""
        self._thread.join()
        return self.report

    def over(self) -> bool:
        """Whether no more is to be asked."""
        return self._stop.is_set() or time.perf_counter() >= self._until

    def reconnect(self) -> None:
        """The server closed a connection in good order: another takes its place."""
        self._missing += 1

    async def _run(self) -> None:
        started = time.perf_counter()
        if self._seconds:
            self._until = started + self._seconds
        loop = asyncio.get_running_loop()
        self._missing = self._connections
        pending: set[asyncio.Future[None]] = set()
        while self._missing or pending:
            while self._missing and not self.over():
                self._missing -= 1
                done: asyncio.Future[None] = loop.create_future()
                try:
                    await loop.create_connection(lambda d=done: _Asker(self, d), self._host, self._port)  # type: ignore[misc]
                    pending.add(done)
                except OSError:
                    # Nobody listens at this moment; nothing was sent.
                    self._missing += 1
                    await asyncio.sleep(_AGAIN_S)
            if self.over():
                self._missing = 0
            if pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        self.report.duration_s = time.perf_counter() - started
