"""A connection of the load generator that asks over HTTP/1.1, one request at a time.

Opened by `generator`, which it hands every outcome. Must never ask before the last answer has come.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from windlass.client import account

_KEPT = 512


class Owner(Protocol):
    """Whom a connection works for."""

    def opened(self, connection: Connection) -> None:
        """It may be asked with."""

    def ended(self, connection: Connection, intended: float, outcome: int, status: int) -> None:
        """The request that was to start at `intended` ended; a `status` below 0 is no answer."""

    def again(self, data: bytes, intended: float) -> None:
        """The server says that it never began with this request: another connection is to ask."""

    def observed(self, body: bytes, timing: bytes) -> None:
        """An answer's first bytes, and its server-timing."""

    def closed(self, connection: Connection) -> None:
        """It is gone; what was under way on it has ended."""


class Connection(Protocol):
    """What a generator asks with. `room` is how many more requests it takes now."""

    room: int

    def ask(self, data: bytes, intended: float) -> None:
        """Send a request that was to start at `intended`."""

    def expire(self, before: float) -> None:
        """Give up what was to start before this time."""

    def close(self) -> None:
        """Close it; nothing is under way."""


class Http1(asyncio.Protocol):
    """One connection."""

    def __init__(self, owner: Owner) -> None:
        self.room = 0
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._intended = 0.0
        self._waiting = False
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self.room = 1
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Closed by either side."""
        self.room = 0
        self._transport = None
        self._end(account.BROKEN)
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._abort()

    def on_body(self, body: bytes) -> None:
        """llhttp's; the first bytes say what a refusal means."""
        if len(self._body) < _KEPT:
            self._body += body

    def on_message_complete(self) -> None:
        """llhttp's; the answer is complete."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._waiting:
            # An answer that nobody asked for, such as a 408 on an idle connection.
            self._abort()
            return
        outcome = account.http_outcome(status, self._body)
        self._waiting, self._body = False, b""
        if self._parser.should_keep_alive():
            self.room = 1
        elif self._transport is not None:
            self._transport.close()
        self._owner.ended(self, self._intended, outcome, status)

    def ask(self, data: bytes, intended: float) -> None:
        """Send a whole request."""
        self.room = 0
        self._intended = intended
        self._waiting = True
        if self._transport is not None:
            self._transport.write(data)

    def expire(self, before: float) -> None:
        """Give up a request that waits for too long, and the connection with it: its answer may yet come."""
        if self._waiting and self._intended < before:
            self._end(account.EXPIRED)
            self._abort()

    def close(self) -> None:
        """Close it."""
        self.room = 0
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        self.room = 0
        if self._transport is not None:
            self._transport.abort()

    def _end(self, outcome: int) -> None:
        if self._waiting:
            self._waiting = False
            self._owner.ended(self, self._intended, outcome, -1)


class ObservedHttp1(Http1):
    """One that reads the version of each answer, and the batch that it shared."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._timing = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp's."""
        if name.lower() == b"server-timing":
            self._timing = value

    def on_message_complete(self) -> None:
        """llhttp's."""
        if self._waiting and self._parser.get_status_code() < 300:
            self._owner.observed(self._body, self._timing)
        self._timing = b""
        super().on_message_complete()
