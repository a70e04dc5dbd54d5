"""The ZIP files that packages travel in: one deterministic writer, and a reader that takes no second meaning.

Called by `archive.py` only. The reader compares every header with its twin and lets no byte lie outside an entry, so
that no other tool can see a different archive in the same bytes. Must never write to disk or believe a size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from windlass import errors

MAX_ENTRIES = 10_000
MAX_RATIO = 200
# Compressed files are inflated in memory: all of an archive's together may take this much. Stored ones are mapped.
MAX_INFLATED = 64 << 20
_CHUNK = 1 << 20
_MAX_RECORD = 512
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_LOCAL_SIGN, _CENTRAL_SIGN, _END_SIGN, _END64_SIGN, _LOCATOR_SIGN = (
    0x04034B50,
    0x02014B50,
    0x06054B50,
    0x06064B50,
    0x07064B50,
)
_STORED, _DEFLATED = 0, 8
_U16, _U32 = 0xFFFF, 0xFFFFFFFF
_EPOCH = (0, 0x21)  # 1980-01-01 00:00:00, the least that the format can say
_REGULAR = 0o100600 << 16
_UNIX = 3
_WITHIN_64 = 0x0001


class Entry(NamedTuple):
    """One file of an archive: where its (possibly compressed) bytes lie, and what it must be when they are read."""

    name: str
    start: int
    stored_size: int
    size: int
    crc: int
    deflated: bool


class _Central(NamedTuple):
    name: bytes
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored_size: int
    size: int
    offset: int


def write(file: BinaryIO, entries: Iterator[tuple[str, bytes | memoryview]]) -> None:
    """Write a ZIP of stored files. The same entries give the same bytes on every machine."""
    records: list[bytes] = []
    offset = 0
    for name, data in entries:
        raw, size, crc = name.encode("ascii"), memoryview(data).nbytes, zlib.crc32(data)
        long_size = struct.pack("<QQ", size, size) if size >= _U32 else b""
        long_offset = struct.pack("<Q", offset) if offset >= _U32 else b""
        version, short = 45 if long_size or long_offset else 20, min(size, _U32)
        extra, more = _wide_extra(long_size), _wide_extra(long_size + long_offset)
        file.write(_LOCAL.pack(_LOCAL_SIGN, version, 0, _STORED, *_EPOCH, crc, short, short, len(raw), len(extra)))
        file.write(raw + extra)
        file.write(data)
        head = (_CENTRAL_SIGN, _UNIX << 8 | version, version, 0, _STORED, *_EPOCH, crc, short, short)
        rest = (len(raw), len(more), 0, 0, 0, _REGULAR, min(offset, _U32))
        records.append(_CENTRAL.pack(*head, *rest) + raw + more)
        length = _LOCAL.size + len(raw) + len(extra) + size
        offset += length
    directory = b"".join(records)
    file.write(directory + _end(len(records), len(directory), offset))


def _wide_extra(values: bytes) -> bytes:
    return struct.pack("<HH", _WITHIN_64, len(values)) + values if values else b""


def _end(count: int, size: int, offset: int) -> bytes:
    end = _END.pack(_END_SIGN, 0, 0, min(count, _U16), min(count, _U16), min(size, _U32), min(offset, _U32), 0)
    if count < _U16 and size < _U32 and offset < _U32:
        return end
    wide = _END64.pack(_END64_SIGN, _END64.size - 12, _UNIX << 8 | 45, 45, 0, 0, count, count, size, offset)
    return wide + _LOCATOR.pack(_LOCATOR_SIGN, 0, offset + size, 1) + end


def entries(file: BinaryIO) -> dict[str, Entry]:
    """The files of an archive by name, after every rule was checked; `CorruptPackage` says which one is broken."""
    length = file.seek(0, 2)
    count, size, offset = _read_end(file, length)
    if count > MAX_ENTRIES:
        _refuse(f"it has {count} entries: at most {MAX_ENTRIES} are read")
    if size > count * _MAX_RECORD:
        _refuse("its directory is larger than the names of a package need")
    file.seek(offset)
    records = list(_read_central(file.read(size), count))
    found: dict[str, Entry] = {}
    position = 0
    for record in sorted(records, key=lambda r: r.offset):
        if record.offset != position:
            _refuse("bytes lie between its entries, or entries overlap")
        entry = _read_local(file, record, offset)
        if entry.name in found:
            _refuse("a name is in it twice")
        found[entry.name] = entry
        position = entry.start + entry.stored_size
    if position != offset:
        _refuse("bytes lie between its last entry and its directory")
    if sum(entry.size for entry in found.values() if entry.deflated) > MAX_INFLATED:
        _refuse(f"its compressed entries hold more than {MAX_INFLATED} bytes: store them without compression")
    return found


def read(file: BinaryIO, entry: Entry) -> bytes:
    """The bytes of an entry, never more than it declared; `CorruptPackage` if they are not what it says."""
    file.seek(entry.start)
    data = _inflate(file, entry) if entry.deflated else file.read(entry.size)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        _refuse(f"the entry {entry.name[:100]!r} is not what its header says")
    return data


def _inflate(file: BinaryIO, entry: Entry) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    left, room = entry.stored_size, entry.size
    try:
        while left and not inflater.eof:
            piece = file.read(min(left, _CHUNK))
            left -= len(piece)
            if not piece:
                break
            # One byte more than is left over shows a file that is larger than it declares.
            parts.append(inflater.decompress(piece, room + 1))
            room -= len(parts[-1])
            if room < 0 or inflater.unconsumed_tail:
                _refuse(f"the entry {entry.name[:100]!r} holds more than it declares")
    except zlib.error:
        _refuse(f"the entry {entry.name[:100]!r} cannot be decompressed")
    if left or not inflater.eof or inflater.unused_data:
        _refuse(f"the entry {entry.name[:100]!r} is not one whole compressed stream")
    return b"".join(parts)


def _read_end(file: BinaryIO, length: int) -> tuple[int, int, int]:
    """Entries, size and offset of the directory, which must end exactly where the closing records begin."""
    at = length - _END.size
    if at < 0:
        _refuse("it is no ZIP file")
    file.seek(at)
    sign, disk, start_disk, here, count, size, offset, comment = _END.unpack(file.read(_END.size))
    if sign != _END_SIGN or comment:
        _refuse("it does not end with the record that ends a ZIP file (a comment or bytes after it are not allowed)")
    if disk or start_disk or here != count:
        _refuse("it is spread over several disks")
    if count == _U16 or size == _U32 or offset == _U32:
        at -= _LOCATOR.size + _END64.size
        if at < 0:
            _refuse("its 64-bit directory record is missing")
        file.seek(at)
        wide = _END64.unpack(file.read(_END64.size))
        locator = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if locator != (_LOCATOR_SIGN, 0, at, 1) or wide[:2] != (_END64_SIGN, _END64.size - 12) or any(wide[4:6]):
            _refuse("its 64-bit directory record is malformed")
        if wide[6] != wide[7]:
            _refuse("it is spread over several disks")
        count, size, offset = wide[7:]
    if offset + size != at:
        _refuse("its directory does not end where the file's last record begins")
    return count, size, offset


def _read_central(data: bytes, count: int) -> Iterator[_Central]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            _refuse("its directory ends inside an entry")
        fields = _CENTRAL.unpack_from(data, position)
        sign, made_by, version, flags, method, time, date, crc, stored, size, names, extras, comment = fields[:13]
        disk, _, attributes, offset = fields[13:]
        position += _CENTRAL.size
        end = position + names + extras
        if sign != _CENTRAL_SIGN or comment or disk or end > len(data):
            _refuse("its directory is malformed")
        mode = attributes >> 16 if made_by >> 8 == _UNIX else 0
        if mode & 0o170000 not in (0, 0o100000) or attributes & 0x10:
            _refuse("an entry is not a regular file")
        name = data[position : position + names]
        size, stored, offset = _wide(data[position + names : end], (size, stored, offset))
        position = end
        yield _Central(name, version, flags, method, time, date, crc, stored, size, offset)
    if position != len(data):
        _refuse("its directory has bytes left over")


def _wide(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes and offset, from the 64-bit extra field where the short ones overflow; no other may be there."""
    needed = sum(value == _U32 for value in values)
    if not needed:
        if extra:
            _refuse("an entry has an extra field")
        return values
    if len(extra) != 4 + 8 * needed or struct.unpack_from("<HH", extra) != (_WITHIN_64, 8 * needed):
        _refuse("an entry's extra field is not the 64-bit one alone")
    wide = iter(struct.unpack_from(f"<{needed}Q", extra, 4))
    return tuple(next(wide) if value == _U32 else value for value in values)


def _read_local(file: BinaryIO, record: _Central, limit: int) -> Entry:
    file.seek(record.offset)
    head = file.read(_LOCAL.size)
    if len(head) != _LOCAL.size:
        _refuse("it ends inside an entry")
    sign, version, flags, method, time, date, crc, stored, size, names, extras = _LOCAL.unpack(head)
    name = file.read(names)
    size, stored = _wide(file.read(extras), (size, stored))
    local = _Central(name, version, flags, method, time, date, crc, stored, size, record.offset)
    if sign != _LOCAL_SIGN or local != record:
        _refuse("an entry's own header and the directory do not agree")
    # Bit 11 only says that the name is UTF-8; encryption, trailing sizes and patches are not read.
    if flags & ~0x0800 or method not in (_STORED, _DEFLATED) or version > 45:
        _refuse("an entry is encrypted, streamed or compressed in another way than deflate")
    if method == _STORED and stored != size:
        _refuse("a stored entry has two sizes")
    if size > MAX_RATIO * max(stored, 1):
        _refuse(f"an entry grows more than {MAX_RATIO} times when it is decompressed")
    start = record.offset + _LOCAL.size + names + extras
    if start + stored > limit:
        _refuse("an entry reaches into the directory")
    try:
        return Entry(name.decode("ascii"), start, stored, size, crc, method == _DEFLATED)
    except UnicodeDecodeError:
        _refuse("an entry has a name that is not plain ASCII")


def _refuse(why: str) -> NoReturn:
    raise errors.CorruptPackage(f"The archive is refused: {why}.")
