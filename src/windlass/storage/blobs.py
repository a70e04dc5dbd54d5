"""The blob store: bytes named by their SHA-256, verified on every read.

Used by packaging (import, export, load), by the registry and by serving. Layout below the root: `sha256/ab/<hex>` for
what is in use, `trash/` for what the collector let go, `quarantine/` for what broke, each with its reason beside it.
Must never hand out a byte that was not hashed, and never list to decide whether a blob exists.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from windlass import errors
from windlass.storage import local_volume, remote_volume, volume
from windlass.types import manifest, refs

Buffer = volume.Buffer
Place = Literal["sha256", "trash", "quarantine"]
_CHUNK = 1 << 20
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_HEX = re.compile(r"[0-9a-f]{64}")


class Finding(msgspec.Struct, frozen=True):
    """What a scrub found wrong with one blob, which it has put into quarantine."""

    digest: str
    reason: str


def digest_of(data: Buffer) -> str:
    """`sha256:<hex>` of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class BlobStore:
    """Content-addressed bytes below a root: a path, `file://...`, `memory://...` or an object store's URL.

    Safe to use from several threads and processes at once. `operations` lets tests make the disk fail.
    """

    def __init__(self, root: str | Path, *, operations: local_volume.FileOperations | None = None) -> None:
        scheme = _SCHEME.match(root) if isinstance(root, str) else None
        self._volume: volume.Volume
        if scheme is None or scheme[1] == "file":
            path = Path(str(root)[scheme.end() :] if scheme else root).absolute()
            self._volume = local_volume.LocalVolume(path, operations)
        else:
            self._volume = remote_volume.RemoteVolume(str(root))

    @property
    def read_only(self) -> str:
        """Why the store takes no more writes; empty while it does."""
        return self._volume.read_only

    def put(self, data: Buffer | bytearray | Path | BinaryIO) -> manifest.BlobRef:
        """Store bytes, or a file's (a path or a seekable binary stream), durably. Storing them again changes nothing.

        A blob that is there already is verified first: were it broken, it is quarantined and written anew.
        Raises `StoreReadOnly` after a write that could not be made durable, `Unavailable` when the disk is full.
        """
        if isinstance(data, Path):
            with data.open("rb") as file:
                return self._put_stream(file)
        if isinstance(data, (bytes, bytearray, memoryview)):
            return self._put_bytes(memoryview(data))
        return self._put_stream(data)

    def read(self, blob: manifest.BlobRef | str, size: int | None = None) -> Buffer:
        """The bytes of a blob, hashed before they are returned: in memory, or above 64 MB a read-only map.

        A file that others may write is read into memory whatever its size, as a map of it could change after its hash.

        `NotFound` if there is none; `CorruptPackage` if the bytes are not the digest's (the blob is then in
        quarantine), or if they are and only the size asked for is wrong (it then stays where it is).
        """
        digest, size = (blob.digest, blob.size) if isinstance(blob, manifest.BlobRef) else (blob, size)
        data = self._volume.read(_key("sha256", digest), size)
        if data is None:
            raise errors.NotFound(f"The blob {digest} is not in the store.")
        wrong = _difference(data, digest, size)
        if not wrong:
            return data
        # A size comes from a manifest that somebody wrote: it must not take away a blob that others need.
        whole = data if size is None else self._volume.read(_key("sha256", digest), None)
        broken = "" if whole is None else _difference(whole, digest, None)
        if not broken:
            raise errors.CorruptPackage(
                f"The blob {digest} is not the one that is asked for: {wrong}.",
                hint="The manifest that names it is wrong: get the package again.",
            )
        self._quarantine_if_writable(digest, broken)
        raise errors.CorruptPackage(
            f"The blob {digest} is corrupt: {broken}. It was put into quarantine.",
            hint="Import the package again, or restore the blob from a copy.",
        )

    def exists(self, digest: str) -> bool:
        """Whether a blob of this digest is in use (trash and quarantine do not count)."""
        return self._volume.size(_key("sha256", digest)) is not None

    def size(self, digest: str) -> int | None:
        """The size of a blob in bytes, or None if there is none."""
        return self._volume.size(_key("sha256", digest))

    def trash(self, digest: str) -> bool:
        """Move a blob to the trash, from which `restore` takes it back; False if there is none."""
        return self._volume.move(_key("sha256", digest), _key("trash", digest))

    def restore(self, digest: str) -> bool:
        """Take a blob back from the trash; False if it is not there."""
        return self._volume.move(_key("trash", digest), _key("sha256", digest))

    def delete(self, digest: str) -> bool:
        """Remove a blob for good, wherever it lies; False if it was nowhere."""
        gone = [self._volume.remove(_key(place, digest)) for place in ("sha256", "trash", "quarantine")]
        self._volume.remove(_key("quarantine", digest) + ".reason")
        return any(gone)

    def quarantine(self, digest: str, reason: str) -> bool:
        """Put a blob where nothing reads it, with the reason beside it; False if there is none."""
        if not self._volume.move(_key("sha256", digest), _key("quarantine", digest)):
            return False
        self._volume.create(_key("quarantine", digest) + ".reason", [reason.encode()])
        return True

    def quarantined(self) -> Iterator[Finding]:
        """Every blob in quarantine, and why."""
        for digest in self.digests("quarantine"):
            reason = self._volume.read(_key("quarantine", digest) + ".reason", None)
            yield Finding(digest, bytes(reason or b"unknown").decode("utf-8", "replace"))

    def digests(self, place: Place = "sha256") -> Iterator[str]:
        """Every blob in a place. For scrub, collection and rebuild; never to decide whether one exists."""
        for key in self._volume.keys(place):
            name = key.rpartition("/")[2]
            if _HEX.fullmatch(name):
                yield f"sha256:{name}"

    def scrub(self) -> Iterator[Finding]:
        """Hash every blob; quarantine and yield each that is broken. The caller sets the pace between steps."""
        for digest in self.digests():
            data = self._volume.read(_key("sha256", digest), None)
            wrong = "" if data is None else _difference(data, digest, None)
            if wrong:
                self._quarantine_if_writable(digest, wrong)
                yield Finding(digest, wrong)
        if not self._volume.read_only:
            self._volume.sweep()

    def _put_bytes(self, data: Buffer) -> manifest.BlobRef:
        ref = manifest.BlobRef(digest_of(data), memoryview(data).nbytes)
        self._create(ref, [data])
        return ref

    def _put_stream(self, file: BinaryIO) -> manifest.BlobRef:
        start = file.tell()
        hasher, size = hashlib.sha256(), 0
        for chunk in _chunks(file):
            hasher.update(chunk)
            size += len(chunk)
        ref = manifest.BlobRef(f"sha256:{hasher.hexdigest()}", size)
        file.seek(start)
        self._create(ref, _hashed_chunks(file, ref))
        return ref

    def _create(self, ref: manifest.BlobRef, chunks: Iterable[Buffer]) -> None:
        if self._volume.read_only:
            # Even for bytes that are there: what a failed fsync left is not to be trusted before a restart.
            raise errors.StoreReadOnly(f"The blob store is read-only since {self._volume.read_only}.")
        key = _key("sha256", ref.digest)
        present = self._volume.read(key, ref.size)
        if present is not None:
            wrong = _difference(present, ref.digest, ref.size)
            if not wrong:
                self._volume.confirm(key)
                return
            self.quarantine(ref.digest, wrong)
        self._volume.create(key, chunks)

    def _quarantine_if_writable(self, digest: str, reason: str) -> None:
        try:
            self.quarantine(digest, reason)
        except errors.Unavailable:
            # A store that cannot be written still must not serve the bytes; the reader is told either way.
            return


def _key(place: Place, digest: str) -> str:
    if not refs.DIGEST.fullmatch(digest):
        raise errors.UsageError(f"'{digest[:80]}' is no digest: write sha256: and 64 hex digits")
    name = digest.removeprefix("sha256:")
    return f"sha256/{name[:2]}/{name}" if place == "sha256" else f"{place}/{name}"


def _difference(data: Buffer, digest: str, size: int | None) -> str:
    """What is wrong with the bytes of a blob; empty if nothing is."""
    if size is not None and memoryview(data).nbytes != size:
        return f"its size is not {size} bytes"
    actual = digest_of(data)
    return "" if actual == digest else f"its bytes hash to {actual}"


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes. That it cannot be read says nothing about the store's own disk."""
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except OSError as e:
        raise errors.Unavailable(f"The file to store could not be read: {e.strerror}.") from None


def _hashed_chunks(file: BinaryIO, ref: manifest.BlobRef) -> Iterator[bytes]:
    """The chunks of a file; `Conflict` at the end if they are not what was hashed before."""
    hasher = hashlib.sha256()
    for chunk in _chunks(file):
        hasher.update(chunk)
        yield chunk
    if f"sha256:{hasher.hexdigest()}" != ref.digest:
        raise errors.Conflict("The file changed while it was being stored: nothing was stored.")
