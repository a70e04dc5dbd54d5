"""A good package that was changed: links and other things in its folder, any byte of its archive, a broken import.

Each is read whole. It must be refused, or mean exactly the same package, and leave the tree around it as it was.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
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

Read = Callable[[Path], archive.Package]
REFUSED = (errors.CorruptPackage, errors.Unsupported)
# The toy package's model, and where it lies in a folder.
MODEL = b"the model's bytes" * 20
BLOB = f"blobs/sha256/{hashlib.sha256(MODEL).hexdigest()}"


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
    "blob-symlink": lambda root, secret: put_link(root / BLOB, secret),
    "blob-dangling-symlink": lambda root, _: put_link(root / BLOB, Path("nowhere")),
    "blob-proc-symlink": lambda root, _: put_link(root / BLOB, Path("/proc/self/exe")),
    "blobs-folder-symlink": lambda root, _: put_folder_link(root / "blobs"),
    "sha256-folder-symlink": lambda root, _: put_folder_link(root / "blobs" / "sha256"),
    "blob-hard-link": lambda root, secret: put_hard_link(root / BLOB, secret),
    "manifest-hard-link": lambda root, _: (root.parent / "twin").hardlink_to(root / "manifest.json"),
    "blob-fifo": lambda root, _: put_fifo(root / BLOB),
    "manifest-fifo": lambda root, _: put_fifo(root / "manifest.json"),
    "blob-folder": lambda root, _: put_folder(root / BLOB),
    "manifest-folder": lambda root, _: put_folder(root / "manifest.json"),
    "blob-sparse-terabyte": lambda root, _: put_sparse(root / BLOB),
    "blob-longer": lambda root, _: put_bytes(root / BLOB, MODEL + b"\0"),
    "blob-shorter": lambda root, _: put_bytes(root / BLOB, MODEL[:-1]),
    "blob-flipped": lambda root, _: put_bytes(root / BLOB, b"T" + MODEL[1:]),
    "blob-missing": lambda root, _: (root / BLOB).unlink(),
    "manifest-missing": lambda root, _: (root / "manifest.json").unlink(),
    "extra-file": lambda root, _: put_bytes(root / "setup.py", b"evil"),
    "extra-blob": lambda root, _: put_bytes(root / "blobs" / "sha256" / ("0" * 64), b"evil"),
    "extra-folder": lambda root, _: (root / "blobs" / "md5").mkdir(),
    "upper-case-twin": lambda root, _: put_bytes(root / "MANIFEST.JSON", (root / "manifest.json").read_bytes()),
    "blobs-is-a-file": lambda root, _: (root / "blobs").rename(root.parent / "b") and put_bytes(root / "blobs", b""),
}


@pytest.mark.promise("P-20", "P-60")
@pytest.mark.threat("V16", "F4")
@pytest.mark.parametrize("case", FOLDERS)
def test_a_hostile_folder_is_refused_and_touches_nothing(
    outside: Path, read_whole: Read, toy_package: archive.Package, case: str
) -> None:
    root = outside / "in" / "package"
    archive.write_folder(toy_package, root)
    assert read_whole(root).digest == toy_package.digest
    FOLDERS[case](root, outside / "secret")
    before = {name: values[:3] for name, values in tree_without_bytes(outside)}
    with pytest.raises(REFUSED):
        read_whole(root)
    assert {name: values[:3] for name, values in tree_without_bytes(outside)} == before


def tree_without_bytes(root: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        yield str(path), (status.st_mode, status.st_nlink, status.st_size)


@pytest.fixture(scope="session")
def archives(toy_package: archive.Package) -> dict[str, bytes]:
    """The package as Python's own library packs it, with what Windlass allows."""
    found = {}
    for kind, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, data in toy_package.entries():
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o100600 << 16
                file.writestr(info, data, method, 9)
        found[kind] = out.getvalue()
    return found


def test_the_archives_that_are_changed_are_good(
    tmp_path: Path, read_whole: Read, archives: dict[str, bytes], toy_package: archive.Package
) -> None:
    for kind, whole in archives.items():
        (tmp_path / kind).write_bytes(whole)
        assert read_whole(tmp_path / kind).digest == toy_package.digest


@pytest.mark.promise("P-20")
@given(
    kind=st.sampled_from(["stored", "deflated"]),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4),
    resize=st.integers(-30, 30),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_refused_or_mean_exactly_the_same_package(
    tmp_path: Path,
    read_whole: Read,
    archives: dict[str, bytes],
    toy_package: archive.Package,
    kind: str,
    changes: list[tuple[int, int]],
    resize: int,
) -> None:
    data = bytearray(archives[kind])
    for at, byte in changes:
        data[at % len(data)] = byte
    data = data[:resize] if resize < 0 else data + bytes(resize if resize > 20 else 0)
    path = tmp_path / "x.windlass"
    path.write_bytes(bytes(data))
    try:
        opened = read_whole(path)
    except REFUSED:
        return
    assert dict(opened.entries()) == dict(toy_package.entries())


@pytest.mark.promise("P-20")
@given(data=st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_before_a_valid_end_are_refused(tmp_path: Path, read_whole: Read, data: bytes) -> None:
    path = tmp_path / "x.windlass"
    path.write_bytes(data + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(data), 0, 0))
    with pytest.raises(REFUSED):
        read_whole(path)


@pytest.mark.promise("P-20")
def test_what_is_imported_takes_no_more_than_was_declared(tmp_path: Path, archives: dict[str, bytes]) -> None:
    (tmp_path / "x.windlass").write_bytes(archives["deflated"])
    opened = archive.open_path(tmp_path / "x.windlass")
    declared = sum(r.size for r in opened.manifest.blobs().values()) + len(manifests.encode(opened.manifest))
    store = blobs.BlobStore(tmp_path / "store")
    for _, data in opened.entries():
        store.put(data)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == declared
