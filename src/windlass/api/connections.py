"""HTTP/1.1 as uvicorn speaks it, with an end to requests whose head does not come: uvicorn waits for it forever.

Given to uvicorn by `cli/up.py`. Must never end a connection on which a request is being answered.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http import h11_impl

HEAD_S = 10.0


class Http(h11_impl.H11Protocol):
    """Ends a connection on which no head is whole within `HEAD_S` of its beginning, or of a later head's first byte.

    Between two requests on one connection uvicorn's own time for that runs.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time for the first head begins."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._heard()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """As uvicorn does it; then the head is whole, or has begun, or nothing of it has come."""
        super().handle_events()
        begun, _ = self.conn.trailing_data
        if self.conn.their_state is not h11.IDLE:
            self._heard()
        elif begun:
            self._wait()

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def _heard(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
