"""A blob store on a disk that fails, is full or shared: what may be lost is not acknowledged, and nothing is lost."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from windlass import errors
from windlass.storage import blobs, local_volume

Place = Callable[[Path, bytes], Path]
Overwrite = Callable[[Path, bytes], None]
DATA = b"some bytes of a model"


class Failing(local_volume.FileOperations):
    """Fails the n-th operation (of one kind, or of all), and counts them. Writes half of what it was given first."""

    def __init__(self, kind: str = "", at: int = 0, code: int = errno.EIO) -> None:
        self.kind, self.at, self.code = kind, at, code
        self.log: list[str] = []

    def _step(self, kind: str) -> None:
        self.log.append(kind)
        count = self.log.count(kind) if self.kind else len(self.log)
        if self.at == count and self.kind in ("", kind):
            raise OSError(self.code, os.strerror(self.code))

    def make_directory(self, path: Path) -> None:
        self._step("make_directory")
        super().make_directory(path)

    def create(self, path: Path) -> int:
        self._step("create")
        return super().create(path)

    def write(self, fd: int, data: blobs.Buffer) -> int:
        self._step("write")
        return super().write(fd, memoryview(data)[: max(1, len(data) // 2)])

    def sync(self, fd: int) -> None:
        self._step("sync")
        super().sync(fd)

    def link(self, source: Path, target: Path) -> None:
        self._step("link")
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._step("remove")
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory")
        super().sync_directory(path)


def steps_of_a_put(root: Path) -> list[str]:
    counted = Failing()
    blobs.BlobStore(root, operations=counted).put(DATA)
    return counted.log


class TestFailingDisk:
    def test_a_put_writes_syncs_links_and_syncs_the_directory(self, tmp_path: Path) -> None:
        blobs.BlobStore(tmp_path).put(b"so that the directories are there")
        steps = steps_of_a_put(tmp_path)
        assert steps[-5:] == ["write", "sync", "link", "remove", "sync_directory"]
        assert steps[-6] == "write", "a short write is continued"

    @pytest.mark.promise("P-58")
    def test_after_an_io_error_at_any_point_nothing_is_acknowledged(self, tmp_path: Path) -> None:
        for at in range(1, len(steps_of_a_put(tmp_path / "count")) + 1):
            root = tmp_path / str(at)
            failing = Failing("", at, errno.EIO)
            store = blobs.BlobStore(root, operations=failing)
            with pytest.raises(errors.StoreReadOnly, match="read-only since"):
                store.put(DATA)
            assert store.read_only
            before = len(failing.log)
            for _ in range(2):
                with pytest.raises(errors.StoreReadOnly, match="read-only since"):
                    store.put(b"other")
            assert len(failing.log) == before, "a disk that failed is not written again"
            again = blobs.BlobStore(root)
            assert list(again.scrub()) == []
            assert bytes(again.read(again.put(DATA))) == DATA
            assert list((root / "incoming").iterdir()) == []

    @pytest.mark.promise("P-58")
    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
    @pytest.mark.parametrize("kind", ["sync", "sync_directory"])
    def test_a_failed_fsync_is_never_retried(self, tmp_path: Path, kind: str, code: int) -> None:
        first = blobs.BlobStore(tmp_path).put(b"first")
        failing = Failing(kind, 1, code)
        store = blobs.BlobStore(tmp_path, operations=failing)
        with pytest.raises(errors.StoreReadOnly, match="fsync failed"):
            store.put(DATA)
        with pytest.raises(errors.StoreReadOnly, match="fsync failed"):
            store.trash(first.digest)
        assert failing.log.count(kind) == 1
        assert not store.exists(blobs.digest_of(DATA)), "a name that may be lost is not left for a later put to find"
        assert bytes(store.read(first)) == b"first"

    @pytest.mark.promise("P-58")
    def test_a_failed_fsync_takes_nothing_away_that_was_acknowledged(self, tmp_path: Path) -> None:
        ref = blobs.BlobStore(tmp_path).put(DATA)
        with pytest.raises(errors.StoreReadOnly):
            blobs.BlobStore(tmp_path, operations=Failing("sync_directory", 1)).put(DATA)
        assert bytes(blobs.BlobStore(tmp_path).read(ref)) == DATA

    @pytest.mark.promise("P-59")
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_fails_cleanly_and_works_again_with_space(self, tmp_path: Path, code: int) -> None:
        steps = steps_of_a_put(tmp_path / "count")
        points = [at for at, step in enumerate(steps, 1) if not step.startswith("sync")]
        assert len(points) >= 6
        for at in points:
            store = blobs.BlobStore(tmp_path / str(at), operations=Failing("", at, code))
            with pytest.raises(errors.Unavailable, match="disk of the blob store is full") as caught:
                store.put(DATA)
            assert not isinstance(caught.value, errors.StoreReadOnly)
            assert not store.read_only
            assert bytes(store.read(store.put(DATA))) == DATA
            assert list(store.scrub()) == []

    @pytest.mark.promise("P-58")
    @pytest.mark.parametrize("kind", ["make_directory", "rename", "sync_directory"])
    def test_an_io_error_while_moving_loses_nothing(self, tmp_path: Path, kind: str) -> None:
        ref = blobs.BlobStore(tmp_path).put(DATA)
        store = blobs.BlobStore(tmp_path, operations=Failing(kind, 1))
        with pytest.raises(errors.StoreReadOnly):
            store.trash(ref.digest)
        again = blobs.BlobStore(tmp_path)
        again.restore(ref.digest)
        assert bytes(again.read(ref)) == DATA

    def test_bytes_that_are_there_are_made_durable_before_they_are_acknowledged(self, tmp_path: Path) -> None:
        """Another writer may have linked them a moment ago and not yet synced the directory."""
        blobs.BlobStore(tmp_path).put(DATA)
        assert steps_of_a_put(tmp_path) == ["sync_directory"]

    def test_two_writers_of_the_same_bytes_both_succeed(self, tmp_path: Path, place: Place) -> None:
        class Raced(local_volume.FileOperations):
            def link(self, source: Path, target: Path) -> None:
                blobs.BlobStore(tmp_path).put(DATA)
                super().link(source, target)

        ref = blobs.BlobStore(tmp_path, operations=Raced()).put(DATA)
        assert bytes(blobs.BlobStore(tmp_path).read(ref)) == DATA
        assert place(tmp_path, DATA).stat().st_nlink == 1

    def test_a_scrub_removes_what_a_dead_writer_left_and_spares_a_live_one(self, tmp_path: Path) -> None:
        store = blobs.BlobStore(tmp_path)
        store.put(DATA)
        (tmp_path / "incoming" / "dead").write_bytes(b"half")

        class Slow(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() == 0 and self.seen:
                    assert list(store.scrub()) == []
                self.seen = True
                return super().read(size)

            seen = False

        ref = store.put(Slow(b"alive"))
        assert bytes(store.read(ref)) == b"alive"
        assert list((tmp_path / "incoming").iterdir()) == []

    def test_stored_files_cannot_be_changed_by_accident(self, tmp_path: Path, place: Place) -> None:
        blobs.BlobStore(tmp_path / "s").put(DATA)
        assert place(tmp_path / "s", DATA).stat().st_mode & 0o333 == 0
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700

    def test_a_store_that_cannot_be_written_still_refuses_broken_bytes(
        self, tmp_path: Path, place: Place, overwrite: Overwrite
    ) -> None:
        ref = blobs.BlobStore(tmp_path).put(DATA)
        overwrite(place(tmp_path, DATA), b"broken")
        store = blobs.BlobStore(tmp_path, operations=Failing("rename", 1, errno.EROFS))
        with pytest.raises(errors.CorruptPackage):
            store.read(ref)
