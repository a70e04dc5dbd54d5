"""Starts a server as a process of its own, and finds the servers that a home has running.

Used by the CLI (which becomes the server), the Python face (which starts one beside itself), and whoever operates a
server that outlives him (`detached`). A server's spec lies in the home's `run` folder as long as it runs. Must never
import the registry, and never leave a process behind that nobody can find.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from windlass import errors
from windlass.types import spec, strict_json

# A unix socket's path has room for 107 bytes.
_LONGEST_SOCKET = 100
# A server that does not answer this long after its spec was written has ended.
_STARTED_BY_THEN_S = 600.0
LOCAL = "local"
# The process, user and group at the other end of a unix socket.
_PEER = struct.Struct("3i")
_WORDS_BYTES = 4_096
_KILLED_S = 10.0


def prepare(wanted: spec.Spec, home: Path, name: str = "") -> Path:
    """Write the spec into the home's `run` folder, with a control socket beside it; the path of the spec.

    Without a `name` the server gets one that no other has.
    """
    run = _run_folder(home)
    name = name or secrets.token_hex(4)
    control = str(run / f"{name}.sock")
    if len(control.encode()) > _LONGEST_SOCKET:
        control = str(_own_folder() / f"{hashlib.sha256(str(run).encode()).hexdigest()[:8]}-{name}.sock")
    signers = wanted.trusted or trusted(home)
    verdicts = wanted.verdicts or str(home.absolute() / "verdicts")
    path = run / f"{name}.json"
    path.write_bytes(
        strict_json.canonical(msgspec.structs.replace(wanted, control=control, verdicts=verdicts, trusted=signers))
    )
    path.chmod(0o600)
    return path


def _run_folder(home: Path) -> Path:
    run = home.absolute() / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    return run


def trusted(home: Path) -> tuple[str, ...]:
    """The public keys that a home lists: packages that carry code run if one of them has signed."""
    return tuple(file.read_text(encoding="ascii").strip() for file in sorted((home / "trusted").glob("*.pub")))


def _own_folder() -> Path:
    """A folder with a short path that only this user can enter."""
    folder = Path(tempfile.gettempdir()) / f"windlass-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise errors.NotAllowed(f"{folder} is not this user's own folder.", hint="Remove it, or use a shorter --home.")
    return folder


def command(path: Path, *, quiet: bool = False, ready_fd: int | None = None, log: Path | None = None) -> list[str]:
    """The command line of a server for a spec. With a `log`, its stderr, it detaches itself and keeps it short."""
    line = [sys.executable, "-m", "windlass.serving", "--spec", str(path)]
    if log is not None:
        line.extend(("--detached", "--log", str(log)))
    if quiet:
        line.append("--quiet")
    if ready_fd is not None:
        line.extend(("--ready-fd", str(ready_fd)))
    return line


def running(home: Path) -> list[spec.Spec]:
    """The specs of the servers of a home that still answer; what others left behind is removed."""
    alive: list[spec.Spec] = []
    for path in sorted((home / "run").glob("*.json")):
        with contextlib.suppress(errors.InvalidInput, OSError):
            found = strict_json.decode(path.read_bytes(), spec.Spec, what=path.name)
            if _answers(found.control):
                alive.append(found)
            elif time.time() - path.stat().st_mtime > _STARTED_BY_THEN_S:
                path.unlink()
    return alive


def _answers(control: str) -> int:
    """The process that listens there, 0 if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(control)
        except FileNotFoundError:
            return 0
        except ConnectionRefusedError:
            Path(control).unlink(missing_ok=True)
            return 0
        pid, _, _ = _PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return int(pid)


def find(home: Path, name: str = LOCAL) -> str | None:
    """The control socket of the server of this name in a home; None if none answers."""
    found = _find(home, name)
    return None if found is None else found[0]


def _find(home: Path, name: str) -> tuple[str, int] | None:
    """The control socket, and the process that listens on it."""
    path = home.absolute() / "run" / f"{name}.json"
    try:
        control = strict_json.decode(path.read_bytes(), spec.Spec, what=path.name).control
    except (errors.InvalidInput, OSError):
        return None
    pid = _answers(control)
    return (control, pid) if pid else None


def detached(wanted: spec.Spec, home: Path, *, name: str = LOCAL, timeout_s: float = 120.0) -> str:
    """The control socket of the home's server of this name; started unless it runs, and outlives whoever starts it.

    Returns when its models answer; `Unavailable` with the server's own words if it does not start. One that runs is
    left as it is, whatever its spec. The log is `run/NAME.log`.
    """
    with _alone(home, name):
        found = find(home, name)
        if found is not None:
            return found
        path = prepare(wanted, home, name)
        log = path.with_suffix(".log")
        log.touch(mode=0o600)
        reading, writing = os.pipe()
        with log.open("ab") as output, os.fdopen(reading, "rb") as pipe:
            begun = output.tell()
            line = command(path, ready_fd=writing, log=log)
            process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output, pass_fds=(writing,)
            )
            os.close(writing)
            # It goes on in a process of its own; this one has ended already.
            process.wait()
            ready, _, _ = select.select([pipe], [], [], timeout_s)
            told = pipe.readline() if ready else b""
        if not told:
            _stop(home, name, 0.0)
            path.unlink(missing_ok=True)
            with log.open("rb") as written:
                written.seek(begun)
                words = written.read()[-_WORDS_BYTES:].decode(errors="replace").strip().rpartition("Error: ")[2]
            late = f"the server was not ready within {timeout_s:g} s" if not ready else "the server did not start"
            raise errors.Unavailable(f"{late}: {words}" if words else late, hint=f"Its log is {log}.")
        control: str = json.loads(told)["control"]
        return control


def stop(home: Path, name: str = LOCAL, *, timeout_s: float = 60.0) -> bool:
    """Let the server of this name finish what is in flight, then end it; False if none runs."""
    with _alone(home, name):
        return _stop(home, name, timeout_s)


def _stop(home: Path, name: str, timeout_s: float) -> bool:
    found = _find(home, name)
    if found is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(found[1])
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended, _, _ = select.select([process], [], [], timeout_s)
            if not ended:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], _KILLED_S)
        finally:
            os.close(process)
    (home.absolute() / "run" / f"{name}.json").unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _alone(home: Path, name: str) -> Iterator[None]:
    """One at a time may start or stop the server of a name."""
    descriptor = os.open(_run_folder(home) / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Server:
    """A server started from this process; it ends with the `with` block, or when `stop` is called.

    `url` is where it answers, `admin_url` where its metrics and status are, `control` its control socket, `pid` its
    process.
    """

    def __init__(self, wanted: spec.Spec, home: Path, *, log: Path | None = None, timeout_s: float = 120.0) -> None:
        """Start it and wait until its models answer; `WindlassError` with its own words if it does not."""
        self._path = prepare(wanted, home)
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() if log is None else log.open("ab") as output:
            self._process = subprocess.Popen(
                command(self._path, quiet=log is None, ready_fd=writing),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                pass_fds=(writing,),
            )
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                ready, _, _ = select.select([pipe], [], [], timeout_s)
                told = pipe.readline() if ready else b""
            if not told:
                self.stop()
                words = b"" if log is not None else _tail(output.fileno())
                raise errors.Unavailable(
                    words.decode(errors="replace").removeprefix("Error: ") or "the server did not start"
                )
        addresses = json.loads(told)
        self.pid: int = addresses["pid"]
        self.url: str = addresses["listen"]
        self.admin_url: str = addresses["admin"]
        self.control: str = addresses["control"]

    def stop(self, timeout_s: float = 60.0) -> int:
        """Let it finish what is in flight, then end it; its exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._path.unlink(missing_ok=True)
        return status

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _tail(descriptor: int, most: int = 4_096) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, most, max(0, size - most)).strip()
