"""Hostile packages, one for each way in which an archive or a folder has misled a reader somewhere.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging import archive
from windlass.packaging import manifest as manifests
from windlass.storage import blobs
from windlass.types import manifest, signature

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


def package() -> archive.Package:
    return archive.in_memory(make(), {ref(data).digest: data for data in (MODEL, GOLDEN)})


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


def read_whole(path: Path) -> archive.Package:
    opened = archive.open_path(path)
    for _ in opened.entries():
        pass
    return opened


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A tree with something worth reaching, beside the place where the package lies."""
    (tmp_path / "secret").write_bytes(MODEL)
    (tmp_path / "in").mkdir()
    return tmp_path


def test_the_archive_that_the_hostile_ones_are_made_from_is_good(outside: Path) -> None:
    (outside / "in" / "good.windlass").write_bytes(Zip().bytes())
    (outside / "in" / "deflated.windlass").write_bytes(Zip(method=8).bytes())
    for name in ("good", "deflated"):
        assert read_whole(outside / "in" / f"{name}.windlass").digest == package().digest


@pytest.mark.promise("P-20", "P-21", "P-60")
@pytest.mark.threat("V3", "V4", "V8", "V16", "F4", "F9")
@pytest.mark.parametrize(
    ("reason", "make_bytes"),
    [pytest.param(why, builder, id=name) for why, cases in ZIPS.items() for name, builder in cases.items()],
)
def test_a_hostile_archive_is_refused_and_touches_nothing(
    outside: Path, reason: str, make_bytes: Callable[[], bytes]
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


def put_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def put_folder_link(path: Path) -> None:
    path.rename(path.parent / "real")
    path.symlink_to("real")


def put_hard_link(path: Path, target: Path) -> None:
    path.unlink()
    path.hardlink_to(target)


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def put_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


FOLDERS: dict[str, Callable[[Path, Path], Any]] = {
    "manifest-symlink": lambda root, secret: put_link(root / "manifest.json", secret),
    "blob-symlink": lambda root, secret: put_link(root / blob(MODEL), secret),
    "blob-dangling-symlink": lambda root, _: put_link(root / blob(MODEL), Path("nowhere")),
    "blob-proc-symlink": lambda root, _: put_link(root / blob(MODEL), Path("/proc/self/exe")),
    "blobs-folder-symlink": lambda root, _: put_folder_link(root / "blobs"),
    "sha256-folder-symlink": lambda root, _: put_folder_link(root / "blobs" / "sha256"),
    "blob-hard-link": lambda root, secret: put_hard_link(root / blob(MODEL), secret),
    "manifest-hard-link": lambda root, _: (root.parent / "twin").hardlink_to(root / "manifest.json"),
    "blob-fifo": lambda root, _: put_fifo(root / blob(MODEL)),
    "manifest-fifo": lambda root, _: put_fifo(root / "manifest.json"),
    "blob-folder": lambda root, _: put_folder(root / blob(MODEL)),
    "manifest-folder": lambda root, _: put_folder(root / "manifest.json"),
    "blob-sparse-terabyte": lambda root, _: put_sparse(root / blob(MODEL)),
    "blob-longer": lambda root, _: put_bytes(root / blob(MODEL), MODEL + b"\0"),
    "blob-shorter": lambda root, _: put_bytes(root / blob(MODEL), MODEL[:-1]),
    "blob-flipped": lambda root, _: put_bytes(root / blob(MODEL), b"T" + MODEL[1:]),
    "blob-missing": lambda root, _: (root / blob(MODEL)).unlink(),
    "manifest-missing": lambda root, _: (root / "manifest.json").unlink(),
    "extra-file": lambda root, _: put_bytes(root / "setup.py", b"evil"),
    "extra-blob": lambda root, _: put_bytes(root / "blobs" / "sha256" / ("0" * 64), b"evil"),
    "extra-folder": lambda root, _: (root / "blobs" / "md5").mkdir(),
    "upper-case-twin": lambda root, _: put_bytes(root / "MANIFEST.JSON", MANIFEST),
    "blobs-is-a-file": lambda root, _: (root / "blobs").rename(root.parent / "b") and put_bytes(root / "blobs", b""),
}


@pytest.mark.promise("P-20", "P-60")
@pytest.mark.threat("V16", "F4")
@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_is_refused_and_touches_nothing(outside: Path, case: str) -> None:
    root = outside / "in" / "package"
    archive.write_folder(package(), root)
    assert read_whole(root).digest == package().digest
    FOLDERS[case](root, outside / "secret")
    before = {name: values[:3] for name, values in tree_without_bytes(outside)}
    with pytest.raises(REFUSED):
        read_whole(root)
    assert {name: values[:3] for name, values in tree_without_bytes(outside)} == before


def tree_without_bytes(root: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        yield str(path), (status.st_mode, status.st_nlink, status.st_size)


GOOD = Zip().bytes()
GOOD_DEFLATED = Zip(method=8).bytes()


@pytest.mark.promise("P-20")
@given(
    st.sampled_from([GOOD, GOOD_DEFLATED]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-30, 30),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_refused_or_mean_exactly_the_same_package(
    tmp_path: Path, whole: bytes, changes: list[tuple[int, int]], resize: int
) -> None:
    data = bytearray(whole)
    for at, byte in changes:
        data[at % len(data)] = byte
    data = data[:resize] if resize < 0 else data + bytes(resize if resize > 20 else 0)
    path = tmp_path / "x.windlass"
    path.write_bytes(bytes(data))
    try:
        opened = read_whole(path)
    except REFUSED:
        return
    assert dict(opened.entries()) == FILES


@pytest.mark.promise("P-20")
@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_before_a_valid_end_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.windlass"
    path.write_bytes(data + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(data), 0, 0))
    with pytest.raises(REFUSED):
        read_whole(path)


@pytest.mark.promise("P-20")
def test_what_is_imported_takes_no_more_than_was_declared(tmp_path: Path) -> None:
    (tmp_path / "x.windlass").write_bytes(GOOD_DEFLATED)
    opened = archive.open_path(tmp_path / "x.windlass")
    declared = sum(r.size for r in opened.manifest.blobs().values()) + len(MANIFEST)
    archive.import_to(blobs.BlobStore(tmp_path / "store"), opened)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == declared


@pytest.mark.promise("P-60")
def test_a_broken_package_puts_no_manifest_into_a_store(tmp_path: Path) -> None:
    broken = archive.Package(make(), lambda r: archive.in_memory(make(), {r.digest: b"broken"}).read(r))
    store = blobs.BlobStore(tmp_path)
    with pytest.raises(errors.CorruptPackage):
        archive.import_to(store, broken)
    assert not store.exists(broken.digest)
