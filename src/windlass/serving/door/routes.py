"""The route table: every route of every protocol of one listener, and the way from a request line to one of them.

Built at start, asked by the door once per request. Must refuse two routes that are the same, and never hold more than
a bounded number of remembered request lines.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.types import refs

_REMEMBERED = 4_096
_LONGEST_REMEMBERED = 256


class Match(msgspec.Struct, frozen=True):
    """A request line resolved: the route, its protocol, and what stood in the path.

    `model` and `version` are those that the path names, if any.
    """

    route: base.Route
    protocol: base.ServerProtocol
    parameters: dict[str, str]
    path: str
    query: str
    permission: base.Permission
    model: str
    version: str


class _Node:
    __slots__ = ("children", "parameter", "routes")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: tuple[str, _Node] | None = None
        self.routes: dict[str, tuple[base.Route, base.ServerProtocol]] = {}


class RouteTable:
    """Routes by path segment; a literal segment wins over a parameter."""

    def __init__(self, protocols: Iterable[base.ServerProtocol]) -> None:
        self.protocols = tuple(protocols)
        self.routes: list[base.Route] = []
        self._root = _Node()
        self._remembered: dict[tuple[bytes, bytes], Match] = {}
        for protocol in self.protocols:
            for route in protocol.routes():
                self._add(route, protocol)

    def _add(self, route: base.Route, protocol: base.ServerProtocol) -> None:
        node = self._root
        for segment in _segments(route.path):
            if segment.startswith("{"):
                name = segment[1:-1]
                if node.parameter is None:
                    node.parameter = (name, _Node())
                elif node.parameter[0] != name:
                    raise ValueError(f"route {route.path} names a parameter differently from another route")
                node = node.parameter[1]
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"route {route.method} {route.path} is declared twice")
        node.routes[route.method] = (route, protocol)
        self.routes.append(route)

    def find(self, method: bytes, target: bytes) -> Match:
        """The route of a request line; `NotFound` or `MethodNotAllowed` says what there is."""
        match = self._remembered.get((method, target))
        if match is not None:
            return match
        match = self._resolve(method, target)
        if len(target) <= _LONGEST_REMEMBERED:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[method, target] = match
        return match

    def _resolve(self, method: bytes, target: bytes) -> Match:
        try:
            text = target.decode("ascii")
            if not text.startswith("/"):
                text = urllib.parse.urlsplit(text)._replace(scheme="", netloc="").geturl()
            raw_path, _, query = text.partition("?")
            segments = [urllib.parse.unquote(s, errors="strict") for s in _segments(raw_path)]
        except ValueError:
            raise errors.InvalidInput("the request target is not a valid URL path") from None
        node = self._root
        parameters: dict[str, str] = {}
        for segment in segments:
            if segment in node.children:
                node = node.children[segment]
            elif node.parameter is not None and segment:
                name, node = node.parameter
                parameters[name] = segment
            else:
                raise self._unknown(raw_path)
        if not node.routes:
            raise self._unknown(raw_path)
        verb = method.decode("ascii", "replace")
        found = node.routes.get(verb) or (node.routes.get("GET") if verb == "HEAD" else None)
        if found is None:
            allowed = tuple(sorted({*node.routes, *(("HEAD",) if "GET" in node.routes else ())}))
            message = f"{verb[:16]} is not allowed here: this path takes {', '.join(allowed)}"
            raise errors.MethodNotAllowed(message, allowed=allowed)
        path = "/" + "/".join(segments).replace("/:", ":")
        route, protocol = found
        model, version = parameters.get("model", ""), parameters.get("version", "")
        return Match(route, protocol, parameters, path, query, route.permission, model, version)

    def _unknown(self, path: str) -> errors.NotFound:
        hint = refs.nearest(path, [route.path for route in self.routes if "{" not in route.path])
        return errors.NotFound("there is no such path on this server", hint=hint)


def _segments(path: str) -> list[str]:
    """The parts of a path; a verb behind the last one (`models/m:predict`) is a part of its own, with its colon."""
    segments = path.strip("/").split("/") if path.strip("/") else []
    if segments and ":" in segments[-1]:
        last, _, verb = segments.pop().rpartition(":")
        segments += [last, f":{verb}"]
    return segments
