"""The head of an HTTP/2 request from its fields (RFC 9113, 8.1 to 8.3), and what trailers may hold.

Asked by a session for each header block. Must never let through what the door or an HTTP/1.1 peer could read
differently, or know a block by its bytes alone: an eviction changes what the same bytes mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from windlass.serving.door import heads
from windlass.serving.transport import http2_frames as frames
from windlass.serving.transport import http2_hpack as hpack
from windlass.types import spec

_REMEMBERED = 128
_LONGEST = 1_024
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})


class Malformed(Exception):
    """A request that may not be (8.1.1): its stream is reset with PROTOCOL_ERROR."""


class Blocks:
    """The header blocks of one connection, in order, and the heads of those that come again.

    A head is remembered by its block only while the table stays as it is: any insertion, eviction or resizing, by
    whatever block, forgets them all, and a block that changed the table itself is never remembered.
    """

    __slots__ = ("_decoder", "_heads", "_limits", "_version")

    def __init__(self, limits: spec.ServerLimits) -> None:
        self._decoder = hpack.Decoder()
        self._heads: dict[bytes, tuple[heads.RequestHead, int]] = {}
        self._limits = limits
        self._version = 0

    def fields(self, block: bytes) -> list[hpack.Field]:
        """The fields of a block; `ConnectionFault` if it is none, or too large."""
        found = self._decoder.decode(block, self._limits.max_header_bytes)
        if len(found) > self._limits.max_headers:
            raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "there are too many headers")
        return found

    def request(self, block: bytes) -> tuple[heads.RequestHead, int]:
        """The head and its Content-Length (or -1); `Malformed`, or `ConnectionFault` as `fields`."""
        version = self._decoder.version
        if version != self._version:
            self._version = version
            self._heads.clear()
        known = self._heads.get(block)
        if known is not None:
            return known
        found = request(self.fields(block))
        if self._decoder.version == version and len(block) <= _LONGEST:
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[block] = found
        return found


def request(fields: Iterable[hpack.Field]) -> tuple[heads.RequestHead, int]:
    """The head, and the Content-Length or -1; `Malformed` if it may not be."""
    headers: dict[bytes, bytes] = {}
    pseudo: dict[bytes, bytes] = {}
    for name, value, _, kind in fields:
        if kind == hpack.MALFORMED:
            raise Malformed("a field is malformed")
        if kind == hpack.PSEUDO:
            if headers or name in pseudo or name not in _PSEUDO:
                raise Malformed("a pseudo-header is unknown, comes twice, or behind a header")
            pseudo[name] = value
        elif name in headers:
            _join(headers, name, value)
        else:
            headers[name] = value
    method, target = _line(pseudo)
    authority = pseudo.get(b":authority")
    if authority is not None:
        if headers.get(b"host", authority) != authority:
            raise Malformed("the host is not the authority")
        headers[b"host"] = authority
    length = headers.get(b"content-length")
    if length is None:
        return heads.RequestHead(method, target, headers, keep_alive=True), -1
    if _LENGTH.fullmatch(length) is None:
        raise Malformed("the content-length is no number")
    return heads.RequestHead(method, target, headers, keep_alive=True, length=int(length)), int(length)


def _line(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """The method and the target (8.3.1, 8.5)."""
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if _METHOD.fullmatch(method) is None:
        raise Malformed("the method is missing or no token")
    if method == b"CONNECT":
        authority = pseudo.get(b":authority", b"")
        if not authority or len(pseudo) != 2:
            raise Malformed("a CONNECT has an authority, no scheme and no path")
        return method, authority
    if not pseudo.get(b":scheme"):
        raise Malformed("the scheme is missing")
    if not target.startswith(b"/") and (target != b"*" or method != b"OPTIONS"):
        raise Malformed("the path is missing or does not begin with a slash")
    if b" " in target or b"\t" in target or b"#" in target:
        raise Malformed("the path has characters that no path may have")
    return method, target


def _join(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """A header that came before."""
    if name in (b"content-length", b"host"):
        if headers[name] != value:
            raise Malformed("a header comes twice and differs")
    else:
        headers[name] += (b"; " if name == b"cookie" else b", ") + value


def check_trailers(fields: Iterable[hpack.Field]) -> None:
    """`Malformed` if a field may not be in trailers (8.1)."""
    if any(kind in (hpack.MALFORMED, hpack.PSEUDO) for _, _, _, kind in fields):
        raise Malformed("a trailer is malformed")
