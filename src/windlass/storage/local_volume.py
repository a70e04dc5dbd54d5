"""The store's bytes on a local disk, written so that a crash or a power cut loses nothing that was acknowledged.

Made by `blobs.py`. A write goes to a temporary file, fsync, link without overwrite, fsync of the directory. Must never
retry an fsync that failed (the kernel may have dropped the pages and report success next time): the volume turns
read-only and says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from windlass import errors
from windlass.storage import volume

MAP_ABOVE = 64 << 20
_INCOMING = "incoming"
# These say nothing about the bytes already written: the write failed cleanly and may be tried again.
# (EAGAIN: a sweep looked at the new file before its writer had locked it.)
_TRANSIENT = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT, errno.EAGAIN)
)
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def only_ours(status: os.stat_result) -> bool:
    """Whether nobody but us and root may write a file: a map of any other could change after it was hashed."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class FileOperations:
    """Every operation by which the volume changes the disk; tests pass one that fails where they want."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def create(self, path: Path) -> int:
        """A new file, opened for writing and locked, so that a sweep can tell it from a dead writer's."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o440)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def write(self, fd: int, data: volume.Buffer) -> int:
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class LocalVolume:
    """A `Volume` below a directory, which is made when the first key is written."""

    def __init__(self, root: Path, operations: FileOperations | None = None) -> None:
        self._root = root
        self._do = operations or FileOperations()
        self._read_only = ""

    @property
    def read_only(self) -> str:
        """Why nothing may be written any more; empty while writing works."""
        return self._read_only

    def create(self, key: str, chunks: Iterable[volume.Buffer]) -> None:
        """Write a key that appears whole or not at all."""
        target = self._root / key
        made = False
        with self._writing():
            self._directory(target.parent)
            self._directory(self._root / _INCOMING)
            temporary = self._root / _INCOMING / secrets.token_hex(16)
            fd = self._do.create(temporary)
            try:
                try:
                    for chunk in chunks:
                        self._write_all(fd, chunk)
                    self._sync(lambda: self._do.sync(fd))
                finally:
                    os.close(fd)
                with contextlib.suppress(FileExistsError):
                    self._do.link(temporary, target)
                    made = True
            except BaseException:
                # Whatever stopped the write, its temporary file goes; a second failure must not hide the first.
                with contextlib.suppress(OSError):
                    self._do.remove(temporary)
                raise
            self._do.remove(temporary)
            self._sync_entry(target, made=made)

    def confirm(self, key: str) -> None:
        """Make a key durable that another writer may have made a moment ago."""
        with self._writing():
            self._sync_entry(self._root / key, made=False)

    def read(self, key: str, size: int | None) -> volume.Buffer | None:
        """All bytes of a key; above 64 MB a read-only map of the very file that was opened, if it is `only_ours`."""
        try:
            fd = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno == errno.ELOOP:
                return b""
            raise errors.Unavailable(f"The blob store could not read ({_reason(e)}).") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return b""
            whole = size is None or size == status.st_size
            if whole and status.st_size > MAP_ABOVE and only_ours(status):
                return memoryview(mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ))
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read((status.st_size if whole else min(status.st_size, MAP_ABOVE)) + 1)
        except OSError as e:
            raise errors.Unavailable(f"The blob store could not read ({_reason(e)}).") from None
        finally:
            os.close(fd)

    def size(self, key: str) -> int | None:
        """The size of a key in bytes, or None."""
        try:
            return (self._root / key).lstat().st_size
        except FileNotFoundError:
            return None

    def move(self, key: str, target: str) -> bool:
        """Rename a key, over what the target held; False if there is none."""
        source, destination = self._root / key, self._root / target
        with self._writing():
            self._directory(destination.parent)
            try:
                self._do.rename(source, destination)
            except FileNotFoundError:
                return False
            self._sync(lambda: self._do.sync_directory(destination.parent))
            self._sync(lambda: self._do.sync_directory(source.parent))
        return True

    def remove(self, key: str) -> bool:
        """Remove a key; False if there is none."""
        path = self._root / key
        with self._writing():
            try:
                self._do.remove(path)
            except FileNotFoundError:
                return False
            self._sync(lambda: self._do.sync_directory(path.parent))
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below a prefix, in order."""
        start = self._root / prefix
        for folder, subfolders, names in os.walk(start):
            subfolders.sort()
            for name in sorted(names):
                yield str((Path(folder) / name).relative_to(self._root))

    def sweep(self) -> None:
        """Remove temporary files whose writers died: nobody holds their lock."""
        for key in self.keys(_INCOMING):
            try:
                fd = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                self.remove(key)
            finally:
                os.close(fd)

    def _directory(self, path: Path) -> None:
        """Make a directory and those above it, each durable in its parent."""
        if path.is_dir():
            return
        if path != path.parent:
            self._directory(path.parent)
        with contextlib.suppress(FileExistsError):
            self._do.make_directory(path)
        self._sync(lambda: self._do.sync_directory(path.parent))

    def _write_all(self, fd: int, data: volume.Buffer) -> None:
        view = memoryview(data)
        while view:
            # A bounded piece, as one write transfers at most 2 GiB.
            view = view[self._do.write(fd, view[: 1 << 30]) :]

    def _sync_entry(self, target: Path, *, made: bool) -> None:
        """Make a name durable. If that fails and this write made it, it goes, so that nobody takes it for durable.

        One that was there before stays: somebody may have been told that it is stored.
        """
        try:
            self._sync(lambda: self._do.sync_directory(target.parent))
        except errors.StoreReadOnly:
            if made:
                with contextlib.suppress(OSError):
                    self._do.remove(target)
            raise

    def _sync(self, sync: Callable[[], None]) -> None:
        try:
            sync()
        except OSError as e:
            raise self._stop(f"fsync failed ({_reason(e)})") from None

    def _stop(self, reason: str) -> errors.StoreReadOnly:
        self._read_only = self._read_only or reason
        return _refusal(self._read_only)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuse if the volume is read-only; turn what the disk says into what it means for the store."""
        if self._read_only:
            raise _refusal(self._read_only)
        try:
            yield
        except OSError as e:
            if e.errno in _FULL:
                raise errors.Unavailable(
                    "The disk of the blob store is full: nothing was stored.",
                    hint="Free some space or delete versions (windlass gc), then try again.",
                ) from None
            if e.errno in _TRANSIENT:
                raise errors.Unavailable(
                    f"The blob store could not write ({_reason(e)}): nothing was stored."
                ) from None
            raise self._stop(f"a write failed ({_reason(e)})") from None


def _refusal(reason: str) -> errors.StoreReadOnly:
    return errors.StoreReadOnly(
        f"The blob store is read-only since {reason}: nothing was stored.",
        hint="What was stored before is still served. Check the disk, then restart.",
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "unknown error"
