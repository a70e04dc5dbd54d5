"""Takes connections from a listening socket that several workers share, each as many as the others.

One for each worker. Alone it leaves accepting to the loop, which is quickest; beside others it takes a connection only
while it has about as few as any of them, and lets a moment pass otherwise, so that another can. Must never leave a
connection waiting because others are slow: after that moment it takes what is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from windlass.serving.metrics import board as boards
from windlass.serving.transport import arrival, listener, peers

log = logging.getLogger(__name__)
_MOMENT_S = 0.001
_AT_ONCE = 16
_BACKLOG = 1_024
# A handshake that is under way when the server stops has this long.
_HANDSHAKE_S = 1.0
# Out of descriptors: how long to wait for a connection to end.
_SHORT_S = 0.1


class Acceptor:
    """One worker's part in a shared socket."""

    def __init__(
        self,
        shared: listener.Listener,
        sock: socket.socket,
        factory: Callable[[], arrival.Arrival],
        board: boards.Board,
        place: int,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`tls` gives the context for a connection that begins now."""
        self._loop = shared.loop
        self._shared = shared
        self._sock = sock
        self._factory = factory
        self._board = board
        self._place = place
        self._tls = tls
        self._server: asyncio.AbstractServer | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        """Connections that this worker has, those in their TLS handshake included."""
        return len(self._shared.connections)

    async def open(self, *, alone: bool) -> None:
        """Accept from now on; if it was alone and is no more, as one of several."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if alone and self._tls is None:
            self._server = await self._loop.create_server(self._factory, sock=self._sock.dup(), backlog=_BACKLOG)
        else:
            self._loop.add_reader(self._sock.fileno(), self._ready)

    async def drain(self) -> None:
        """Take all that wait already, then accept no more."""
        if self._server is not None:
            self._server.close()
        while self._take():
            pass
        self._loop.remove_reader(self._sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()
        if self._opening:
            _, late = await asyncio.wait(self._opening, timeout=_HANDSHAKE_S)
            for task in late:
                task.cancel()

    def _ready(self) -> None:
        mine = self.count
        self._board.beat(self._place, mine)
        fewest = self._board.fewest(self._place)
        if fewest is not None and mine > fewest + 1 + (mine >> 3):
            self._rest(_MOMENT_S)
            return
        room = _AT_ONCE if fewest is None else min(_AT_ONCE, fewest + 2 + (mine >> 3) - mine)
        for _ in range(room):
            if not self._take():
                break
        self._board.beat(self._place, self.count)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._ready)
        self._take()

    def _take(self) -> bool:
        try:
            accepted, address = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as e:
            # Out of descriptors, most likely: those that wait go on waiting until a connection ends.
            log.warning("cannot accept a connection: %s", e.strerror)
            self._rest(_SHORT_S)
            return False
        arriving = self._factory()
        if not arriving.take_place(peers.peer_of(address)):
            accepted.close()
            return True
        accepted.setblocking(False)  # noqa: FBT003 - the library's signature
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._tls() if self._tls is not None else None
        task = self._loop.create_task(self._connect(arriving, accepted, tls))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _connect(self, arriving: arrival.Arrival, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        timeout = self._shared.limits.header_timeout_s if tls is not None else None
        try:
            await self._loop.connect_accepted_socket(lambda: arriving, accepted, ssl=tls, ssl_handshake_timeout=timeout)
        except (OSError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
            # A peer that left, or whose handshake failed or took too long.
            self._shared.connections.discard(arriving)
            accepted.close()
