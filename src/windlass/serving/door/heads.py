"""Request heads: the request line and headers of one request, and those that a keep-alive client sends again and again.

Made by a connection from what the parser says; asked for again by the exact bytes of the head. A head of HTTP/1.1
means the same whenever its bytes are the same, so a head that was parsed, admitted and complete in one piece need not
be parsed twice. Must never remember a head that was refused, or one whose meaning depends on anything but its bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import httptools
import msgspec

from windlass.protocols import base
from windlass.serving.door import identity, routes
from windlass.serving.metrics import counters
from windlass.types import directory, spec

_KEEP_ALIVE = b"connection: keep-alive\r\n"
_REMEMBERED = 512
_LONGEST = 2_048
# With these headers the connection or the body is not as usual, or the head differs from request to request.
_UNUSUAL = (b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"x-request-id")
_USUAL = b"keep-alive"


class Permit(msgspec.Struct, eq=False):
    """What the door let through: a route, for a caller, to a model's `view` where the route asks one.

    Made once for a head and a view, and shared by all requests with them; `series` is where their outcomes are counted.
    `arms` holds its copies for the arms of its view. `epoch` is that of the keys by which its caller was known.
    `encoding`, `accepts` and `expects` are the headers Content-Encoding, Accept-Encoding and Expect, or empty.
    """

    match: routes.Match
    caller: identity.Identity
    head: base.Head
    max_body: int
    infer: base.InferRoute | None = None
    view: directory.ModelView | None = None
    series: counters.Requests | None = None
    encoding: bytes = b""
    accepts: bytes = b""
    expects: bytes = b""
    timed: bool = False
    arms: dict[tuple[str, int], Permit] = msgspec.field(default_factory=dict)
    epoch: int = -1


class RequestHead(msgspec.Struct, eq=False):
    """One head. `length` is the Content-Length (0 without one); `lines` are header lines that its answer needs.

    `permit` is what the door found last; it holds for these bytes as long as the keys of `epoch` do.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    keep_alive: bool
    lines: bytes = b""
    length: int = 0
    epoch: int = -1
    permit: Permit | None = None


class Memory:
    """Heads by their bytes. Bounded; emptied when full, and when the keys change."""

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}
        self.find = self._heads.get

    def remember(self, block: bytes, head: RequestHead) -> None:
        """Keep an admitted head by the bytes that it came as, its last line end included."""
        # Blank lines before a head may look like the end of one.
        if (
            not block.startswith(head.method)
            or len(block) > _LONGEST
            or not head.keep_alive
            or any(name in head.headers for name in _UNUSUAL)
            or head.headers.get(b"connection", _USUAL).lower() != _USUAL
        ):
            return
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        self._heads[block] = head

    def forget(self) -> None:
        """Forget all of them."""
        self._heads.clear()


def of(parser: httptools.HttpRequestParser, target: bytes, fields: Collection[tuple[bytes, bytes]]) -> RequestHead:
    """The head that a parser has read."""
    headers = {name.lower(): value for name, value in fields}
    if len(headers) != len(fields):
        headers = _joined(fields)
    if b"expect" in headers and parser.get_http_version() == "1.0":
        # Who speaks that knows no interim answer (RFC 9110, 10.1.1).
        del headers[b"expect"]
    keep_alive = parser.should_keep_alive()
    # Only HTTP/1.0 has to be told that the connection stays, and it asks for it with this header.
    told = keep_alive and b"connection" in headers and parser.get_http_version() == "1.0"
    return RequestHead(
        parser.get_method(),
        target,
        headers,
        keep_alive,
        _KEEP_ALIVE if told else b"",
        int(headers.get(b"content-length", 0)),
    )


def too_large(target: bytes, fields: Collection[tuple[bytes, bytes]], limits: spec.ServerLimits) -> bool:
    """Whether a request line and headers are more than the limits allow."""
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in fields)
    return size > limits.max_header_bytes or len(fields) > limits.max_headers


def _joined(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers that come more than once as one value, in order."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        key = name.lower()
        between = b"; " if key == b"cookie" else b", "
        headers[key] = headers[key] + between + value if key in headers else value
    return headers
