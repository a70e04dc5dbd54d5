"""Callers who send slowly or leave at any moment, in their thousands: nobody notices, and nothing of theirs is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from windlass.client import load
from windlass.types import spec

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 2, 3]}]}).encode()
HEAD = b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
# From several addresses: from one there may be no more than four thousand.
ADDRESSES = 4
AT_ONCE = 256


class _Sender(asyncio.Protocol):
    """One connection: sends its beginning, then a byte now and then where there is more to come."""

    def __init__(self, owner: SlowSenders, number: int, start: bytes, more: bool) -> None:
        self.number = number
        self._owner, self._start, self._more = owner, start, more
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self._start)
        self._owner.senders.add(self)
        if self._more:
            self._trickle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._owner.lost(self)

    def _trickle(self) -> None:
        if self.transport is not None:
            self.transport.write(b" ")
            asyncio.get_running_loop().call_later(0.5 + random.random(), self._trickle)


class SlowSenders:
    """Half heads, heads and bodies that trickle, idle connections: each is opened again when the server closes it."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._over = threading.Event()
        self.all_open = threading.Event()
        self.senders: set[_Sender] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = 0
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="slow", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """How many were closed by the server."""
        self._over.set()
        self._thread.join()
        return self.closed

    def lost(self, one: _Sender) -> None:
        """The server has closed it."""
        self.senders.discard(one)
        if not self._over.is_set():
            self.closed += 1
            self._begin(one.number)

    async def _run(self) -> None:
        self._opening = asyncio.Semaphore(AT_ONCE)
        for number in range(self._count):
            self._begin(number)
        while not self._over.is_set():
            if len(self.senders) >= 0.98 * self._count:
                self.all_open.set()
            await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in list(self.senders):
            one.transport.abort()

    def _begin(self, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._open(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, number: int) -> None:
        whole = HEAD % (b"fast", len(BODY)) + BODY
        starts = (whole[:20], whole[: whole.index(b"\r\n\r\n") + 4], whole[: len(whole) // 2], whole)
        start = starts[number % len(starts)]
        address = (f"127.0.0.{2 + number % ADDRESSES}", 0)
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                async with self._opening:
                    await asyncio.get_running_loop().create_connection(
                        lambda: _Sender(self, number, start, start != whole),
                        "127.0.0.1",
                        self._port,
                        local_addr=address,
                    )
                return
            await asyncio.sleep(0.5)


def _besieged(server: Any, senders: int, rate: float, alone_s: float, seconds: float) -> dict[str, float]:
    """What honest callers see alone, and beside so many who send slowly."""
    target = load.http(f"{server.url}/v2/models/fast/infer", BODY)
    alone = load.open_loop(target, rate=rate, seconds=alone_s, warm_s=0.3)
    slow = SlowSenders(server.port, senders)
    try:
        assert slow.all_open.wait(60), f"{len(slow.senders)} of {senders} are open"
        beside = load.open_loop(target, rate=rate, seconds=seconds, warm_s=0.3)
        held = len(slow.senders)
    finally:
        closed = slow.stop()
    after = load.open_loop(target, rate=rate, seconds=alone_s, warm_s=0.3)
    assert alone.lost == beside.lost == after.lost == 0
    until = time.monotonic() + 15
    while server.metrics()[("windlass_connections",)] > 50:
        assert time.monotonic() < until, "connections are left"
        time.sleep(0.1)
    quiet = max(alone.quantile(0.99), after.quantile(0.99))
    return {
        "senders": held,
        "closed": closed,
        "alone_p99_s": alone.quantile(0.99),
        "after_p99_s": after.quantile(0.99),
        "beside_p99_s": beside.quantile(0.99),
        "part": beside.quantile(0.99) / quiet,
        "alone_p50_s": alone.quantile(0.5),
        "beside_p50_s": beside.quantile(0.5),
    }


def _limits(timeout_s: float) -> spec.ServerLimits:
    return spec.ServerLimits(
        header_timeout_s=timeout_s, body_timeout_s=2 * timeout_s, keepalive_timeout_s=2 * timeout_s
    )


@pytest.mark.promise("P-36b")
def test_slow_senders_are_closed_and_noticed_by_nobody(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("fast"), workers=1, limits=_limits(1.0))
    found = _besieged(server, 200, 100, 0.7, 2.5)
    # None stayed for longer than its time.
    assert found["closed"] >= 200, found
    assert found["beside_p50_s"] < 0.1, found


@pytest.mark.soak
@pytest.mark.promise("P-36b")
@pytest.mark.timeout(600)
def test_five_thousand_slow_senders(
    start_server: Callable[..., Any], packages: Any, record: Callable[[str, int], Any]
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most >= 12_000, f"this machine lets a process have {most} files open: 12,000 are needed"
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = start_server(packages.echo("fast"), workers=1, limits=_limits(10.0))
    found = record("slow_senders", 1).finish(**_besieged(server, 5_000, 500, 60.0, 60.0))
    assert found["closed"] >= 5_000, found
    assert found["part"] <= 1.2, found


async def _leave(port: int, number: int, seed: int, most_s: float) -> bool:
    """Ask, and every second time leave in the middle of the request or while it waits; whether an answer was seen."""
    chance = random.Random(seed * 100_003 + number)
    request = HEAD % (b"slow", len(BODY)) + BODY
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if number % 2:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            return head.startswith(b"HTTP/1.1 200")
        # The head always arrives whole, so that there is a request to count.
        cut = chance.randrange(len(request) - len(BODY), 2 * len(request))
        writer.write(request[:cut])
        await asyncio.sleep(chance.random() * most_s)
        return False
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _round(port: int, count: int, seed: int, most_s: float) -> tuple[int, float]:
    """So many callers at once, half of whom leave; how many were answered, and when the last of them had left."""
    answered = await asyncio.gather(*(_leave(port, number, seed, most_s) for number in range(count)))
    return sum(answered), time.monotonic()


def _leaving(server: Any, rounds: int, settled: Callable[..., Any]) -> dict[str, float]:
    count = 60
    slowest, answered = 0.0, 0
    before = settled(server)
    for number in range(rounds):
        ok, ended = uvloop.run(_round(server.port, count, number, 0.1))
        answered += ok
        while server.metrics()[("windlass_in_flight",)]:
            assert time.monotonic() - ended < 5, "something is left of those who left"
            time.sleep(0.005)
        slowest = max(slowest, time.monotonic() - ended)
    found = {outcome: n - before[outcome] for outcome, n in settled(server).items()}
    left = rounds * count // 2
    # Everything once: those who stayed were answered or refused, those who left were dropped or too late to be.
    assert sum(found[name] for name in ("ok", "failed", "expired", "cancelled", "refused")) == rounds * count, found
    assert answered <= found["ok"] <= answered + left, found
    assert found["failed"] == 0, found
    return {"slowest_s": slowest, "answered": answered, **found}


@pytest.mark.promise("P-35")
def test_those_who_leave_take_their_work_with_them(
    start_server: Callable[..., Any], packages: Any, settled: Callable[..., Any]
) -> None:
    server = start_server(packages.echo("slow", row_ms=2), workers=1)
    found = _leaving(server, 5, settled)
    assert found["cancelled"] > 30, found
    # The bar is 100 ms; a run that has begun goes on, and a busy machine adds to it.
    assert found["slowest_s"] < 2, found


@pytest.mark.soak
@pytest.mark.promise("P-35")
def test_the_bar_of_those_who_leave(
    start_server: Callable[..., Any], packages: Any, settled: Callable[..., Any], record: Callable[[str, int], Any]
) -> None:
    server = start_server(packages.echo("slow", row_ms=2), workers=1)
    found = record("leaving", 1).finish(**_leaving(server, 300, settled))
    assert found["slowest_s"] < 0.1, found
