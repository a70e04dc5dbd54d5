"""A new connection, until its first bytes say what it speaks: HTTP/2 by its preface or by ALPN, else HTTP/1.1.

Made by the loop for each connection of a listener, plain, TLS or unix; hands it over with `set_protocol`, and is then
out of the way. Must never read what is not for it: every byte that it was given goes to the protocol that follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from windlass import errors
from windlass.serving.transport import http1, http2, listener, peers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ALPN_HTTP2 = "h2"
# While the server drains, a connection that was silent for this long is closed.
_DRAIN_IDLE_S = 1.0


class Arrival(asyncio.Protocol):
    """A peer of whom nothing is known but its address (`peer`)."""

    __slots__ = ("_chosen", "_context", "_first", "_since", "_transport", "peer")

    def __init__(self, context: listener.Listener) -> None:
        self.peer = ""
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._first = b""
        self._since = 0.0
        self._chosen: Callable[[listener.Listener], asyncio.Protocol] | None = None

    def take_place(self, peer: str) -> bool:
        """Count as a connection of this peer, if it may have one more; else that is counted.

        Asked before a TLS handshake, which is work, and takes as long as the peer likes.
        """
        context = self._context
        self.peer = peer
        reason = "draining" if context.draining else context.connections.refusal(peer)
        if reason:
            context.counters.count_rejected(reason)
            return False
        context.connections.add(self)
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless its peer may not have one: then it is closed."""
        context = self._context
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass
        self._since = context.clock()
        if self not in context.connections and not self.take_place(peers.peer_of(transport.get_extra_info("peername"))):
            transport.abort()  # type: ignore[attr-defined]
            return
        tls = transport.get_extra_info("ssl_object")
        agreed = tls.selected_alpn_protocol() if tls is not None else None
        if agreed is not None:
            self._chosen = http2.Connection if agreed == ALPN_HTTP2 else http1.Connection

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It left without a word."""
        self._context.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Hand over as soon as it is known to whom."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        first = self._first + data if self._first else data
        chosen = self._chosen
        if chosen is None:
            if len(first) < len(PREFACE) and PREFACE.startswith(first):
                self._first = first
                return
            chosen = http2.Connection if first.startswith(PREFACE) else http1.Connection
        context = self._context
        connection = chosen(context)
        transport.set_protocol(connection)
        context.connections.discard(self)
        self._transport = None
        connection.connection_made(transport)
        connection.data_received(first)

    def eof_received(self) -> bool:
        """The peer left."""
        return False

    def sweep(self, now: float) -> None:
        """Close who does not say in time what it wants."""
        most = _DRAIN_IDLE_S if self._context.draining else self._context.limits.header_timeout_s
        if now - self._since > most:
            self._close()

    def drain(self) -> None:
        """Nothing is under way, but the first bytes may be: the sweep closes it soon."""

    def end(self, error: errors.WindlassError) -> None:  # noqa: ARG002 - nothing was asked
        """Close."""
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
