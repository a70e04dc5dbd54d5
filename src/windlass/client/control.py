"""Talks to a running server over its control socket: its status, its spec, a new spec.

Used by the CLI and the Python face on the same machine. Must never talk to anything but a unix socket.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import msgspec

from windlass import errors
from windlass.types import spec, strict_json


class Control:
    """One server's control socket."""

    def __init__(self, path: str, *, timeout_s: float = 300.0) -> None:
        """`timeout_s` bounds a whole load, warm-up and swap."""
        # There is no TLS on the socket: to read the machine's certificates would take longer than to ask.
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=path, verify=nobody), base_url="http://localhost", timeout=timeout_s
        )

    def status(self) -> dict[str, Any]:
        """Where it listens, its models and what was measured of them."""
        found: dict[str, Any] = msgspec.json.decode(self._ask("GET", "/status"))
        return found

    def outcomes(self) -> dict[str, Any]:
        """What came of requests, by endpoint and arm, since the server started."""
        found: dict[str, Any] = msgspec.json.decode(self._ask("GET", "/outcomes"))
        return found

    def current(self) -> spec.Spec:
        """The spec in force."""
        return strict_json.decode(self._ask("GET", "/spec"), spec.Spec, what="the server's spec")

    def apply(self, wanted: spec.Spec) -> None:
        """Put a new spec in force; returns when it is, raises what the server says when it refuses."""
        self._ask("PUT", "/spec", strict_json.canonical(wanted))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        try:
            answer = self._http.request(method, path, content=body)
        except httpx.TransportError as e:
            raise errors.Unavailable(f"the server does not answer on its control socket: {e}") from None
        if answer.is_error:
            told = msgspec.json.decode(answer.content)["error"]
            kind = _KINDS.get(told["code"], errors.WindlassError)
            raise kind(told["message"])
        return answer.content


_KINDS: dict[str, type[errors.WindlassError]] = {
    kind.code: kind
    for kind in (
        errors.Conflict,
        errors.CorruptPackage,
        errors.GateRefused,
        errors.InvalidInput,
        errors.NotAllowed,
        errors.NotFound,
        errors.Unavailable,
        errors.Unsupported,
        errors.UsageError,
    )
}
