"""The load generator itself: one event loop that asks as its plan says and gives every request its one outcome.

Run by `load` in a thread or a process of its own. Must never wait for an answer before it asks, in an open loop: a
latency counts from the moment at which the request was to start (no coordinated omission; Tene, "How NOT to measure
latency", 2013).
"""

from __future__ import annotations

import asyncio
import collections
import ssl
import time
from collections.abc import Callable, Iterator

from windlass.client import account, grpc_connection, http_connection, plan, report, timer

_SWEEP_S = 0.05
_AGAIN_S = 0.05
_OPENING_AT_ONCE = 64
_OPEN_S = 1.0
_CLOSE_S = 0.002


class Generator:
    """One run of a plan. A closed loop; `OpenLoop` is the other."""

    def __init__(
        self, planned: plan.Plan, over: Callable[[], bool], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`over` is asked now and then whether to stop before the plan's end."""
        self._plan = planned
        self._stopped = over
        self._clock = clock
        self._requests: Iterator[bytes] = plan.cycle(planned.target.requests, planned.seed)
        self._loop = asyncio.get_running_loop()
        target = planned.target
        self._tls = tls_context(target.ca, "h2" if target.transport == "grpc" else "http/1.1") if target.tls else None
        self._connections: set[http_connection.Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._again: collections.deque[tuple[bytes, float]] = collections.deque()
        self._over = False
        self._start_clock()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> report.Report:
        """Ask until the plan's end or a stop, wait for what is under way, and give the account."""
        await self._begin()
        self._loop.call_later(self._plan.warm_s, self._account.warm)
        self._sweep()
        await self._done
        await self._closed()
        ended = min(self._until, self._clock())
        return self._account.report(max(ended - self._account.measured, 1e-9), self._plan.rate)

    async def _closed(self) -> None:
        """Wait for the connections to be gone, for a moment."""
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        patience = self._clock() + _OPEN_S
        while self._connections and self._clock() < patience:
            for connection in list(self._connections):
                connection.close()
            await asyncio.sleep(_CLOSE_S)

    def opened(self, connection: http_connection.Connection) -> None:
        """A connection is there."""
        self._connections.add(connection)
        for _ in range(connection.room):
            self._free(connection)

    def ended(self, connection: http_connection.Connection, intended: float, outcome: int, status: int) -> None:
        """A request has its outcome."""
        if status >= 0:
            self._account.statuses[status] += 1
        self._account.finish(intended, outcome, self._clock())
        if connection.room:
            self._free(connection)

    def again(self, data: bytes, intended: float) -> None:
        """Another connection is to ask what the server never began with."""
        self._again.append((data, intended))

    def observed(self, body: bytes, timing: bytes) -> None:
        """An answer that is watched."""
        self._account.read(body, timing)

    def closed(self, connection: http_connection.Connection) -> None:
        """A connection is gone; another takes its place."""
        self._connections.discard(connection)
        if not self._over:
            self._open_another()

    def _start_clock(self) -> None:
        self._account = account.Account(self._clock(), self._plan.warm_s, clock=self._clock)
        self._until = self._account.measured + self._plan.seconds

    async def _begin(self) -> None:
        for _ in range(self._plan.connections):
            self._open_another()

    def _free(self, connection: http_connection.Connection) -> None:
        """A connection has room for one more."""
        now = self._clock()
        if self._again:
            connection.ask(*self._again.popleft())
        elif not self._over and now < self._until:
            self._account.scheduled += 1
            connection.ask(next(self._requests), now)

    def _open_another(self) -> None:
        task = self._loop.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        kind: Callable[[], asyncio.Protocol]
        target = self._plan.target
        if target.transport == "grpc":
            kind = lambda: grpc_connection.Grpc(self, target, self._plan.streams)  # noqa: E731
        else:
            kind = self._http
        try:
            await self._loop.create_connection(
                kind, target.host, target.port, ssl=self._tls, server_hostname=target.host if self._tls else None
            )
        except OSError:
            await self._not_connected()

    def _http(self) -> http_connection.Http1:
        """A connection over HTTP/1.1 that is to be opened."""
        return http_connection.ObservedHttp1(self) if self._plan.observe else http_connection.Http1(self)

    async def _not_connected(self) -> None:
        """Nobody listens at this moment; nothing was sent."""
        await asyncio.sleep(_AGAIN_S)
        if not self._over:
            self._open_another()

    def _sweep(self) -> None:
        """Every moment: give up what takes too long, notice the end."""
        now = self._clock()
        if not self._over and (self._stopped() or now >= self._until):
            self._over = True
            self._until = min(self._until, now)
            self._account.asked()
        for connection in list(self._connections):
            connection.expire(now - self._plan.timeout_s)
        self._give_up(now)
        if self._over and not self._account.in_flight:
            self._done.set_result(None)
        else:
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _give_up(self, now: float) -> None:
        """What waits for a connection and will not get one."""
        while self._again and (not self._connections or self._again[0][1] < now - self._plan.timeout_s):
            _, intended = self._again.popleft()
            self._account.finish(intended, account.BROKEN, now)


class OpenLoop(Generator):
    """Asks at the times of a fixed schedule, whatever was answered so far."""

    async def _begin(self) -> None:
        planned = self._plan
        self._idle: collections.deque[http_connection.Connection] = collections.deque()
        self._backlog: collections.deque[tuple[bytes, float]] = collections.deque()
        for _ in range(min(planned.connections, planned.max_in_flight)):
            self._open_another()
        # Opening connections is no part of the load; a server that does not listen is.
        await asyncio.wait(self._opening, timeout=_OPEN_S)
        self._start_clock()
        self._schedule = plan.arrivals(planned.rate, planned.warm_s + planned.seconds, planned.seed)
        self._next = self._account.begun + next(self._schedule, float("inf"))
        self._timer = timer.Timer(self._loop, self._due)
        self._arm()

    async def run(self) -> report.Report:
        """As for every generator."""
        try:
            return await super().run()
        finally:
            self._timer.close()

    def _due(self) -> None:
        """Start all whose time has come."""
        now = self._clock()
        counted, most = self._account, self._plan.max_in_flight
        while self._next <= now and not self._over:
            intended = self._next
            counted.scheduled += 1
            counted.late(intended, now)
            if counted.in_flight > most:
                counted.finish(intended, account.NOT_SENT, now)
            else:
                self._start(next(self._requests), intended)
            self._next = counted.begun + next(self._schedule, float("inf"))
        self._arm()

    def _arm(self) -> None:
        if self._next < float("inf") and not self._over:
            self._timer.at(self._next)

    def _start(self, data: bytes, intended: float) -> None:
        idle = self._idle
        while idle:
            connection = idle.popleft()
            if connection.room:
                connection.ask(data, intended)
                return
        self._backlog.append((data, intended))
        self._open_for_backlog()

    def _open_for_backlog(self) -> None:
        for _ in range(min(len(self._backlog), _OPENING_AT_ONCE) - len(self._opening)):
            self._open_another()

    def _free(self, connection: http_connection.Connection) -> None:
        if self._again:
            connection.ask(*self._again.popleft())
        elif self._backlog:
            connection.ask(*self._backlog.popleft())
        else:
            self._idle.append(connection)

    def again(self, data: bytes, intended: float) -> None:
        """At once, if there is a connection."""
        self._start(data, intended)

    async def _not_connected(self) -> None:
        """Nobody listens: whoever waited for this connection is told what a client would be told."""
        if self._backlog:
            _, intended = self._backlog.popleft()
            self._account.finish(intended, account.BROKEN, self._clock())
        else:
            await super()._not_connected()

    def closed(self, connection: http_connection.Connection) -> None:
        """A connection is gone; another is opened when one is wanted."""
        self._connections.discard(connection)

    def _give_up(self, now: float) -> None:
        while self._backlog and self._backlog[0][1] < now - self._plan.timeout_s:
            _, intended = self._backlog.popleft()
            self._account.finish(intended, account.EXPIRED, now)
        self._open_for_backlog()


def tls_context(ca: str, alpn: str) -> ssl.SSLContext:
    """Certificates are verified, against the PEM file `ca` or the system's authorities."""
    context = ssl.create_default_context(cafile=ca or None)
    context.set_alpn_protocols([alpn])
    return context


async def run(planned: plan.Plan, over: Callable[[], bool]) -> report.Report:
    """Run a plan on the loop that runs now."""
    kind = OpenLoop if planned.rate else Generator
    return await kind(planned, over).run()
