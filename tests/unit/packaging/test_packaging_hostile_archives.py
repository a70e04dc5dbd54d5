"""Hostile archives, one for each way in which an archive has misled a reader somewhere.

Each is opened and read whole. It must be refused, leave the tree around it as it was, write nothing, and cost little.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass import errors
from windlass.packaging import archive
from windlass.packaging import manifest as manifests
from windlass.storage import blobs
from windlass.types import manifest, signature

Read = Callable[[Path], archive.Package]
MODEL, GOLDEN = b"the model's bytes" * 20, b"golden"
REFUSED = (errors.CorruptPackage, errors.Unsupported)


def ref(data: bytes, size: int | None = None) -> manifest.BlobRef:
    return manifest.BlobRef(blobs.digest_of(data), len(data) if size is None else size)


def make(model: manifest.BlobRef | None = None) -> manifest.Manifest:
    x, y = (signature.TensorSpec(name, "FP32", ("batch",)) for name in "xy")
    return manifest.Manifest(
        name="toy",
        kind="model",
        signature=signature.Signature((x,), (y,)),
        model=manifest.ModelSpec("echo", {"echo.json": model or ref(MODEL)}),
        golden=manifest.Golden(ref(GOLDEN), ref(GOLDEN), 0.0, 0.0),
    )


def blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


MANIFEST = manifests.encode(make())
FILES = {"manifest.json": MANIFEST, blob(MODEL): MODEL, blob(GOLDEN): GOLDEN}


def packed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def wide(size: int) -> bytes:
    return struct.pack("<HHQ", 1, 8, size)


class Zip:
    """A ZIP file written field by field, so that each can lie."""

    def __init__(self, files: dict[str, bytes] | None = None, method: int = 0) -> None:
        self.prefix = b""
        self.comment = b""
        self.central_count: int | None = None
        self.entries: list[dict[str, Any]] = []
        for name, data in (FILES if files is None else files).items():
            self.add(name.encode(), data, method)

    def add(self, name: bytes, data: bytes, method: int = 0, **lies: Any) -> dict[str, Any]:
        stored = packed(data) if method == 8 else data
        entry = {
            "name": name, "stored": stored, "method": method, "flags": 0, "version": 20, "crc": zlib.crc32(data),
            "stored_size": len(stored), "size": len(data), "extra": b"", "central_extra": b"", "mode": 0o100600 << 16,
            "gap": b"", "comment": b"", "disk": 0, "local": {}, "offset": None, "system": 3,
        } | lies  # fmt: skip
        self.entries.append(entry)
        return entry

    def bytes(self) -> bytes:
        out, central = io.BytesIO(), b""
        out.write(self.prefix)
        for entry in self.entries:
            out.write(entry["gap"])
            at = out.tell() if entry["offset"] is None else entry["offset"]
            local = entry | entry["local"]
            values = ("version", "flags", "method")
            rest = ("crc", "stored_size", "size")
            head = struct.pack("<IHHHHH", 0x04034B50, *(local[v] for v in values), 0, 33)
            head += struct.pack("<III", *(local[v] for v in rest))
            out.write(head + struct.pack("<HH", len(local["name"]), len(local["extra"])) + local["name"])
            out.write(local["extra"] + local["stored"])
            made_by = entry["system"] << 8 | entry["version"]
            record = struct.pack("<IHHHHHH", 0x02014B50, made_by, *(entry[v] for v in values), 0, 33)
            record += struct.pack("<III", *(entry[v] for v in rest))
            extra = entry["central_extra"]
            sizes = (len(entry["name"]), len(extra), len(entry["comment"]), entry["disk"], 0)
            record += struct.pack("<HHHHH", *sizes) + struct.pack("<II", entry["mode"], at)
            central += record + entry["name"] + extra + entry["comment"]
        count = len(self.entries) if self.central_count is None else self.central_count
        end = struct.pack("<IHHHHII", 0x06054B50, 0, 0, count, count, len(central), out.tell())
        return out.getvalue() + central + end + struct.pack("<H", len(self.comment)) + self.comment


def named(name: bytes) -> bytes:
    made = Zip()
    made.add(name, b"evil")
    return made.bytes()


def renamed(name: bytes) -> bytes:
    made = Zip()
    made.entries[1]["name"] = name
    return made.bytes()


def lying(index: int = 1, **lies: Any) -> bytes:
    made = Zip()
    made.entries[index].update(lies)
    return made.bytes()


def local(**lies: Any) -> bytes:
    return lying(local=lies)


def around(prefix: bytes = b"", comment: bytes = b"", suffix: bytes = b"") -> bytes:
    made = Zip()
    made.prefix, made.comment = prefix, comment
    return made.bytes() + suffix


def with_manifest(data: bytes) -> bytes:
    return Zip({**FILES, "manifest.json": data}).bytes()


def counted(count: int) -> bytes:
    made = Zip()
    made.central_count = count
    return made.bytes()


def deflated(data: bytes, **lies: Any) -> bytes:
    """A package whose model is `data`, compressed."""
    declared = make(ref(data, lies.get("size", len(data))))
    made = Zip({"manifest.json": manifests.encode(declared), blob(GOLDEN): GOLDEN})
    made.add(blob(data).encode(), data, 8, **lies)
    return made.bytes()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        link = tarfile.TarInfo("manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return out.getvalue()


def overlapping() -> bytes:
    made = Zip()
    made.entries[2].update(offset=0)
    return made.bytes()


def same_twice() -> bytes:
    made = Zip()
    made.entries.append({**made.entries[1], "offset": None})
    return made.bytes()


def cut(share: float) -> bytes:
    whole = Zip().bytes()
    return whole[: int(len(whole) * share)]


def nested() -> bytes:
    """Zeros in an archive in an archive: what is inside a blob is never unpacked, so only its digest matters."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(10_000_000))
    return with_manifest(inner.getvalue())


# Archives by the reason for which each must be refused.
ZIPS: dict[str, dict[str, Callable[[], bytes]]] = {
    "which its manifest does not list": {
        "absolute": lambda: named(b"/etc/passwd"),
        "parent": lambda: named(b"../../evil"),
        "parent-inside": lambda: named(b"blobs/sha256/../../evil"),
        "backslash": lambda: named(b"..\\evil"),
        "nul": lambda: renamed(blob(MODEL).encode() + b"\0.txt"),
        "drive": lambda: named(b"C:evil"),
        "trailing-dot": lambda: renamed(blob(MODEL).encode() + b"."),
        "trailing-space": lambda: renamed(blob(MODEL).encode() + b" "),
        "leading-slash": lambda: renamed(b"/" + blob(MODEL).encode()),
        "dot-slash": lambda: renamed(b"./" + blob(MODEL).encode()),
        "reserved": lambda: named(b"CON"),
        "empty-name": lambda: named(b""),
        "upper-case-digest": lambda: renamed(blob(MODEL).upper().encode()),
        "upper-case-manifest": lambda: named(b"MANIFEST.JSON"),
        "unlisted-blob": lambda: named(f"blobs/sha256/{'0' * 64}".encode()),
        "folder-entry": lambda: named(b"blobs/"),
    },
    "not plain ASCII": {
        "look-alike-dots": lambda: named("\u2024\u2024/evil".encode()),
        "not-utf8": lambda: named(b"\xff"),
    },
    "a name is in it twice": {
        "blob-twice": same_twice,
        "manifest-twice": lambda: named(b"manifest.json"),
    },
    "lacks 'blobs|has no 'manifest": {
        "missing-blob": lambda: Zip({"manifest.json": MANIFEST, blob(MODEL): MODEL}).bytes(),
        "missing-manifest": lambda: Zip({blob(MODEL): MODEL}).bytes(),
        "no-entries": lambda: Zip({}).bytes(),
        "manifest-too-large": lambda: with_manifest(b" " * 4_194_305),
    },
    "not a regular file": {
        "symlink": lambda: lying(mode=0o120777 << 16),
        "fifo": lambda: lying(mode=0o010600 << 16),
        "character-device": lambda: lying(mode=0o020600 << 16),
        "block-device": lambda: lying(mode=0o060600 << 16),
        "socket": lambda: lying(mode=0o140600 << 16),
        "directory-mode": lambda: lying(mode=0o040700 << 16),
        "directory-bit": lambda: lying(mode=0x10, system=0),
    },
    "own header and the directory do not agree": {
        "local-name-differs": lambda: local(name=b"../" + blob(MODEL).encode()[3:]),
        "local-size-differs": lambda: local(size=1),
        "local-stored-size-differs": lambda: local(stored_size=1),
        "local-crc-differs": lambda: local(crc=1),
        "local-method-differs": lambda: local(method=8),
        "local-flags-differ": lambda: local(flags=0x800),
        "local-version-differs": lambda: local(version=10),
        "local-signature": lambda: Zip().bytes().replace(b"PK\3\4", b"PK\3\5", 1),
    },
    "extra field": {
        "unicode-path-extra": lambda: lying(central_extra=b"up\x09\x00\x01" + bytes(4) + b"evil"),
        "local-extra": lambda: local(extra=struct.pack("<HH", 0x5455, 0)),
        "wide-extra-not-needed": lambda: lying(central_extra=struct.pack("<HHQ", 1, 8, 0)),
        "wide-extra-missing": lambda: lying(size=0xFFFFFFFF),
    },
    "directory is malformed": {
        "entry-comment": lambda: lying(comment=b"hello"),
        "other-disk": lambda: lying(disk=1),
    },
    "bytes lie between its entries, or entries overlap": {
        "overlap": overlapping,
        "gap": lambda: lying(gap=b"hidden"),
        "prefix-with-right-offsets": lambda: around(prefix=b"\x7fELF"),
    },
    "does not end where the file's last record begins": {
        "gap-before-directory": lambda: (w := Zip().bytes())[: (i := w.index(b"PK\1\2"))] + b"hidden" + w[i:],
        "prefix": lambda: b"#!/bin/sh\n" + Zip().bytes(),
        "second-archive-after": lambda: around(suffix=Zip().bytes()),
        "second-end-in-comment": lambda: around(comment=Zip().bytes()[-22:]),
    },
    "does not end with the record that ends a ZIP file|is no ZIP file": {
        "comment": lambda: around(comment=b"evil"),
        "bytes-after": lambda: around(suffix=b"\0"),
        "empty": lambda: b"",
        "tar": tar,
        "html": lambda: b"<html>" * 100,
        "cut-half": lambda: cut(0.5),
        "cut-end": lambda: cut(0.99),
    },
    "encrypted, streamed or compressed in another way": {
        "encrypted": lambda: lying(flags=0x1),
        "streamed": lambda: lying(flags=0x8),
        "patched": lambda: lying(flags=0x20),
        "masked-headers": lambda: lying(flags=0x2000),
        "bzip2": lambda: lying(method=12),
        "lzma": lambda: lying(method=14),
        "version-too-new": lambda: lying(version=63),
    },
    "its directory (has bytes left over|ends inside|is larger)|64-bit directory|10001 entries": {
        "fewer-entries-counted": lambda: counted(2),
        "more-entries-counted": lambda: counted(4),
        "too-many-entries": lambda: counted(10_001),
        "directory-of-megabytes": lambda: lying(central_extra=bytes(60_000)),
        "64-bit-without-record": lambda: counted(0xFFFF),
    },
    "has two sizes|reaches into the directory": {
        "stored-with-two-sizes": lambda: lying(size=len(MODEL) + 1),
        "64-bit-size-huge": lambda: lying(size=0xFFFFFFFF, central_extra=wide(2**63), local={"extra": wide(2**63)}),
        "reaches-into-directory": lambda: lying(index=2, stored_size=10_000, size=10_000),
    },
    "grows more than 200 times|compressed entries hold more|holds more than it declares": {
        "bomb": lambda: deflated(bytes(60_000_000)),
        "bomb-that-lies": lambda: deflated(bytes(60_000_000), size=100_000),
        "bomb-within-ratio": lambda: deflated((os.urandom(330) + bytes(60_000)) * 1200),
        "inflates-to-more": lambda: deflated(MODEL, size=len(MODEL) - 5),
    },
    "not one whole compressed stream|cannot be decompressed|not what its header says": {
        "inflates-to-less": lambda: deflated(MODEL, size=len(MODEL) + 5),
        "inflate-garbage": lambda: deflated(MODEL, stored=b"\xff" * 40, stored_size=40),
        "inflate-cut": lambda: deflated(MODEL, stored=packed(MODEL)[:-1], stored_size=len(packed(MODEL)) - 1),
        "inflate-left-over": lambda: deflated(
            MODEL, stored=packed(MODEL) + b"hidden", stored_size=len(packed(MODEL)) + 6
        ),
        "bad-crc": lambda: deflated(MODEL, crc=7),
    },
    "not what their digest says|not of the size that the manifest says": {
        "flipped-blob": lambda: Zip({**FILES, blob(MODEL): b"T" + MODEL[1:]}).bytes(),
        "swapped-blob": lambda: Zip({**FILES, blob(MODEL): MODEL[::-1]}).bytes(),
        "shorter-blob": lambda: Zip({**FILES, blob(MODEL): MODEL[:-1]}).bytes(),
        "manifest-of-another-size": lambda: with_manifest(manifests.encode(make(ref(MODEL, 1)))),
    },
    "^the manifest|format 2; this Windlass reads format 1|declares 17592186044422 bytes": {
        "manifest-not-json": lambda: with_manifest(b"format_version: 1"),
        "manifest-duplicate-key": lambda: with_manifest(MANIFEST[:-1] + b',"name":"toy"}'),
        "manifest-nan": lambda: with_manifest(MANIFEST.replace(b'"atol":0.0', b'"atol":NaN')),
        "manifest-deep": lambda: with_manifest(b"[" * 100_000),
        "manifest-unknown-field": lambda: with_manifest(MANIFEST[:-1] + b',"run":"rm"}'),
        "manifest-newer": lambda: with_manifest(MANIFEST.replace(b'"format_version":1', b'"format_version":2')),
        "manifest-shape-bomb": lambda: with_manifest(MANIFEST.replace(b'["batch"]', b"[1000000000000]")),
        "manifest-terabytes": lambda: with_manifest(manifests.encode(make(ref(MODEL, 1 << 44)))),
        "nested-archive": nested,
    },
}


def tree(root: Path) -> dict[str, Any]:
    """Everything below a folder: kind, mode, links, size, time of change, and the bytes of files."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, data)
    return found


def test_the_archive_that_the_hostile_ones_are_made_from_is_good(
    outside: Path, read_whole: Read, toy_package: archive.Package
) -> None:
    (outside / "in" / "good.windlass").write_bytes(Zip().bytes())
    (outside / "in" / "deflated.windlass").write_bytes(Zip(method=8).bytes())
    for name in ("good", "deflated"):
        assert read_whole(outside / "in" / f"{name}.windlass").digest == toy_package.digest


@pytest.mark.promise("P-20", "P-21", "P-60")
@pytest.mark.threat("V3", "V4", "V8", "V16", "F4", "F9")
@pytest.mark.parametrize(
    ("reason", "make_bytes"),
    [pytest.param(why, builder, id=name) for why, cases in ZIPS.items() for name, builder in cases.items()],
)
def test_a_hostile_archive_is_refused_and_touches_nothing(
    outside: Path, read_whole: Read, reason: str, make_bytes: Callable[[], bytes]
) -> None:
    path = outside / "in" / "x.windlass"
    path.write_bytes(make_bytes())
    before = tree(outside)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(REFUSED, match=reason):
            read_whole(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tree(outside) == before
    assert peak < 64 << 20
    assert time.process_time() - started < 1
