"""packaging/archive.py and zip_format.py: a package written and read back, the same bytes every time."""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging import archive, zip_format
from windlass.storage import blobs
from windlass.types import manifest, signature

MODEL, GOLDEN = os.urandom(3000), b"golden"


def ref(data: bytes) -> manifest.BlobRef:
    return manifest.BlobRef(blobs.digest_of(data), len(data))


def make() -> archive.Package:
    x, y = (signature.TensorSpec(name, "FP32", ("batch",)) for name in "xy")
    value = manifest.Manifest(
        name="toy",
        kind="model",
        signature=signature.Signature((x,), (y,)),
        model=manifest.ModelSpec("echo", {"echo.json": ref(MODEL), "twin": ref(MODEL)}),
        golden=manifest.Golden(ref(GOLDEN), ref(GOLDEN), 0.0, 0.0),
        transforms=(manifest.TransformSpec("classify", {}, {"labels.txt": ref(GOLDEN)}),),
    )
    return archive.in_memory(value, {ref(data).digest: data for data in (MODEL, GOLDEN)})


def stored(store: blobs.BlobStore) -> str:
    """The digest of the package, whose files are all put into a store."""
    for _, data in make().entries():
        store.put(data)
    return make().digest


def written(kind: str, root: Path) -> archive.Package:
    """The package again, after a way through the disk."""
    if kind == "zip":
        archive.write_zip(make(), root / "a.windlass")
        return archive.open_path(root / "a.windlass")
    if kind == "folder":
        archive.write_folder(make(), root / "a")
        return archive.open_path(root / "a")
    store = blobs.BlobStore(root / "store")
    return archive.open_store(store, stored(store))


@pytest.mark.parametrize("kind", ["zip", "folder", "store"])
def test_a_package_is_the_same_after_any_way(tmp_path: Path, kind: str) -> None:
    package = written(kind, tmp_path)
    assert package.manifest == make().manifest
    assert package.digest == make().digest
    assert package.model_files() == {"echo.json": MODEL, "twin": MODEL}
    assert package.transform_files(package.manifest.transforms[0]) == {"labels.txt": GOLDEN}
    assert dict(package.entries()) == dict(make().entries())


@pytest.mark.promise("P-26")
@pytest.mark.parametrize("kind", ["zip", "folder", "store"])
def test_writing_it_again_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    archive.write_zip(make(), tmp_path / "first")
    archive.write_zip(written(kind, tmp_path), tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_other_tools_read_the_archive(tmp_path: Path) -> None:
    archive.write_zip(make(), tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == dict(make().entries())
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_archives_of_other_tools_are_read_if_they_are_plain(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / str(method)
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in make().entries():
                file.writestr(name, bytes(data))
        assert archive.open_path(path).model_files() == make().model_files()


@given(st.dictionaries(st.from_regex(r"[a-z./]{1,9}", fullmatch=True), st.binary(max_size=60), max_size=5))
@settings(max_examples=50, deadline=None)
def test_whatever_is_written_is_read_back(files: dict[str, bytes]) -> None:
    out = io.BytesIO()
    zip_format.write(out, iter(files.items()))
    found = zip_format.entries(out)
    assert {name: zip_format.read(out, entry) for name, entry in found.items()} == files


@pytest.mark.threat("V8")
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_entries_at_their_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    out = io.BytesIO()
    zip_format.write(out, iter([("a", b""), ("b", b"")]))
    monkeypatch.setattr(zip_format, "MAX_ENTRIES", limit)
    if limit >= 2:
        assert set(zip_format.entries(out)) == {"a", "b"}
    else:
        with pytest.raises(errors.CorruptPackage, match="2 entries: at most 1"):
            zip_format.entries(out)


@pytest.mark.threat("V8")
@pytest.mark.parametrize(("ratio", "passes"), [(199, True), (200, True), (201, False)])
def test_the_ratio_at_its_limit(ratio: int, passes: bool) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(100_000))
        info = file.infolist()[0]
    whole = bytearray(out.getvalue())
    declared = (info.compress_size * ratio).to_bytes(4, "little")
    for sign, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = whole.index(sign) + at
        whole[start : start + 4] = declared
    if passes:
        assert zip_format.entries(io.BytesIO(whole))["a"].size == info.compress_size * ratio
    else:
        with pytest.raises(errors.CorruptPackage, match="grows more than 200 times"):
            zip_format.entries(io.BytesIO(whole))


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_large_blobs_are_read_only_maps_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archive, "MAP_ABOVE", 1000)
    data = written(kind, tmp_path).read(ref(MODEL))
    assert isinstance(data, memoryview)
    assert isinstance(data.obj, mmap.mmap)
    assert data.readonly
    assert data == MODEL


@pytest.mark.promise("P-60")
@pytest.mark.parametrize("mode", [0o660, 0o606])
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_file_that_others_may_write_does_not_change_after_it_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: int
) -> None:
    monkeypatch.setattr(archive, "MAP_ABOVE", 1000)
    package = written(kind, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(mode)
    data = package.read(ref(MODEL))
    for path in files:
        path.write_bytes(bytes(path.stat().st_size))
    assert data == MODEL


@pytest.mark.promise("P-60")
@pytest.mark.parametrize("map_above", [1000, 1 << 20], ids=["mapped", "read"])
@pytest.mark.parametrize("kind", ["zip", "folder", "store"])
def test_bytes_that_change_after_opening_are_found_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, map_above: int
) -> None:
    monkeypatch.setattr(archive, "MAP_ABOVE", map_above)
    package = written(kind, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        if MODEL in whole:
            path.chmod(0o600)
            path.write_bytes(whole.replace(MODEL, MODEL[:-1] + bytes([MODEL[-1] ^ 1])))
    with pytest.raises(errors.CorruptPackage):
        package.model_files()
    assert package.read(ref(GOLDEN)) == GOLDEN


@pytest.mark.promise("P-60")
def test_a_zip_that_shrinks_after_opening_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAP_ABOVE", 1000)
    package = written("zip", tmp_path)
    os.truncate(tmp_path / "a.windlass", 100)
    with pytest.raises(errors.CorruptPackage):
        package.model_files()


def test_only_the_packages_own_blobs_are_read() -> None:
    with pytest.raises(errors.CorruptPackage, match="not one of this package's"):
        make().read(ref(b"other"))
    with pytest.raises(errors.CorruptPackage, match="not one of this package's"):
        make().read(manifest.BlobRef(ref(MODEL).digest, 1))


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "no", tmp_path / "no" / "no"):
        with pytest.raises(errors.NotFound, match="There is no package at"):
            archive.open_path(path)
    with pytest.raises(errors.NotFound):
        archive.open_store(blobs.BlobStore(tmp_path), make().digest)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.CorruptPackage, match="neither a folder nor a regular file"):
        archive.open_path(tmp_path / "fifo")


def test_a_manifest_in_a_store_is_verified_like_any_blob(tmp_path: Path) -> None:
    store = blobs.BlobStore(tmp_path)
    digest = stored(store)
    name = digest.removeprefix("sha256:")
    path = tmp_path / "sha256" / name[:2] / name
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"toy", b"boy"))
    with pytest.raises(errors.CorruptPackage):
        archive.open_store(store, digest)
    assert [finding.digest for finding in store.quarantined()] == [digest]


WRITERS: list[Callable[[archive.Package, Path], None]] = [archive.write_zip, archive.write_folder]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("present", ["file", "folder", "dangling"])
def test_nothing_is_overwritten(tmp_path: Path, write: Callable[[archive.Package, Path], None], present: str) -> None:
    path = tmp_path / "out"
    if present == "file":
        path.write_bytes(b"mine")
    elif present == "folder":
        (path / "mine").mkdir(parents=True)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(errors.Conflict, match="exists already"):
        write(make(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert path.is_symlink() or (path / "mine").is_dir() or path.read_bytes() == b"mine"


@pytest.mark.promise("P-59", "P-60")
@pytest.mark.parametrize("write", WRITERS)
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, write: Callable[[archive.Package, Path], None]) -> None:
    def broken(wanted: manifest.BlobRef) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(errors.Unavailable, match="cannot be written: No space left"):
        write(archive.Package(make().manifest, broken), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(errors.Unavailable, match="cannot be written"):
        write(make(), tmp_path / "no" / "out")


def test_a_written_folder_is_its_owners(tmp_path: Path) -> None:
    archive.write_folder(make(), tmp_path / "a")
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    name = hashlib.sha256(MODEL).hexdigest()
    assert (tmp_path / "a" / "blobs" / "sha256" / name).read_bytes() == MODEL


@pytest.mark.soak
def test_archives_beyond_4_gigabytes(tmp_path: Path) -> None:
    """The 64-bit fields, in a size and in an offset, as another reader sees them."""
    size = (1 << 32) + 10
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    with (tmp_path / "big").open("rb") as file:
        big = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    with (tmp_path / "a.zip").open("wb") as out:
        zip_format.write(out, iter([("big", big), ("small", b"after it")]))
    with zipfile.ZipFile(tmp_path / "a.zip") as other:
        assert other.read("small") == b"after it"
        assert other.getinfo("big").file_size == size
        assert other.testzip() is None
    with (tmp_path / "a.zip").open("rb") as back:
        found = zip_format.entries(back)
        assert found["big"].size == size
        assert zip_format.read(back, found["small"]) == b"after it"
