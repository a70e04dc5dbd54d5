"""A disk that fails, fills up or flips bits under the registry."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass import errors
from windlass.registry import records
from windlass.registry import registry as registries
from windlass.storage import blobs, database, local_volume
from windlass.types import refs

Push = Callable[..., Any]
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


class Failing(local_volume.FileOperations):
    """The n-th change to the disk fails, and every later one while `lasts`."""

    def __init__(self, error: int, n: int, *, lasts: bool) -> None:
        self.error, self.n, self.lasts = error, n, lasts
        self.count = 0
        self.failed = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in vars(local_volume.FileOperations) or name.startswith("_"):
            return found

        def operation(*args: Any) -> Any:
            self.count += 1
            if self.count == self.n or (self.lasts and self.count > self.n):
                self.failed = True
                raise OSError(self.error, os.strerror(self.error))
            return found(*args)

        return operation


def open_failing(folder: Path, operations: Failing) -> registries.Registry:
    root = str(folder / "blobs")
    return registries.Registry(
        database.open_database(f"sqlite:///{folder}/registry.db"),
        blobs.BlobStore(root, operations=operations),
        records.Records(blobs.BlobStore(f"{root}/{records.FOLDER}", operations=operations)),
    )


def check_whole(registry: registries.Registry, acknowledged: set[int]) -> None:
    """All that was acknowledged is there, and all that is there is whole."""
    found = {v.version for v in registry.versions("digits")} if registry.models() else set()
    assert acknowledged <= found
    for number in found:
        for blob in registry.show(refs.parse(f"digits@{number}")).manifest.blobs().values():
            registry.store.read(blob)


@pytest.mark.promise("P-58")
def test_after_an_io_error_nothing_is_acknowledged_until_a_restart(scratch: Path, push: Push) -> None:
    reached = 0
    for n in range(1, 200):
        folder = scratch / str(n)
        operations = Failing(errno.EIO, n, lasts=False)
        registry = open_failing(folder, operations)
        acknowledged = set()
        try:
            acknowledged.add(push(registry, "first").version)
        except errors.StoreReadOnly:
            # The disk works again, and still nothing is taken before a restart.
            with pytest.raises(errors.StoreReadOnly):
                push(registry, "second")
        registry.close()
        if not operations.failed:
            break
        reached = n
        restarted = registries.Registry.open(folder)
        check_whole(restarted, acknowledged)
        assert push(restarted, "first").version == 1
        assert push(restarted, "second").version == 2
        restarted.close()
        shutil.rmtree(folder)
    assert 30 < reached < 199, "the sweep did not cover a push"


@pytest.mark.promise("P-59")
def test_a_full_disk_refuses_cleanly_and_all_works_when_there_is_space(scratch: Path, push: Push) -> None:
    reached = 0
    said: set[str] = set()
    for n in range(1, 200):
        folder = scratch / str(n)
        operations = Failing(errno.ENOSPC, n, lasts=True)
        registry = open_failing(folder, operations)
        acknowledged = set()
        try:
            acknowledged.add(push(registry, "first").version)
        except errors.StoreReadOnly:
            # An fsync that says ENOSPC has lost pages: that is an I/O error, and needs the restart.
            registry.close()
            registry = registries.Registry.open(folder)
        except errors.Unavailable as e:
            said.add(e.message.split(":")[0])
        if not operations.failed:
            registry.close()
            break
        reached = n
        operations.n, operations.lasts = -1, False
        check_whole(registry, acknowledged)
        assert push(registry, "first").version == 1
        assert push(registry, "second").version == 2
        check_whole(registry, {1, 2})
        registry.close()
        shutil.rmtree(folder)
    assert said == {"The disk of the blob store is full"}
    assert 30 < reached < 199, "the sweep did not cover a push"


@pytest.mark.promise("P-59")
def test_a_small_file_system_runs_full(tmp_path: Path, push: Push, fork: Callable[..., Any]) -> None:
    """In a mount namespace of its own: rows and blobs on one small tmpfs, filled to the last byte."""

    def work(acknowledge: Callable[[str], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        home = tmp_path / "small"
        home.mkdir()
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            acknowledge("no namespace")
            return
        if libc.mount(b"tmpfs", str(home).encode(), b"tmpfs", 0, b"size=1m"):
            acknowledge("no mount")
            return
        registry = registries.Registry.open(home)
        push(registry, "before")
        acknowledged = {1}
        for filling in range(2, 500):
            size = 40_000 if filling < 20 else 1_000
            try:
                acknowledged.add(push(registry, f"{filling} " + "x" * size).version)
            except errors.StoreReadOnly:
                acknowledge("read-only")
                break
            except errors.Unavailable as e:
                if filling >= 20:
                    acknowledge(f"full: {'full' in str(e)}")
                    break
        # What is stored is served on, whole.
        check_whole(registry, acknowledged)
        with database.Database(f"sqlite:///{home}/registry.db").read() as connection:
            acknowledge(str(connection.exec_driver_sql("PRAGMA integrity_check").scalar()))
        if libc.mount(b"tmpfs", str(home).encode(), b"tmpfs", 0x20, b"size=4m"):
            acknowledge("no remount")
            return
        acknowledged.add(push(registry, "after").version)
        check_whole(registry, acknowledged)
        acknowledge(f"after: {len(acknowledged) > 10}")

    status, lines = fork(work).finish()
    assert status == 0
    if lines and lines[0].startswith("no "):
        pytest.skip(f"{lines[0]}: mounting is not allowed here")
    assert lines == ["full: True", "ok", "after: True"]


def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed (Debian: apt install strace)")
    return found


def push_injected(fork: Callable[..., Any], push: Push, folder: Path, call: str, n: int) -> list[str]:
    """Push in a child whose n-th system call `call` fails with EIO; what it said, and whether the call was reached."""
    gate, opened = os.pipe()

    def work(acknowledge: Callable[[str], None]) -> None:
        registry = registries.Registry.open(folder)
        acknowledge("open")
        os.read(gate, 1)
        for content in ("first", "second"):
            try:
                acknowledge(f"pushed {push(registry, content).version}")
            except errors.WindlassError as e:
                acknowledge(e.code)

    worker = fork(work)
    worker.wait_for_line()
    command = [strace(), "-q", "-p", str(worker.pid), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={n}"]
    log = folder.parent / f"{folder.name}.strace"
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as tracer:
        traced = re.compile(rf"TracerPid:\s*{tracer.pid}\b")
        while tracer.poll() is None and not traced.search(Path(f"/proc/{worker.pid}/status").read_text()):
            os.sched_yield()
        refused = tracer.poll() is not None
        os.write(opened, b"x")
        status, lines = worker.finish()
        tracer.wait(30)
    os.close(gate)
    os.close(opened)
    if refused:
        pytest.skip("this machine does not allow tracing a child")
    assert status == 0
    return [*lines[1:], *(["injected"] if "(INJECTED)" in log.read_text(errors="replace") else [])]


@pytest.mark.promise("P-58")
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "pwrite64", "write", "unlink", "link", "ftruncate"])
def test_no_system_call_that_fails_is_taken_for_success(
    scratch: Path, push: Push, fork: Callable[..., Any], call: str
) -> None:
    """The same sweep below everything: SQLite's own calls fail too."""
    hits = 0
    fresh = scratch / "fresh"
    registries.Registry.open(fresh).close()
    for n in range(1, 60, 2 if "sync" in call else 3):
        folder = scratch / f"{call}{n}"
        shutil.copytree(fresh, folder)
        said = push_injected(fork, push, folder, call, n)
        if said[-1] != "injected":
            break
        hits += 1
        answers = said[:-1]
        acknowledged = {int(line.split()[1]) for line in answers if line.startswith("pushed")}
        refusals = [line for line in answers if not line.startswith("pushed")]
        assert set(refusals) <= {"store_read_only"}, (call, n, answers)
        if answers[0] == "store_read_only":
            assert answers[1] == "store_read_only", (call, n, answers)
        restarted = registries.Registry.open(folder)
        check_whole(restarted, acknowledged)
        for content in ("first", "second"):
            push(restarted, content)
        assert {v.version for v in restarted.versions("digits")} == {1, 2}
        restarted.close()
        shutil.rmtree(folder)
    if call in ("fsync", "write", "link"):
        assert hits > 1


def files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "blobs" / "sha256").rglob("*") if p.is_file())


def damage(path: Path, how: str, other: bytes) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncate":
        data = data[:-1]
    elif how == "append":
        data += b"\0"
    elif how == "swap":
        data = bytearray(other)
    else:
        position = {"flip first": 0, "flip middle": len(data) // 2, "flip last": len(data) - 1}[how]
        data[position] ^= 0x01
    path.chmod(0o600)
    path.write_bytes(bytes(data))


@pytest.mark.promise("P-60")
@pytest.mark.parametrize("how", ["flip first", "flip middle", "flip last", "truncate", "append", "swap"])
def test_corrupt_bytes_are_never_served(tmp_path: Path, push: Push, how: str) -> None:
    registry = registries.Registry.open(tmp_path)
    good = push(registry, "good")
    own = {p.name for p in files(tmp_path)}
    push(registry, "bad")
    mine = [p for p in files(tmp_path) if p.name not in own]
    assert len(mine) == 2, "the manifest and the model"
    for path in mine:
        kept = path.read_bytes()
        damage(path, how, b"other bytes")
        with pytest.raises(errors.CorruptPackage):
            registry.store.read(f"sha256:{path.name}")
        assert not registry.store.exists(f"sha256:{path.name}")
        path.write_bytes(kept)
        damage(path, how, b"other bytes")
        assert [f.digest for f in registry.scrub(actor="ada")] == [f"sha256:{path.name}"]
        with pytest.raises(errors.NotAllowed, match="quarantine"):
            registry.resolve(refs.parse("digits@2"))
        assert registry.resolve(refs.parse("digits")).version == good.version
        # Good bytes pushed again, with checks that passed, bring it back.
        healed = push(registry, "bad")
        assert (healed.version, healed.status, healed.created) == (2, "READY", False)
        assert registry.scrub(actor="ada") == ()
    registry.close()


@pytest.mark.promise("P-61")
def test_a_lost_database_is_rebuilt(place: Any, push: Push, tmp_path: Path, make_package: Callable[..., Any]) -> None:
    registry = place.open()
    for content in "abc":
        push(registry, content, description=f"about {content}")
    push(registry, "other", name="cancer")
    registry.push(make_package("unverified"), name="digits", actor="bob")
    registry.delete("digits", 2, actor="ada", reason="licence")
    registry.quarantine(registry.resolve(refs.parse("digits@3")).digest, "it crashed", actor="ada")
    registry.delete("cancer", 1, actor="ada")
    push(registry, "other", name="cancer")
    fields = ("name", "version", "digest", "status", "actor", "description", "created_at", "reason", "generation")
    before = [tuple(getattr(v, f) for f in fields) for m in registry.models() for v in registry.versions(m.name)]
    registry.close()
    url = f"sqlite:///{tmp_path}/new.db"
    rebuilt = registries.Registry.open_at(url, place.store)
    done = rebuilt.rebuild(actor="ada")
    assert done.restored == ("cancer@2", "digits@1", "digits@4")
    assert (done.quarantined, done.deleted) == (("digits@3",), ("cancer@1", "digits@2"))
    after = [tuple(getattr(v, f) for f in fields) for m in rebuilt.models() for v in rebuilt.versions(m.name)]
    assert after == before
    assert rebuilt.rebuild(actor="ada").restored == ()
    rebuilt.gc(0)
    rebuilt.gc(0)
    for ref in ("digits@1", "digits@4", "cancer@2"):
        for blob in rebuilt.show(refs.parse(ref)).manifest.blobs().values():
            rebuilt.store.read(blob)
    assert push(rebuilt, "next").version == 5
    rebuilt.close()


@pytest.mark.promise("P-61")
def test_what_lost_its_bytes_too_comes_back_in_quarantine(tmp_path: Path, push: Push) -> None:
    registry = registries.Registry.open(tmp_path)
    push(registry, "a")
    push(registry, "b")
    shown = registry.show(refs.parse("digits@1"))
    registry.store.delete(next(iter(shown.manifest.model.blobs.values())).digest)
    registry.store.delete(registry.resolve(refs.parse("digits@2")).digest)
    push(registry, "c")
    registry.close()
    (tmp_path / "registry.db").unlink()
    rebuilt = registries.Registry.open(tmp_path)
    assert rebuilt.rebuild(actor="ada").quarantined == ("digits@1", "digits@2")
    assert rebuilt.resolve(refs.parse("digits")).version == 3
    assert push(rebuilt, "a").status == "READY"
    assert rebuilt.resolve(refs.parse("digits@1")).version == 1
    rebuilt.close()


def test_a_damaged_database_says_what_to_do(tmp_path: Path, push: Push) -> None:
    registry = registries.Registry.open(tmp_path)
    push(registry, "a")
    registry.close()
    path = tmp_path / "registry.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(errors.CorruptPackage, match="rebuild"):
        registries.Registry.open(tmp_path)
