"""What `windlass doctor` looks at: the home, its database, its ports, its servers, its controller.

Each check takes the settings and the time and gives findings. Must never change what it looks at; a check that fails is
itself a finding.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

import windlass
from windlass import errors, settings
from windlass.client import control
from windlass.records import audit, deployments, leases
from windlass.serving import launch
from windlass.serving.transport import addresses
from windlass.storage import database

_LEAST_FREE = 1 << 30
_LEAST_FILES = 16_384
_SLOW_SYNC_S = 0.1
_LIBRARIES = ("onnxruntime", "numpy", "msgspec", "sqlalchemy", "fastapi", "uvicorn", "httpx", "cryptography", "click")


class Setting(msgspec.Struct, frozen=True):
    """A setting, its value now, and what it would be if nobody had set it."""

    name: str
    value: str
    default: str


class Finding(msgspec.Struct, frozen=True):
    """What was looked at and what is there; `mend` says what to do about it."""

    name: str
    state: Literal["ok", "warning", "wrong"]
    value: str
    mend: str = ""


Check: TypeAlias = Callable[[settings.Settings, float], Iterable[Finding]]


def safely(check: Check, configuration: settings.Settings, now: float) -> list[Finding]:
    """A check's findings; its own failure is one."""
    found: list[Finding] = []
    try:
        # One by one: what was found before a failure counts.
        for finding in check(configuration, now):
            found.append(finding)  # noqa: PERF402
    except (errors.WindlassError, OSError) as e:
        name = check.__name__.strip("_").replace("_", " ")
        if isinstance(e, errors.WindlassError):
            found.append(Finding(name, "wrong", e.message, e.hint))
        else:
            found.append(Finding(name, "wrong", f"{e.strerror or e} ({e.filename or '-'})", "Check its permissions."))
    return found


def home(configuration: settings.Settings, _: float) -> Iterator[Finding]:
    """Whether the home is there, has room, and keeps what is written."""
    path = configuration.home.absolute()
    if not path.exists():
        yield Finding("home", "ok", f"{path} is not there yet: the first model makes it")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("home", "wrong", f"{path} cannot be written", "Give it to this user, or choose another --home.")
        return
    yield Finding("home", "ok", str(path))
    usage = shutil.disk_usage(path)
    free = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f}"
    short = usage.free < _LEAST_FREE
    yield Finding("disk", "wrong" if short else "ok", free, "Free some: windlass models gc" if short else "")
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-") as probe:
        probe.write(b"x")
        probe.flush()
        os.fsync(probe.fileno())
    took = time.perf_counter() - began
    slow = took > _SLOW_SYNC_S
    hint = "Each change waits for the disk: put the home on a faster one, or use PostgreSQL." if slow else ""
    yield Finding("fsync", "warning" if slow else "ok", f"works, in {took * 1e3:.1f} ms", hint)


def sqlite(configuration: settings.Settings, _: float) -> Iterator[Finding]:
    """SQLite's version, and the journal that is safe with it."""
    library = sqlite3.sqlite_version_info[:3]
    mode = database.journal_mode((library[0], library[1], library[2]))
    used = "" if configuration.database_url.startswith("sqlite") else " (the registry is elsewhere)"
    yield Finding("SQLite", "ok", f"{sqlite3.sqlite_version}, journal {mode}, synchronous FULL{used}")


def rows(configuration: settings.Settings, now: float) -> Iterator[Finding]:
    """Whether the database answers, and agrees with this machine's clock."""
    if not there(configuration):
        yield Finding("database", "ok", "not there yet: the first model makes it")
        return
    began = time.perf_counter()
    with contextlib.closing(database.open_database(configuration.database_url)) as opened:
        with opened.read() as connection:
            head = audit.head(connection)
            newest = audit.entries(connection, after=max(head.number - 1, 0), limit=1)
        took = time.perf_counter() - began
        yield Finding("database", "ok", f"answers in {took * 1e3:.0f} ms; {head.number} changes on record")
        ahead = newest[-1].at - now if newest else 0.0
        late = "The clock went back, or another machine's is ahead: set it by NTP." if ahead > 5 else ""
        said = f"{ahead:.0f} s behind the last change on record" if late else time.strftime("%Y-%m-%d %H:%M:%S %Z")
        yield Finding("clock", "wrong" if late else "ok", said, late)
        yield from _controlled(opened, now)


def _controlled(opened: database.Database, now: float) -> Iterator[Finding]:
    with opened.read() as connection:
        holder, until = leases.holder_of(connection, leases.CONTROLLER)
        every = deployments.every(connection, limit=1000)
    if holder and until > now:
        yield Finding("controller", "ok", f"{holder}, its lease ends in {until - now:.0f} s unless renewed")
    elif every:
        since = f"the last one's lease ended {now - until:.0f} s ago" if until else "none has ever run"
        said = f"{since}; {len(every)} deployments wait for one"
        yield Finding("controller", "wrong", said, "Start one: windlass up")
    else:
        yield Finding("controller", "ok", "none runs, and nothing is deployed")
    for one in every:
        said = f"{one.status.phase}  {one.status.words}".strip()
        if one.status.phase == "FAILED":
            yield Finding(one.name, "wrong", said, f"See: windlass rollout status {one.name}")
        elif holder and one.status.generation < one.generation and now - one.updated_at > 60:
            waits = f"generation {one.generation} was not taken up for {now - one.updated_at:.0f} s"
            yield Finding(
                one.name, "wrong", waits, f"See the controller's log, and: windlass rollout status {one.name}"
            )


def limits(_: settings.Settings, __: float) -> Iterator[Finding]:
    """How many files and connections a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < _LEAST_FILES
    hint = f"For many connections: ulimit -n {min(hard, 65_536)} before windlass serve or up." if few else ""
    yield Finding("open files", "warning" if few else "ok", f"at most {soft} a process (may be raised to {hard})", hint)


def ports(configuration: settings.Settings, _: float) -> Iterator[Finding]:
    """Who has the ports that the settings name."""
    serve, up = configuration.serve, configuration.up
    running = {s.listen for s in launch.running(configuration.home)} | {
        s.admin for s in launch.running(configuration.home)
    }
    for name, host, port in (
        ("API's port", up.host, up.port),
        ("server's port", serve.host, serve.port),
        ("admin port", "127.0.0.1", serve.admin_port),
    ):
        if not port or _free(host, port):
            yield Finding(name, "ok", f"{host}:{port} is free")
        elif f"{host}:{port}" in running:
            yield Finding(name, "ok", f"{host}:{port} is this home's server's")
        else:
            who = _holder(port)
            ours = "windlass" in who
            hint = "" if ours else "End it, or choose another port: up.port, serve.port, serve.admin_port."
            yield Finding(name, "ok" if ours else "warning", f"{host}:{port} is used by {who}", hint)


def servers(configuration: settings.Settings, _: float) -> Iterator[Finding]:
    """The servers of this home that run, and what they answer."""
    for wanted in launch.running(configuration.home):
        talk = control.Control(wanted.control, timeout_s=5.0)
        try:
            status, current = talk.status(), talk.current()
        except errors.WindlassError as e:
            yield Finding("server", "wrong", f"{wanted.listen}: {e.message}", "Look at its log; end it if it hangs.")
            continue
        finally:
            talk.close()
        names = ", ".join(e.name for e in current.endpoints) or "nothing yet"
        where = status["addresses"]["listen"]
        yield Finding("server", "ok", f"{where} answers {names} (generation {current.generation})")


def libraries(_: settings.Settings, __: float) -> Iterator[Finding]:
    """Versions, for whoever is told of a fault."""
    found = []
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    system = f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    yield Finding("versions", "ok", f"windlass {windlass.__version__}, {system}; {', '.join(found)}")


def there(configuration: settings.Settings) -> bool:
    """Whether there is a database: looking must not make one."""
    return bool(configuration.registry.db) or (configuration.home / "registry.db").exists()


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if addresses.is_loopback(host) else "", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """The process that listens on a port, as far as this user may see."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().split(b"\0")
                return f"process {process.name} ({b' '.join(words[:4]).decode(errors='replace').strip()})"
    return "another user's process"


CHECKS: tuple[Check, ...] = (home, sqlite, rows, limits, ports, servers, libraries)
