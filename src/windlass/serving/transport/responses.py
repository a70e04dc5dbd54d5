"""Responses as bytes: the status line, the headers, and compression.

Used by exchanges only. Must never know what a body means.
"""

from __future__ import annotations

import email.utils
import zlib

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.types import inference

COMPRESS_FROM = 4_096
INLINE_BYTES = 65_536
# Deflate grows up to a thousandfold: what is inflated on the loop stays below a megabyte.
INFLATE_INLINE_BYTES = 1_024
_WBITS = {b"gzip": 31, b"deflate": 15}
_HEADS = 256
# Most answers are short: their lengths as text, made once.
_SMALL = 4_096
_LENGTHS = [b"%d" % size for size in range(_SMALL)]


class Writer:
    """Makes response heads; `tick` renews their date once a second."""

    def __init__(self) -> None:
        self.date = b""
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self.tick(0.0)

    def tick(self, now: float) -> None:
        """Set the date from wall-clock seconds."""
        self.date = email.utils.formatdate(now, usegmt=True).encode()
        self._heads.clear()

    def response(
        self,
        answer: base.Answer,
        request_id: str,
        lines: bytes,
        extra: base.Fields,
        head: bool,
    ) -> bytes:
        """The whole HTTP/1.1 response. `lines` are header lines, each with its line end; `head` leaves the body out."""
        body, status = answer.body, answer.status or statuses.OK
        start = self._heads.get((status, answer.content_type))
        if start is None:
            start = self._start(status, answer.content_type)
        for name, value in answer.headers + extra:
            lines += b"%b: %b\r\n" % (name, value)
        size = len(body)
        length = _LENGTHS[size] if size < _SMALL else b"%d" % size
        if head:
            body = b""
        return b"".join((start, length, b"\r\nx-request-id: ", request_id.encode(), b"\r\n", lines, b"\r\n", body))

    def _start(self, status: int, content_type: bytes) -> bytes:
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        reason = statuses.REASONS.get(status, b"Unknown")
        start = b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: %b\r\ncontent-length: " % (
            status,
            reason,
            self.date,
            content_type,
        )
        self._heads[status, content_type] = start
        return start


def timing(response: inference.InferResponse) -> base.Fields:
    """How long a request waited and ran, in milliseconds, and how many rows its run had: the header Server-Timing."""
    values = (response.queue_s * 1e3, response.run_s * 1e3, response.batch_rows)
    return ((b"server-timing", b"queue;dur=%.3f, run;dur=%.3f, batch;desc=%d" % values),)


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its content encoding; `Unsupported` names the ones there are, bounded by `limit` bytes."""
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in _WBITS:
        raise errors.Unsupported("this content encoding is not supported: send gzip, deflate or none")
    machine = zlib.decompressobj(_WBITS[name])
    try:
        data = machine.decompress(body, limit + 1)
    except zlib.error:
        raise errors.InvalidInput(f"the body is not valid {name.decode()}") from None
    if len(data) > limit:
        raise errors.PayloadTooLarge(f"the body inflates to more than the {limit} bytes accepted")
    if not machine.eof or machine.unused_data:
        raise errors.InvalidInput(f"the body is not valid {name.decode()}: it ends early or goes on after its end")
    return data


def acceptable_encoding(accepted: bytes) -> bytes | None:
    """The encoding to answer in, if the caller's Accept-Encoding has one that is done here."""
    parts = [part.replace(b" ", b"").partition(b";q=") for part in accepted.lower().split(b",")]
    names = {name for name, _, weight in parts if not weight or weight.strip(b"0.")}
    return next((name for name in _WBITS if name in names), None)


def deflate(data: bytes, encoding: bytes) -> bytes:
    """The bytes in an encoding, at the level where speed matters more than size."""
    machine = zlib.compressobj(1, zlib.DEFLATED, _WBITS[encoding])
    return machine.compress(data) + machine.flush()


def compress(answer: base.Answer, encoding: bytes) -> base.Answer:
    """The answer in a content encoding."""
    body = deflate(answer.body, encoding)
    headers = (*answer.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding"))
    return msgspec.structs.replace(answer, body=body, headers=headers)
