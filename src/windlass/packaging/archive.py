"""A package to read: its manifest, and its bytes by digest, wherever they lie.

Opened from a folder, a ZIP file (`.windlass`) or the blob store by the CLI, the registry and serving; built in memory
by `build.py`. Only names that the manifest lists are opened, every byte is hashed before it is handed out, and nothing
is written outside a fresh directory. Must never extract an archive, follow a link, or import a framework.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

from windlass import errors
from windlass.packaging import manifest as manifests
from windlass.packaging import zip_format
from windlass.storage import blobs, local_volume
from windlass.types import manifest

MANIFEST = "manifest.json"
MAX_TOTAL = 1 << 40
MAP_ABOVE = 64 << 20
_FOLDERS = ("blobs", "blobs/sha256")
Buffer: TypeAlias = bytes | memoryview
Source: TypeAlias = Callable[[manifest.BlobRef], Buffer]


class Package:
    """An immutable package. `digest` is the SHA-256 of its manifest, and so its identity."""

    def __init__(self, value: manifest.Manifest, source: Source) -> None:
        """`source` gives the bytes of a blob and raises unless they are what its digest says."""
        self.manifest = value
        self.digest = manifests.digest(value)
        self._source = source
        self._blobs = value.blobs()

    def read(self, ref: manifest.BlobRef) -> Buffer:
        """The verified bytes of one of the package's blobs; `CorruptPackage` if they are not what the digest says."""
        if self._blobs.get(ref.digest) != ref:
            raise errors.CorruptPackage(f"The blob {ref.digest} is not one of this package's.")
        return self._source(ref)

    def model_files(self) -> dict[str, Buffer]:
        """The model's files by the names that the model gives them."""
        return {name: self.read(ref) for name, ref in self.manifest.model.blobs.items()}

    def transform_files(self, spec: manifest.TransformSpec) -> dict[str, bytes]:
        """The files of one of the package's transforms."""
        return {name: bytes(self.read(ref)) for name, ref in spec.blobs.items()}

    def entries(self) -> Iterator[tuple[str, Buffer]]:
        """Every file of the package by the name it has in a folder or archive: the manifest, then blobs by digest."""
        yield MANIFEST, manifests.encode(self.manifest)
        for digest in sorted(self._blobs):
            yield _blob_name(digest), self.read(self._blobs[digest])


def in_memory(value: manifest.Manifest, data: Mapping[str, Buffer]) -> Package:
    """A package whose bytes are held in memory, by digest."""
    manifests.check(value)
    return Package(value, lambda ref: _verified(data.get(ref.digest, b""), ref))


def open_path(path: Path) -> Package:
    """A package in a folder (`manifest.json` beside `blobs/sha256/`) or a ZIP file.

    `NotFound` if there is nothing; `CorruptPackage` with the rule that is broken; `Unsupported` for a newer format.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return _open_folder(path)
        if stat.S_ISREG(status.st_mode):
            return _open_zip(path)
    except (FileNotFoundError, NotADirectoryError):
        raise errors.NotFound(f"There is no package at '{path}'.", hint="Check the path.") from None
    except OSError as e:
        raise errors.Unavailable(f"The package at '{path}' cannot be read: {e.strerror}.") from None
    raise errors.CorruptPackage(f"'{path}' is neither a folder nor a regular file.")


def open_store(store: blobs.BlobStore, digest: str) -> Package:
    """A package in the blob store, where its manifest is a blob like any other, named by the package's digest."""
    return Package(manifests.decode(store.read(digest)), store.read)


def write_zip(package: Package, path: Path) -> None:
    """Write the package as one file; the same package gives the same bytes on every machine.

    `Conflict` if something is there. The file appears whole or not at all.
    """
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, _CREATE, 0o600), "wb") as file:
            zip_format.write(file, package.entries())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise errors.Conflict(f"'{path}' exists already.", hint="Remove it, or choose another name.") from None
    except OSError as e:
        raise errors.Unavailable(f"'{path}' cannot be written: {e.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(package: Package, path: Path) -> None:
    """Write the package as a folder. `Conflict` if something is there. It appears whole or not at all."""
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}"
    try:
        if os.path.lexists(path):
            raise FileExistsError
        temporary.mkdir(mode=0o700)
        with _folder(temporary) as root:
            for name in _FOLDERS:
                os.mkdir(name, 0o700, dir_fd=root)
            for name, data in package.entries():
                _write_file(root, name, data)
            for name in reversed(_FOLDERS):
                with _below(root, name, os.O_RDONLY | os.O_DIRECTORY) as folder:
                    os.fsync(folder)
            os.fsync(root)
        # Over an empty folder that somebody made meanwhile this succeeds, over anything else it fails.
        temporary.rename(path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise errors.Conflict(f"'{path}' exists already.", hint="Remove it, or choose another name.") from None
    except OSError as e:
        raise errors.Unavailable(f"'{path}' cannot be written: {e.strerror}.") from None
    finally:
        _remove_written(temporary, package)


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_folder(path: Path) -> Package:
    with _folder(path) as root:
        value = manifests.decode(_read_small(root))
        names = {_blob_name(digest): ref for digest, ref in value.blobs().items()}
        _check_total(value)
        present = set(_list(root))
        if present != {MANIFEST, *names}:
            raise _not_listed(present, {MANIFEST, *names})
        for name, ref in names.items():
            with _regular_file(root, name, ref.size):
                pass
    return Package(value, lambda ref: _read_folder(path, ref))


def _read_folder(path: Path, ref: manifest.BlobRef) -> Buffer:
    with _folder(path) as root, _regular_file(root, _blob_name(ref.digest), ref.size) as file:
        return _verified(_contents(file, 0, ref.size), ref)


def _read_small(root: int) -> bytes:
    with _regular_file(root, MANIFEST, None) as file:
        return file.read(manifests.MAX_BYTES + 1)


def _open_zip(path: Path) -> Package:
    with path.open("rb") as file:
        found = zip_format.entries(file)
        if MANIFEST not in found or found[MANIFEST].size > manifests.MAX_BYTES:
            raise errors.CorruptPackage(f"The archive has no '{MANIFEST}', or one that is too large.")
        value = manifests.decode(zip_format.read(file, found[MANIFEST]))
    refs = {_blob_name(digest): ref for digest, ref in value.blobs().items()}
    _check_total(value)
    if set(found) != {MANIFEST, *refs}:
        raise _not_listed(set(found), {MANIFEST, *refs})
    for name, ref in refs.items():
        if found[name].size != ref.size:
            raise errors.CorruptPackage(f"The archive's '{name}' is not of the size that the manifest says.")
    return Package(value, lambda ref: _read_zip(path, found[_blob_name(ref.digest)], ref))


def _read_zip(path: Path, entry: zip_format.Entry, ref: manifest.BlobRef) -> Buffer:
    with path.open("rb") as file:
        data = zip_format.read(file, entry) if entry.deflated else _contents(file, entry.start, entry.size)
    return _verified(data, ref)


def _contents(file: BinaryIO, start: int, size: int) -> Buffer:
    """A part of a file: in memory, or above 64 MB a view on a read-only map of the very file that was opened.

    A map only where nobody else may write the file, as it could change after it was hashed.
    """
    status = os.fstat(file.fileno())
    if status.st_size < start + size:
        return b""
    if size <= MAP_ABOVE or not local_volume.only_ours(status):
        file.seek(start)
        return file.read(size)
    return memoryview(mmap.mmap(file.fileno(), start + size, access=mmap.ACCESS_READ))[start:]


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _verified(data: Buffer, ref: manifest.BlobRef) -> Buffer:
    """The very bytes that were hashed."""
    if memoryview(data).nbytes != ref.size or blobs.digest_of(data) != ref.digest:
        raise errors.CorruptPackage(
            f"The bytes of the blob {ref.digest} are not what their digest says.",
            hint="The package was damaged or changed: fetch it again.",
        )
    return data


def _check_total(value: manifest.Manifest) -> None:
    total = sum(ref.size for ref in value.blobs().values())
    if total > MAX_TOTAL:
        raise errors.CorruptPackage(f"The package declares {total} bytes: at most {MAX_TOTAL} are read.")


def _not_listed(present: set[str], listed: set[str]) -> errors.CorruptPackage:
    extra, missing = sorted(present - listed), sorted(listed - present)
    what = f"has {extra[0][:100]!r}, which its manifest does not list" if extra else f"lacks {missing[0]!r}"
    return errors.CorruptPackage(f"The package {what}.")


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _below(root: int, name: str, flags: int) -> Iterator[int]:
    """Open something below a directory, one component at a time, without following any link."""
    opened: list[int] = []
    try:
        *folders, last = name.split("/")
        at = root
        for folder in folders:
            at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            opened.append(at)
        opened.append(os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at))
    except OSError as e:
        for fd in opened:
            os.close(fd)
        if isinstance(e, FileNotFoundError):
            raise errors.CorruptPackage(f"The package lacks '{name}'.") from None
        raise _not_regular(name) from None
    try:
        yield opened[-1]
    finally:
        for fd in opened:
            os.close(fd)


def _not_regular(name: str) -> errors.CorruptPackage:
    return errors.CorruptPackage(
        f"The package's '{name}' is a link, or not the regular file or folder that it must be."
    )


@contextlib.contextmanager
def _regular_file(root: int, name: str, size: int | None) -> Iterator[BinaryIO]:
    """A file below a directory; it must be regular, have one name only, and be of this size."""
    with _below(root, name, os.O_RDONLY | os.O_NONBLOCK) as fd:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _not_regular(name)
        if size is not None and status.st_size != size:
            raise errors.CorruptPackage(f"The package's '{name}' is not of the size that the manifest says.")
        with os.fdopen(fd, "rb", closefd=False) as file:
            yield file


def _list(root: int) -> Iterator[str]:
    """Every file name below a package's folder, and every folder that no package has."""
    for folder in ("", *_FOLDERS):
        with _below(root, folder or ".", os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as items:
            for count, item in enumerate(items):
                if count > manifests.MAX_BLOBS:
                    raise errors.CorruptPackage(f"The package has more than {manifests.MAX_BLOBS} files.")
                name = f"{folder}/{item.name}" if folder else item.name
                if name not in _FOLDERS:
                    yield name


def _write_file(root: int, name: str, data: Buffer) -> None:
    fd = os.open(name, _CREATE, 0o600, dir_fd=root)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync_folder(path: Path) -> None:
    with _folder(path) as fd:
        os.fsync(fd)


def _remove_written(path: Path, package: Package) -> None:
    """Remove what a failed write left: only names that it may have made."""
    if not path.is_dir():
        return
    for digest in package.manifest.blobs():
        (path / _blob_name(digest)).unlink(missing_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)
    for name in reversed(_FOLDERS):
        with contextlib.suppress(OSError):
            (path / name).rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()
