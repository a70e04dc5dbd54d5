"""A sweep beside a write: it may cost the write a second try, never the store."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from windlass import errors
from windlass.storage import blobs, local_volume


class Swept(local_volume.FileOperations):
    """The first new file is looked at by a sweep before its writer has locked it."""

    def __init__(self) -> None:
        self.looked = False

    def create(self, path: Path) -> int:
        if not self.looked:
            self.looked = True
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return super().create(path)


def test_a_sweep_that_looks_at_a_new_file_does_not_close_the_store(tmp_path: Path) -> None:
    store = blobs.BlobStore(tmp_path, operations=Swept())
    with pytest.raises(errors.Unavailable):
        store.put(b"data")
    assert not store.read_only
    assert bytes(store.read(store.put(b"data"))) == b"data"


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOLCK])
def test_a_file_that_cannot_be_locked_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = list(Path("/proc/self/fd").iterdir())
    for number in range(5):
        with pytest.raises(OSError, match=os.strerror(code)):
            local_volume.FileOperations().create(tmp_path / str(number))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
