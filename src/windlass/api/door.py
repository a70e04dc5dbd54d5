"""The door: the outermost layer, which every request passes before a route, a parser or a byte of its body.

In order: headers, host, origin, key, route, permission, model, size. Every error of the API is written here. Must never
let a request through to a route that declares no permission, nor remember a key: a revoked one ends at once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette import concurrency, requests, routing

from windlass import errors
from windlass.api import access, routes
from windlass.api import errors as statuses
from windlass.records import audit, keys
from windlass.storage import database

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 16_384
_MAX_TARGET = 4_096
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT = re.compile(r":[0-9]{1,5}\Z")
_LENGTH = re.compile(r"[0-9]{1,18}")
# Between two parts of a body.
_SILENCE_S = 60.0
# What one key may have on record in a minute: refusals beyond that are counted, and told with the next one's.
_NOTED, _MINUTE_S = 100, 60.0
# Answers without an end that one key may read at once.
_STREAMS = 16
# What a browser says of a request that another site's page made it send.
_OWN_SITE = ("same-origin", "none")
_NO_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_STREAM = "text/event-stream"


class Found(msgspec.Struct, frozen=True):
    """The route that a request asks for, and the parts of its path."""

    route: routes.Route
    parts: dict[str, str]


class Door:
    """An ASGI layer around the application whose routes are `table`."""

    def __init__(
        self,
        app: App,
        *,
        table: Sequence[routing.BaseRoute],
        known: keys.Keys,
        rows: database.Database,
        hosts: tuple[str, ...],
        clock: Callable[[], float],
    ) -> None:
        self._app = app
        self._table = table
        self._keys = known
        self._rows = rows
        self._any_host = "*" in hosts
        named = {host.lower() for host in (*hosts, *LOOPBACK)}
        # An IPv6 address stands in brackets in a URL.
        self._hosts = frozenset(named | {f"[{host}]" for host in named if ":" in host and not host.startswith("[")})
        self._clock = clock
        # By key: since when refusals are counted, and how many came; and how many streams are open.
        self._refused: dict[str, tuple[float, int]] = {}
        self._streams: collections.Counter[str] = collections.Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            # There is no route of another kind.
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        headers = _headers(scope)
        own = headers.get("x-request-id", "")
        request_id = own if _REQUEST_ID.fullmatch(own) else secrets.token_hex(8)

        async def tell(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), *_always(request_id)]
            await send(message)

        try:
            found = await self._admit(scope, headers)
            with self._streaming(scope["caller"], found.route):
                await self._app(scope, _limited(receive, found.route.max_body), tell)
        except requests.ClientDisconnect:
            # Who asked is gone, in the middle of a body: there is nobody to answer.
            return
        except Exception as e:
            error = e if isinstance(e, errors.WindlassError) else errors.InternalError(type(e).__name__)
            if statuses.is_internal(error):
                log.exception("request %s failed", request_id)
            if begun:
                # Half an answer cannot be taken back: the connection ends, and the caller sees that it is half.
                raise
            await _refuse(scope, tell, _hidden(scope, error), request_id)

    async def _admit(self, scope: Scope, headers: dict[str, str]) -> Found:
        """The route, if the request may have it."""
        _check_size(scope)
        host = headers.get("host", "")
        self._check_host(host)
        _check_origin(headers, host)
        try:
            found = self._find(scope)
        except errors.WindlassError:
            # Who is not known is not told what there is.
            scope["caller"] = await self._caller(headers)
            raise
        route = found.route
        if route.permission == access.OPEN:
            scope["caller"] = access.Caller("", "", (), ())
        else:
            caller = scope["caller"] = await self._caller(headers)
            if not caller.may(route.permission):
                await concurrency.run_in_threadpool(self._note, caller, route)
                raise errors.NotAllowed(f"this key lacks the permission {route.permission}.")
            routes.check_parts(found.parts)
            caller.check(*(found.parts[part] for part in ("name",) if part in found.parts))
        _check_length(headers, route, str(scope["method"]))
        return found

    def _find(self, scope: Scope) -> Found:
        """The route as the application will find it; one that declares nothing is as if it were not there."""
        allowed: set[str] = set()
        for one in self._table:
            match, inner = one.matches(scope)
            if match is routing.Match.NONE:
                continue
            declared = routes.declared_by(one)
            if declared is None:
                continue
            if match is routing.Match.FULL:
                return Found(declared, {name: str(text) for name, text in inner["path_params"].items()})
            allowed.add(declared.method)
        if allowed:
            raise errors.MethodNotAllowed("this path does not take this method.", allowed=tuple(sorted(allowed)))
        raise errors.NotFound("there is no such path.", hint=f"See {routes.PREFIX}/openapi.json")

    async def _caller(self, headers: dict[str, str]) -> access.Caller:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise errors.Unauthenticated(
                "the control plane asks for a key.",
                hint="Send it as 'Authorization: Bearer wl_...'; commands take it from WINDLASS_CLIENT__KEY.",
            )
        listed = await concurrency.run_in_threadpool(self._keys.authenticate, text.strip())
        if listed is None:
            raise errors.Unauthenticated("this key is not valid.", hint="Make another: windlass keys create NAME")
        return access.caller_of(listed)

    @contextlib.contextmanager
    def _streaming(self, caller: access.Caller, route: routes.Route) -> Iterator[None]:
        """Count an answer that has no end; `RateLimited` if the key reads as many as it may."""
        if route.media != _STREAM:
            yield
            return
        if self._streams[caller.id] >= _STREAMS:
            raise errors.RateLimited(f"this key reads {_STREAMS} streams already.", hint="Close one.", retry_after_s=5)
        self._streams[caller.id] += 1
        try:
            yield
        finally:
            self._streams[caller.id] -= 1

    def _note(self, caller: access.Caller, route: routes.Route) -> None:
        """Put a refusal on record, of many in a minute the first ones."""
        now = self._clock()
        began, count = self._refused.get(caller.id, (0.0, 0))
        unsaid = 0
        if not 0 <= now - began < _MINUTE_S:
            began, count, unsaid = now, 0, max(0, count - _NOTED)
        self._refused[caller.id] = began, count + 1
        if count >= _NOTED:
            return
        detail: dict[str, Any] = {"method": route.method, "path": route.path, "permission": route.permission}
        if unsaid:
            detail["not_noted_before"] = unsaid
        with self._rows.write() as connection:
            audit.append(
                connection,
                actor=caller.actor,
                action="access.refused",
                subject=f"key/{caller.id}",
                reason="",
                detail=detail,
                now=now,
            )

    def _check_host(self, host: str) -> None:
        """Refuse names that are not ours, so that a page cannot reach this server by a name that it controls."""
        if not self._any_host and _PORT.sub("", host.lower()) not in self._hosts:
            raise errors.Misdirected("the control plane does not answer for this host.", hint="Set: up.hosts")


def _headers(scope: Scope) -> dict[str, str]:
    """By name; of one that comes twice, all its values, so that no two readers can take different ones."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > _MAX_HEADER_BYTES or len(scope["headers"]) > _MAX_HEADERS or target > _MAX_TARGET:
        raise errors.HeadersTooLarge("the request's address or headers are too long.")


def _check_origin(headers: dict[str, str], host: str) -> None:
    """Refuse what a browser sends for another site's page, whatever the method."""
    origin = headers.get("origin")
    own = origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
    if not own or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        raise errors.NotAllowed("requests from another site's page are not answered.")


def _check_length(headers: dict[str, str], route: routes.Route, method: str) -> None:
    text = headers.get("content-length", "0")
    if _LENGTH.fullmatch(text) is None:
        raise errors.InvalidInput("Content-Length is no number.")
    if "content-length" in headers and "transfer-encoding" in headers:
        # Two readers could take different ends of it.
        raise errors.InvalidInput("the request tells its length in two ways.")
    most = 0 if method in _NO_BODY else route.max_body
    if int(text) > most:
        raise errors.PayloadTooLarge(f"the body has {text} bytes: at most {most} are taken here.")


def _limited(receive: Receive, most: int) -> Receive:
    """A body in parts tells no length before: count what comes, and wait for each part so long."""
    taken, whole = 0, False

    async def take() -> Message:
        nonlocal taken, whole
        try:
            # Behind the body comes nothing but the end of the connection, for which an answer in parts waits.
            async with asyncio.timeout(None if whole else _SILENCE_S):
                message = await receive()
        except TimeoutError:
            raise errors.InvalidInput(f"the body did not go on for {_SILENCE_S:.0f} seconds.") from None
        whole = whole or not message.get("more_body", False)
        taken += len(message.get("body", b""))
        if taken > most:
            raise errors.PayloadTooLarge(f"the body is larger than the {most} bytes that are taken here.")
        return message

    return take


def _hidden(scope: Scope, error: errors.WindlassError) -> errors.WindlassError:
    """To a key that may not see every model, what is hidden and what is not there are one."""
    caller = scope.get("caller")
    if isinstance(error, errors.NotFound) and isinstance(caller, access.Caller) and caller.restricted:
        return errors.NotFound("there is no such thing, or this key may not see it.")
    return error


def _always(request_id: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]


async def _refuse(scope: Scope, send: Send, error: errors.WindlassError, request_id: str) -> None:
    body = b"" if scope["method"] == "HEAD" else msgspec.json.encode(statuses.body(error, request_id))
    headers = {"content-type": "application/json", "cache-control": "no-store", "content-length": str(len(body))}
    pairs = [(name.encode(), value.encode()) for name, value in {**headers, **statuses.headers(error)}.items()]
    await send({"type": "http.response.start", "status": statuses.status(error), "headers": pairs})
    await send({"type": "http.response.body", "body": body})
