"""What the connections of one listener share: the door, the models, the counters, the clock, the threads.

Made by the worker for each port and for the control socket. Must never hold anything of a single request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from windlass import errors
from windlass.protocols import base
from windlass.serving.door import door as doors
from windlass.serving.metrics import access_log, counters
from windlass.serving.transport import peers, responses
from windlass.types import spec

SWEEP_S = 0.25
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
AccessLog: TypeAlias = Callable[[access_log.Record], None]


class Listener:
    """Shared by the connections of one port. All of it belongs to the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        door: doors.Door,
        series: counters.Counters,
        executor: concurrent.futures.Executor,
        *,
        clock: Callable[[], float] = time.perf_counter,
        access_log: AccessLog | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        """`allow` are the networks (CIDR) whose peers are answered; none: all."""
        self.loop = loop
        self.door = door
        self.counters = series
        self.limits: spec.ServerLimits = door.limits
        self.clock = clock
        self.access_log = access_log
        self.writer = responses.Writer()
        self.connections = peers.Connections(door.limits, allow)
        self.draining = False
        # gRPC calls that watch something, which costs work while nobody asks.
        self.watches = 0
        self._executor = executor
        self._prefix = secrets.token_hex(6) + "-"
        self._ids = itertools.count()
        self._by_segment: dict[str, base.ServerProtocol] = {}
        for protocol in door.table.protocols:
            for route in protocol.routes():
                self._by_segment.setdefault(route.path.strip("/").partition("/")[0], protocol)
        self._fallback = door.table.protocols[-1]
        self._sweep()

    def new_id(self) -> str:
        """A request id that no other request of this process has."""
        return f"{self._prefix}{next(self._ids):x}"

    def request_id(self, given: bytes | None) -> str:
        """The caller's id if it gave one that is short and plain, else a new one."""
        return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else self.new_id()

    def protocol_of(self, target: bytes) -> base.ServerProtocol:
        """The protocol in whose shape an error is told when no route was found: by the path's first segment."""
        segment = target.decode("latin-1").lstrip("/").partition("/")[0].partition("?")[0]
        return self._by_segment.get(segment, self._fallback)

    def executor_submit(self, work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
        """Run something long off the loop."""
        return self._executor.submit(work)

    def drain(self) -> None:
        """From now on each connection closes after its last answer; idle ones close soon."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.drain()

    def end(self, error: errors.WindlassError) -> None:
        """Answer all that is under way with an error, and close every connection."""
        for connection in tuple(self.connections):
            connection.end(error)

    def _sweep(self) -> None:
        self.loop.call_later(SWEEP_S, self._sweep)
        self.writer.tick(time.time())
        now = self.clock()
        for connection in tuple(self.connections):
            connection.sweep(now)
