"""What one caller, or nobody in particular, may take of the API: time for a head, streams, lines of the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn import server

from windlass import errors
from windlass.api import access, app, connections, door

HEAD = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"


class Task:
    """One that never ends."""

    def add_done_callback(self, done: Any) -> None:
        pass


class Loop:
    """An event loop in which no time passes unless it is told to, and whose tasks never run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def call_later(self, delay: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, what, (), self)  # type: ignore[arg-type]
        heapq.heappush(self._due, (handle.when(), id(handle), lambda: None if handle.cancelled() else what()))
        return handle

    def create_task(self, coroutine: Any, **_: Any) -> Task:
        coroutine.close()
        return Task()

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.now += seconds
        while self._due and self._due[0][0] <= self.now:
            heapq.heappop(self._due)[2]()


class Transport:
    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def connected() -> tuple[connections.Http, Transport, Loop]:
    config = uvicorn.Config(lambda *_: None, http=connections.Http, ws="none", log_config=None, lifespan="off")
    config.load()
    loop, transport = Loop(), Transport()
    made = connections.Http(config, server.ServerState(), {}, loop)  # type: ignore[arg-type]
    made.connection_made(transport)  # type: ignore[arg-type]
    return made, transport, loop


@given(st.integers(0, len(HEAD) - 1), st.integers(1, 5))
def test_a_head_that_does_not_end_ends_the_connection(sent: int, parts: int) -> None:
    made, transport, loop = connected()
    # A byte now and then gains no time.
    for part in range(parts):
        piece = HEAD[:sent][part * sent // parts : (part + 1) * sent // parts]
        if piece:
            made.data_received(piece)
        loop.wait(0.9 * connections.HEAD_S / parts)
    assert not transport.closed
    loop.wait(0.2 * connections.HEAD_S)
    assert transport.closed


def test_a_whole_head_is_answered_for_as_long_as_it_takes() -> None:
    made, transport, loop = connected()
    made.data_received(HEAD[:10])
    loop.wait(0.9 * connections.HEAD_S)
    made.data_received(HEAD[10:])
    loop.wait(100 * connections.HEAD_S)
    assert not transport.closed
    made.connection_lost(None)


def test_a_key_reads_so_many_streams_and_one_that_ends_makes_room(world: Any) -> None:
    async def never_ends(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive, send

    made = door.Door(
        never_ends, table=(), known=world.plane.keys, rows=world.plane.rows, hosts=(), clock=world.plane.clock
    )
    (stream,) = (route for route in app.ROUTES if route.media == "text/event-stream")
    (plain,) = (route for route in app.ROUTES if route.full_path.endswith("/openapi.json"))
    one, other = (access.Caller(identity, identity, (), ()) for identity in ("one", "other"))
    with contextlib.ExitStack() as opened:
        for _ in range(16):
            opened.enter_context(made._streaming(one, stream))
        with pytest.raises(errors.RateLimited), made._streaming(one, stream):
            pass
        for free in (made._streaming(other, stream), made._streaming(one, plain)):
            with free:
                pass
    with made._streaming(one, stream):
        pass


def test_of_many_refusals_in_a_minute_the_first_are_noted_and_the_others_counted(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_NOTED", 3)
    now = [1_000.0]
    made = door.Door(
        lambda *_: None,  # type: ignore[arg-type, return-value]
        table=(),
        known=world.plane.keys,
        rows=world.plane.rows,
        hosts=(),
        clock=lambda: now[0],
    )
    caller = access.Caller("one", "one", (), ())
    (route,) = (route for route in app.ROUTES if route.full_path.endswith("/openapi.json"))
    for _ in range(8):
        made._note(caller, route)
    now[0] += 61.0
    made._note(caller, route)
    entries = world.key("audit:read").get("/audit?action=access.refused&limit=1000")["items"]
    assert [entry["detail"].get("not_noted_before", 0) for entry in entries if entry["subject"] == "key/one"] in (
        [0, 0, 0, 5],
        [5, 0, 0, 0],
    )
