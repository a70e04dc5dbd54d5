"""HPACK (RFC 7541): header blocks to fields with the peer's dynamic table, and fields to blocks without any.

Used by HTTP/2 connections, a decoder each. Nothing is ever indexed in what is sent, so that answers need no encoder's
state and are no compression oracle. Must never let a block take more memory than it may, or read behind its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

import hpack
from hpack import huffman_table
from hpack import table as tables

from windlass.serving.transport import http2_frames as frames

# Name, value, size as HPACK counts it, kind.
Field: TypeAlias = tuple[bytes, bytes, int, int]
REGULAR, PSEUDO, SPECIAL, MALFORMED = range(4)
_OVERHEAD = 32
_LAST_STATIC = 61
# No integer in a block that may be is longer than this.
_LONGEST_SHIFT = 21
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
# Fields of HTTP/1.1's connections: who sends them mistakes the protocol (RFC 9113, 8.2.2).
_CONNECTION = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_SPECIAL = frozenset({b"content-length", b"host", b"cookie"})


def field(name: bytes, value: bytes) -> Field:
    """A field with its size and kind; what RFC 9113 (8.2) forbids is `MALFORMED`, not an error: the table keeps it."""
    kind = REGULAR
    if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None or name in _CONNECTION:
        kind = MALFORMED
    elif name[0] == 0x3A:
        kind = PSEUDO
    elif name in _SPECIAL:
        kind = SPECIAL
    elif name == b"te" and value != b"trailers":
        kind = MALFORMED
    return name, value, len(name) + len(value) + _OVERHEAD, kind


_STATIC: tuple[Field, ...] = tuple(field(name, value) for name, value in tables.HeaderTable.STATIC_TABLE)


class Decoder:
    """The receiving side of one connection. `version` tells whether its table is still what it was."""

    __slots__ = ("_limit", "_size", "_table", "version")

    def __init__(self) -> None:
        self.version = 0
        # The newest first, as they are numbered.
        self._table: list[Field] = []
        self._size = 0
        self._limit = frames.DEFAULT_TABLE

    def decode(self, block: bytes, most: int) -> list[Field]:
        """The fields of a whole block, in order.

        `ConnectionFault` COMPRESSION_ERROR if it is not HPACK, ENHANCE_YOUR_CALM if the fields are more than `most`
        bytes: the table is then not what the peer believes it to be.
        """
        try:
            return self._decode(block, most)
        except (IndexError, hpack.HPACKError):
            raise frames.ConnectionFault(frames.COMPRESSION_ERROR, "the header block is not valid HPACK") from None

    def _decode(self, block: bytes, most: int) -> list[Field]:
        fields: list[Field] = []
        table = self._table
        position, end, total = 0, len(block), 0
        while position < end:
            byte = block[position]
            position += 1
            if byte & 0x80:
                index = byte & 0x7F
                if index == 0x7F:
                    index, position = _integer(block, position, 0x7F)
                # As `_find`: most fields of most requests pass here.
                found = table[index - _LAST_STATIC - 1] if index > _LAST_STATIC else _STATIC[index - 1]
                if index == 0:
                    raise IndexError
            elif byte & 0xE0 == 0x20:
                if fields:
                    raise IndexError
                position = self._resize(block, position, byte)
                continue
            else:
                found, position = self._literal(block, position, byte)
            fields.append(found)
            total += found[2]
            if total > most:
                raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        return fields

    def _find(self, index: int) -> Field:
        if index > _LAST_STATIC:
            return self._table[index - _LAST_STATIC - 1]
        if index == 0:
            raise IndexError
        return _STATIC[index - 1]

    def _literal(self, block: bytes, position: int, byte: int) -> tuple[Field, int]:
        prefix = 0x3F if byte & 0x40 else 0x0F
        index = byte & prefix
        if index == prefix:
            index, position = _integer(block, position, prefix)
        if index:
            name = self._find(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        found = field(name, value)
        if byte & 0x40:
            self.version += 1
            self._size += found[2]
            self._table.insert(0, found)
            if self._size > self._limit:
                self._evict()
        return found, position

    def _resize(self, block: bytes, position: int, byte: int) -> int:
        size = byte & 0x1F
        if size == 0x1F:
            size, position = _integer(block, position, 0x1F)
        if size > frames.DEFAULT_TABLE:
            raise IndexError
        self.version += 1
        self._limit = size
        self._evict()
        return position

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= self._table.pop()[2]


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """An integer whose prefix was full (RFC 7541, 5.1), and where it ends."""
    value, shift = prefix, 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > _LONGEST_SHIFT:
            raise IndexError


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string (RFC 7541, 5.2), and where it ends."""
    byte = block[position]
    position += 1
    size = byte & 0x7F
    if size == 0x7F:
        size, position = _integer(block, position, 0x7F)
    end = position + size
    if end > len(block):
        raise IndexError
    text = block[position:end]
    return (huffman_table.decode_huffman(text) if byte & 0x80 else text), end


def _length(size: int) -> bytes:
    if size < 0x7F:
        return bytes((size,))
    written = bytearray((0x7F,))
    size -= 0x7F
    while size >= 0x80:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written)


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block that means the same at any time: every field a literal that no table keeps. Names in lower case."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\0", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)


def status(code: int) -> bytes:
    """The block of the field `:status`."""
    return b"\x08\x03%d" % code
