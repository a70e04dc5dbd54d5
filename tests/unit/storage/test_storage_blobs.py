"""storage/blobs.py and its volumes: what was acknowledged stays, and what is read was hashed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from windlass import errors
from windlass.storage import blobs, local_volume
from windlass.types import manifest

Place = Callable[[Path, bytes], Path]
Overwrite = Callable[[Path, bytes], None]
DATA = b"some bytes of a model"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> blobs.BlobStore:
    unique = secrets.token_hex(8)
    roots = {"path": tmp_path / "s", "file": f"file://{tmp_path}/s", "memory": f"memory://{unique}/s"}
    return blobs.BlobStore(roots[request.param])


class TestEveryVolume:
    def test_bytes_come_back(self, store: blobs.BlobStore) -> None:
        ref = store.put(DATA)
        assert ref == manifest.BlobRef(digest(DATA), len(DATA))
        assert bytes(store.read(ref)) == bytes(store.read(ref.digest)) == DATA
        assert store.exists(ref.digest)
        assert store.size(ref.digest) == len(DATA)
        assert store.put(b"").size == 0
        assert bytes(store.read(digest(b""))) == b""

    def test_files_and_streams_and_views_are_the_same_blob(self, store: blobs.BlobStore, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(DATA)
        ref = store.put(tmp_path / "file")
        assert ref == store.put(io.BytesIO(DATA)) == store.put(memoryview(DATA)) == store.put(bytearray(DATA))
        stream = io.BytesIO(b"head" + DATA)
        stream.seek(4)
        assert store.put(stream) == ref
        assert list(store.digests()) == [ref.digest]

    def test_a_file_that_changes_meanwhile_is_not_stored(self, store: blobs.BlobStore) -> None:
        class Changing(io.BytesIO):
            def seek(self, offset: int, whence: int = 0) -> int:
                if offset == 0:
                    self.getbuffer()[0] ^= 1
                return super().seek(offset, whence)

        with pytest.raises(errors.Conflict, match="changed while it was being stored"):
            store.put(Changing(DATA))
        assert list(store.digests()) == []

    def test_what_is_not_there_is_not_found(self, store: blobs.BlobStore) -> None:
        with pytest.raises(errors.NotFound, match="not in the store"):
            store.read(digest(b"x"))
        assert not store.exists(digest(b"x"))
        assert store.size(digest(b"x")) is None
        assert not any(act(digest(b"x")) for act in (store.trash, store.restore, store.delete))
        assert not store.quarantine(digest(b"x"), "why")

    @pytest.mark.threat("V4")
    @pytest.mark.parametrize("name", ["", "x", "../x", "sha256:../../x", "sha256:" + "A" * 64, "sha256:" + "a" * 65])
    def test_only_digests_are_names(self, store: blobs.BlobStore, name: str) -> None:
        for act in (store.read, store.exists, store.trash, store.restore, store.delete):
            with pytest.raises(errors.UsageError, match="is no digest"):
                act(name)

    def test_another_size_than_the_reference_says_is_corrupt(self, store: blobs.BlobStore) -> None:
        ref = store.put(DATA)
        with pytest.raises(errors.CorruptPackage, match="its size is not 3 bytes"):
            store.read(manifest.BlobRef(ref.digest, 3))
        with pytest.raises(errors.CorruptPackage, match="its size is not 300 bytes"):
            store.read(ref.digest, 300)
        # The reference was wrong, not the blob: whoever names it rightly still reads it.
        assert list(store.quarantined()) == []
        assert bytes(store.read(ref)) == DATA

    def test_trash_and_back_and_gone(self, store: blobs.BlobStore) -> None:
        ref = store.put(DATA)
        assert store.trash(ref.digest)
        assert not store.exists(ref.digest)
        assert list(store.digests("trash")) == [ref.digest]
        assert store.restore(ref.digest)
        assert bytes(store.read(ref)) == DATA
        assert store.trash(ref.digest)
        assert store.delete(ref.digest)
        assert list(store.digests("trash")) == []
        assert not store.delete(ref.digest)

    def test_quarantine_keeps_the_reason_and_makes_room(self, store: blobs.BlobStore) -> None:
        ref = store.put(DATA)
        assert store.quarantine(ref.digest, "it crashed the loader")
        assert list(store.quarantined()) == [blobs.Finding(ref.digest, "it crashed the loader")]
        with pytest.raises(errors.NotFound):
            store.read(ref)
        store.put(DATA)
        assert store.quarantine(ref.digest, "it crashed again")
        assert [finding.digest for finding in store.quarantined()] == [ref.digest]
        assert store.delete(ref.digest)
        assert list(store.quarantined()) == []

    def test_a_file_that_cannot_be_read_says_nothing_of_the_store(self, store: blobs.BlobStore) -> None:
        class Bad(io.BytesIO):
            rewound = False

            def seek(self, offset: int, whence: int = 0) -> int:
                self.rewound = True
                return super().seek(offset, whence)

            def read(self, size: int | None = -1) -> bytes:
                if self.rewound:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().read(size)

        with pytest.raises(errors.Unavailable, match="file to store could not be read"):
            store.put(Bad(DATA))
        assert not store.read_only
        assert list(store.digests()) == []
        assert store.put(DATA)


def test_a_place_that_is_none_is_a_sentence() -> None:
    with pytest.raises(errors.UsageError, match="is no place for a blob store"):
        blobs.BlobStore("nosuch://bucket/x")


class TestCorruption:
    @pytest.mark.promise("P-60")
    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: bytes([data[0] ^ 1]) + data[1:],
            lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
            lambda data: data[:-1],
            lambda data: b"",
            lambda data: data + b"\0",
            lambda data: b"another blob's bytes!",
        ],
        ids=["flip-first", "flip-last", "truncate", "empty", "append", "swap"],
    )
    @pytest.mark.parametrize("found_by", ["read", "scrub", "put"])
    def test_broken_bytes_are_found_and_quarantined(
        self, tmp_path: Path, damage: Callable[[bytes], bytes], found_by: str, place: Place, overwrite: Overwrite
    ) -> None:
        store = blobs.BlobStore(tmp_path)
        ref, other = store.put(DATA), store.put(b"fine")
        overwrite(place(tmp_path, DATA), damage(DATA))
        if found_by == "read":
            with pytest.raises(errors.CorruptPackage, match="put into quarantine"):
                store.read(ref)
        elif found_by == "scrub":
            assert [finding.digest for finding in store.scrub()] == [ref.digest]
        else:
            store.put(DATA)
            assert bytes(store.read(ref)) == DATA
        assert [finding.digest for finding in store.quarantined()] == [ref.digest]
        assert store.exists(ref.digest) == (found_by == "put")
        assert bytes(store.read(other)) == b"fine"
        assert list(store.scrub()) == []

    @pytest.mark.promise("P-60")
    def test_large_blobs_are_mapped_and_every_region_is_hashed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place, overwrite: Overwrite
    ) -> None:
        monkeypatch.setattr(local_volume, "MAP_ABOVE", 1000)
        data = os.urandom(5000)
        store = blobs.BlobStore(tmp_path)
        ref = store.put(data)
        view = store.read(ref)
        assert isinstance(view, memoryview)
        assert view.readonly
        assert view == data
        for at in range(0, 5000, 499):
            broken = bytearray(data)
            broken[at] ^= 4
            overwrite(place(tmp_path, data), bytes(broken))
            with pytest.raises(errors.CorruptPackage):
                store.read(ref)
            assert store.put(data) == ref

    @pytest.mark.promise("P-60")
    @pytest.mark.parametrize("mode", [0o660, 0o606, 0o640])
    @pytest.mark.parametrize("owner", ["us", "root", "somebody else"])
    def test_a_large_blob_that_others_may_write_is_copied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place, mode: int, owner: str
    ) -> None:
        monkeypatch.setattr(local_volume, "MAP_ABOVE", 1000)
        data = os.urandom(5000)
        store = blobs.BlobStore(tmp_path)
        ref = store.put(data)
        path = place(tmp_path, data)
        path.chmod(mode)
        # A test may not be allowed to give a file away: what is opened seems to be another's.
        fstat, uid = os.fstat, {"us": 1000, "root": 0, "somebody else": 1001}[owner]
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result((*fstat(fd)[:4], uid, *fstat(fd)[5:])))
        held = [store.read(ref), store.read(ref.digest)]
        mapped = mode == 0o640 and owner != "somebody else"
        assert [isinstance(each, memoryview) for each in held] == [mapped, mapped]
        if not mapped:
            path.write_bytes(bytes(5000))
        assert all(each == data for each in held)

    @pytest.mark.threat("V16")
    @pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
    def test_only_regular_files_are_blobs(self, tmp_path: Path, kind: str, place: Place) -> None:
        store = blobs.BlobStore(tmp_path / "s")
        ref = store.put(DATA)
        path = place(tmp_path / "s", DATA)
        path.unlink()
        if kind == "symlink":
            (tmp_path / "outside").write_bytes(DATA)
            path.symlink_to(tmp_path / "outside")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(errors.CorruptPackage):
            store.read(ref)
        assert not store.exists(ref.digest)


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of operations agrees with three dictionaries."""

    CONTENTS = st.sampled_from([b"", b"a", b"bb", b"ccc"])

    def __init__(self) -> None:
        super().__init__()
        self.store = blobs.BlobStore(f"memory://{secrets.token_hex(8)}")
        self.live: set[bytes] = set()
        self.trashed: set[bytes] = set()
        self.quarantined: set[bytes] = set()

    @rule(data=CONTENTS)
    def put(self, data: bytes) -> None:
        self.store.put(data)
        self.live.add(data)

    @rule(data=CONTENTS)
    def trash(self, data: bytes) -> None:
        assert self.store.trash(digest(data)) == (data in self.live)
        if data in self.live:
            self.live.remove(data)
            self.trashed.add(data)

    @rule(data=CONTENTS)
    def restore(self, data: bytes) -> None:
        assert self.store.restore(digest(data)) == (data in self.trashed)
        if data in self.trashed:
            self.trashed.remove(data)
            self.live.add(data)

    @rule(data=CONTENTS)
    def quarantine(self, data: bytes) -> None:
        assert self.store.quarantine(digest(data), "why") == (data in self.live)
        if data in self.live:
            self.live.remove(data)
            self.quarantined.add(data)

    @rule(data=CONTENTS)
    def delete(self, data: bytes) -> None:
        places = (self.live, self.trashed, self.quarantined)
        assert self.store.delete(digest(data)) == any(data in held for held in places)
        for held in places:
            held.discard(data)

    @invariant()
    def agrees(self) -> None:
        assert set(self.store.digests()) == {digest(data) for data in self.live}
        assert set(self.store.digests("trash")) == {digest(data) for data in self.trashed}
        assert {finding.digest for finding in self.store.quarantined()} == {digest(data) for data in self.quarantined}
        assert all(bytes(self.store.read(digest(data))) == data for data in self.live)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def names(root: Path) -> Iterator[str]:
    return (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_the_layout_is_documented_and_stays(tmp_path: Path) -> None:
    store = blobs.BlobStore(tmp_path)
    a, b, c = (hashlib.sha256(data).hexdigest() for data in (b"a", b"b", b"c"))
    for data in (b"a", b"b", b"c"):
        store.put(data)
    store.trash(f"sha256:{b}")
    store.quarantine(f"sha256:{c}", "why")
    assert set(names(tmp_path)) == {f"sha256/{a[:2]}/{a}", f"trash/{b}", f"quarantine/{c}", f"quarantine/{c}.reason"}
