"""What the registry's tests share: packages made in memory, a private PostgreSQL, forked workers."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from windlass.packaging import archive
from windlass.registry import registration
from windlass.registry import registry as registries
from windlass.storage import blobs
from windlass.types import evidence, manifest, signature


def make_package(
    content: str = "weights", *, name: str = "digits", parent: str = "", width: int = 4
) -> archive.Package:
    """A package of three small blobs; two of them are the same in every package."""
    data: dict[str, bytes] = {}

    def blob(value: bytes) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(value), len(value))
        data[ref.digest] = value
        return ref

    value = manifest.Manifest(
        name=name,
        kind="model",
        signature=signature.Signature(
            inputs=(signature.TensorSpec("x", "FP32", ("batch", width)),),
            outputs=(signature.TensorSpec("y", "FP32", ("batch", 2)),),
        ),
        model=manifest.ModelSpec(runtime="echo", blobs={"model.bin": blob(content.encode())}),
        golden=manifest.Golden(inputs=blob(b"golden in"), outputs=blob(b"golden out"), rtol=1e-3, atol=1e-5),
        lineage=manifest.Lineage(framework="test 1.0", parent=parent),
    )
    return archive.in_memory(value, data)


def passed(package: archive.Package) -> tuple[evidence.Evidence, ...]:
    return (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)


class Place(NamedTuple):
    """Where a registry lies: enough for another process to open it."""

    url: str
    store: str

    def open(self) -> registries.Registry:
        return registries.Registry.open_at(self.url, self.store)


class Worker(NamedTuple):
    """A forked child and the pipe on which it acknowledges."""

    pid: int
    pipe: int

    def wait_for_line(self) -> None:
        """Until it has written something."""
        select.select([self.pipe], [], [], 60)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> tuple[int, list[str]]:
        """Its exit status (negative: the signal that killed it), and every whole line that it wrote."""
        with os.fdopen(self.pipe, "rb") as file:
            said = file.read().decode()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), said.split("\n")[:-1]


def fork(work: Callable[[Callable[[str], None]], None]) -> Worker:
    """Run `work` in a forked child; the function that it is given writes one line to the parent, or nothing."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            work(lambda line: _write_line(write, line))
            status = 0
        except BaseException:  # noqa: BLE001 - a child of a fork must never return into pytest
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(write)
    return Worker(pid, read)


def _write_line(pipe: int, line: str) -> None:
    # Shorter than PIPE_BUF, so it is written whole or not at all. By writev, as tests make write fail.
    os.writev(pipe, [f"{line}\n".encode()])


def make_folder(prefix: str) -> Path:
    """A folder in memory if there is one: kills, races and injected faults are the same there, and fsync is free."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=prefix, dir=shared if os.access(shared, os.W_OK) else None))


class Postgres:
    """A private PostgreSQL in a folder of its own, reached by a unix socket only."""

    def __init__(self, binaries: Path) -> None:
        self.folder = make_folder("windlass-pg-")
        # PostgreSQL refuses to run as root.
        account = _unprivileged()
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._identity = (
            {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        )
        data = str(self.folder / "data")
        common = {"cwd": self.folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}, **self._identity}
        initdb = [binaries / "initdb", "-D", data, "-U", "windlass", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **common)
        with (self.folder / "log").open("wb") as log:
            options = ["-c", "listen_addresses=", "-c", "max_connections=100", "-c", "shared_buffers=16MB"]
            command = [binaries / "postgres", "-D", data, "-k", self.folder, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **common)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.05)

    def url(self) -> str:
        """A fresh, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://windlass@/{name}?host={self.folder}"

    def stop(self) -> None:
        # SIGINT asks for a fast shutdown: clients are not waited for.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        shutil.rmtree(self.folder)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(f"host={self.folder} user=windlass dbname=postgres", autocommit=True)


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("running as root, and there is no user to run PostgreSQL as")


def _binaries() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres(_binaries())
    yield server
    server.stop()


@pytest.fixture
def scratch() -> Iterator[Path]:
    folder = make_folder("windlass-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, scratch: Path) -> Place:
    """A fresh home on each kind of database."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{scratch}/registry.db", str(scratch / "blobs"))
    return Place(request.getfixturevalue("postgres").url(), str(scratch / "blobs"))


@pytest.fixture
def registry(place: Place) -> Iterator[registries.Registry]:
    opened = place.open()
    yield opened
    opened.close()


@pytest.fixture(name="make_package")
def _make_package() -> Callable[..., archive.Package]:
    return make_package


@pytest.fixture
def push() -> Callable[..., registration.Pushed]:
    """Push a package that passed its checks, and so is READY."""

    def push(registry: registries.Registry, content: str, *, name: str = "digits", **more: Any) -> registration.Pushed:
        shape = {key: more.pop(key) for key in ("width", "parent") if key in more}
        package = make_package(content, name=name, **shape)
        return registry.push(package, name=name, actor="ada", evidence=passed(package), **more)

    return push


@pytest.fixture(name="fork")
def _fork() -> Iterator[Callable[[Callable[[Callable[[str], None]], None]], Worker]]:
    """Fork children; those that a failed test leaves behind are killed."""
    started: list[Worker] = []

    def tracked(work: Callable[[Callable[[str], None]], None]) -> Worker:
        started.append(fork(work))
        return started[-1]

    yield tracked
    for worker in started:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(worker.pid, os.WNOHANG) == (0, 0):
                worker.kill()
                os.waitpid(worker.pid, 0)
