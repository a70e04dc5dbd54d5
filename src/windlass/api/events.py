"""The stream of events: what happened, as it happens, in the form that browsers call server-sent events.

Joined by `app.py`. Who reads on with `Last-Event-ID` misses nothing of the last week. Must never tell an event about a
model that the caller may not see, nor go on after the caller's key ended.

Source: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import AsyncIterator

import msgspec
from starlette import concurrency, requests, responses

from windlass import errors
from windlass.api import access, routes
from windlass.api import plane as planes
from windlass.records import outbox

_BATCH = 512
_STILL_HERE_S = 15.0
# A key that ended is noticed this soon at the latest.
_LOOK_S = 0.5
_ID = re.compile(r"[0-9]{1,15}")


class Following(msgspec.Struct, frozen=True):
    """Events like the glob `events`; without `follow` the stream ends with what there is."""

    events: str = "*"
    follow: bool = True


async def stream(plane: planes.Plane, call: routes.Call, request: requests.Request) -> responses.Response:
    """Events from now on, or from the one behind `Last-Event-ID`, the oldest first."""
    last = await concurrency.run_in_threadpool(_start, plane, call)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return responses.StreamingResponse(
        _told(plane, call, request.headers["authorization"], last), 200, headers, "text/event-stream"
    )


async def _told(plane: planes.Plane, call: routes.Call, credential: str, last: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    yield b"retry: 2000\n\n"
    quiet_since = loop.time()
    while True:
        found = await concurrency.run_in_threadpool(_read, plane, credential, last)
        if found is None:
            return
        text = b"".join(_event(one) for one in found if _wanted(call, one))
        if found:
            last = found[-1].id
        if text:
            quiet_since = loop.time()
            yield text
        if len(found) == _BATCH:
            continue
        if not call.query.follow:
            return
        if loop.time() - quiet_since >= _STILL_HERE_S:
            quiet_since = loop.time()
            yield b": still here\n\n"
        await asyncio.sleep(min(plane.settings.up.interval_s, _LOOK_S))


def _start(plane: planes.Plane, call: routes.Call) -> int:
    """The id of the last event that the caller has seen."""
    text = call.last_event
    if text:
        if _ID.fullmatch(text) is None:
            raise errors.InvalidInput("Last-Event-ID is no id of an event.")
        return int(text)
    with plane.rows.read() as connection:
        return outbox.newest(connection)


def _read(plane: planes.Plane, credential: str, last: int) -> tuple[outbox.Event, ...] | None:
    """What came since; None if the key is no longer good, or may no longer ask."""
    key = plane.keys.authenticate(credential.partition(" ")[2].strip())
    if key is None:
        return None
    with plane.rows.read() as connection:
        return outbox.after(connection, last, limit=_BATCH)


def _wanted(call: routes.Call, one: outbox.Event) -> bool:
    if not fnmatch.fnmatchcase(one.event, call.query.events):
        return False
    names = access.names_in(one.payload)
    # What names no model is for those who see all.
    return not call.caller.restricted or (bool(names) and call.caller.sees(*names))


def _event(one: outbox.Event) -> bytes:
    data = msgspec.json.encode({"at": one.created_at, **one.payload})
    # JSON holds no line end, and names of events are ours.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (one.id, one.event.encode(), data)


ROUTES = (routes.Route("GET", "/events", "event:read", stream, str, query=Following, media="text/event-stream"),)
