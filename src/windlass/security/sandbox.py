"""Runs a module of our own in a confined child process: no network, no other program, no file but those it is given.

Used by the command line's jobs for what may carry code (pickles, torch checkpoints) and for the first load of a model
(`packaging/probation.py`), and by servers for models that carry code (`packaging/contained.py`). The walls are raised
by `confine.py` inside the child; this side starts it, counts what the kernel does not, kills it, says how it ended.
Must never weaken a wall unasked.

    wall                          keeps
    Landlock                      files: reads Python and what is `readable`, writes to `scratch`; also TCP and signals
    seccomp (an allow-list)       no socket, program, process, ptrace, mount, link, chmod, io_uring ...
    user + network namespaces     a network with no interface that is up (where the machine grants namespaces)
    capabilities, NO_NEW_PRIVS    root is nobody; both hold for whatever the child could start
    rlimits                       private memory, CPU time, size of a file, open files, no core dump
    this process                  wall clock, all memory, threads, bytes in scratch: SIGKILL to the whole group
    PR_SET_PDEATHSIG              the child dies with the thread that started it
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import signal
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import windlass
from windlass import errors
from windlass.security import confine

GIB = 1 << 30
_TICK_S = 0.05
_MAX_OUTPUT = 1_048_576
MAX_TEXT = 2000
_MAX_FILES_IN_SCRATCH = 10_000
# What the C library, Python and numeric libraries read of the system; nothing there is anybody's secret.
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom", "/dev/random", "/dev/zero"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm/overcommit_memory"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
)


class Limits(msgspec.Struct, frozen=True):
    """What the child may use: bytes, seconds, counts. `niceness` is added to this process's own."""

    memory: int = 8 * GIB
    wall_s: float = 600.0
    cpu_s: int = 1200
    disk: int = 8 * GIB
    threads: int = 256
    open_files: int = 256
    niceness: int = 0


DEFAULT_LIMITS = Limits()


class Place(msgspec.Struct, frozen=True):
    """Where a child works: it writes in `scratch` only, reads `readable`, and may import from (list) `import_from`."""

    scratch: Path
    readable: tuple[Path, ...] = ()
    import_from: tuple[Path, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """How the child ended. `missing` names walls that the machine refused; `killed_by` is `""` when it ended by itself,

    else `time`, `cpu`, `memory`, `disk`, `threads` or the name of a signal. Output is cut after 1 MiB each.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    missing: tuple[str, ...]
    killed_by: str


def run(
    command: Sequence[str],
    *,
    scratch: Path,
    readable: Sequence[Path] = (),
    import_from: Sequence[Path] = (),
    limits: Limits = DEFAULT_LIMITS,
    allow_weaker: bool = False,
) -> Result:
    """Run `command` (a module's name and its arguments) walled in; it works in `scratch` and may write only there.

    `readable` are files or folders to read beside Python itself; `import_from` are folders put on the module path
    whose names (not contents) may be listed. What the child leaves in `scratch` is untrusted: follow no link there.
    `NotAllowed` if the machine lacks a wall and `allow_weaker` is not set: then nothing was run.
    """
    scratch = scratch.resolve(strict=True)
    place = Place(scratch, tuple(readable), tuple(import_from))
    process, report = _launch(command, place, limits, allow_weaker=allow_weaker)
    try:
        outputs, killed_by = _supervise(process, scratch, limits)
        missing = _verdict(report, outputs[1], killed_by)
    finally:
        os.close(report)
    _check_walls(missing, allow_weaker=allow_weaker)
    return Result(process.returncode, outputs[0], outputs[1], missing, killed_by)


def start(
    command: Sequence[str],
    place: Place,
    *,
    limits: Limits,
    stderr: int,
    pass_fds: tuple[int, ...] = (),
    allow_weaker: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `command` walled in and leave it running; it dies with the thread that started it.

    `pass_fds` are descriptors that it may use, `stderr` takes its last words. The caller kills and reaps it: what the
    kernel does not count (wall clock, scratch) is not watched. `NotAllowed` as for `run`.
    """
    process, report = _launch(command, place, limits, allow_weaker=allow_weaker, stderr=stderr, pass_fds=pass_fds)
    try:
        _check_walls(_verdict(report, b"", ""), allow_weaker=allow_weaker)
    except errors.WindlassError:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(report)
    return process


def _launch(
    command: Sequence[str],
    place: Place,
    limits: Limits,
    *,
    allow_weaker: bool,
    stderr: int = subprocess.PIPE,
    pass_fds: tuple[int, ...] = (),
) -> tuple[subprocess.Popen[bytes], int]:
    """The launcher's process, and the descriptor where it says which walls are missing."""
    if platform.system() != "Linux":
        raise errors.NotAllowed("the sandbox needs Linux.", hint="Run this step on a Linux machine or in a container.")
    report, verdict = os.pipe()
    try:
        policy = confine.Policy(
            parent=os.getpid(),
            report=verdict,
            scratch=str(place.scratch),
            readable=(*python_paths(), *(str(path.resolve()) for path in place.readable)),
            listable=tuple(str(path.resolve()) for path in place.import_from),
            memory=limits.memory,
            cpu_s=limits.cpu_s,
            file_size=limits.disk,
            open_files=limits.open_files,
            niceness=limits.niceness,
            allow_weaker=allow_weaker,
        )
        launcher = [sys.executable, "-P", "-s", "-B", "-m", "windlass.security.confine"]
        process = subprocess.Popen(
            [*launcher, msgspec.json.encode(policy).decode(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stderr == subprocess.PIPE else subprocess.DEVNULL,
            stderr=stderr,
            cwd=place.scratch,
            env=_environment(place.scratch, place.import_from),
            pass_fds=(verdict, *pass_fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(verdict)
    return process, report


def _check_walls(missing: tuple[str, ...], *, allow_weaker: bool) -> None:
    if not allow_weaker and any(wall in missing for wall in confine.REQUIRED):
        raise errors.NotAllowed(
            f"this machine cannot confine untrusted code: it lacks {' and '.join(missing)}, so nothing was run.",
            hint="Use Linux 5.13 or newer with Landlock and seccomp, or allow a weaker sandbox if you trust it.",
        )


def python_paths() -> tuple[str, ...]:
    """What a child reads to be Python with its libraries and Windlass: not the whole prefix, which may be a home."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = sysconfig.get_paths()
    prefixes = {sys.prefix, sys.base_prefix, sys.base_exec_prefix}
    found = {paths[name] for name in names} | {f"{prefix}/{part}" for prefix in prefixes for part in ("lib", "lib64")}
    return (*_SYSTEM, *sorted(found), *_user_site(), str(Path(windlass.__file__).parent))


def _user_site() -> tuple[str, ...]:
    """Where `pip install --user` puts libraries; the child has another home, so it is told."""
    return (site.getusersitepackages(),) if site.ENABLE_USER_SITE else ()


def plain_text(text: str) -> str:
    """Text from a child, for a person: bounded, and without characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text[:MAX_TEXT]).strip()


def last_words(output: bytes) -> str:
    """The last line of what a child said."""
    return plain_text(output[-MAX_TEXT:].decode(errors="replace").strip().rpartition("\n")[2])


def _environment(scratch: Path, import_from: Sequence[Path]) -> dict[str, str]:
    """Nothing of this process's own environment: no token, no proxy, no preloaded library."""
    folders = [*(str(path.resolve()) for path in import_from), *_user_site()]
    home = Path(windlass.__file__).parent.parent
    if str(home) not in (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]):
        folders.append(str(home))
    return {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "USER": "windlass",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(folders),
        "OPENBLAS_NUM_THREADS": "1",
        "JOBLIB_MULTIPROCESSING": "0",  # its semaphores and processes are behind the walls
    }


def _supervise(process: subprocess.Popen[bytes], scratch: Path, limits: Limits) -> tuple[tuple[bytes, bytes], str]:
    """Take the output, watch what the kernel does not count, kill what exceeds it; returns once the group is gone."""
    if process.stdout is None or process.stderr is None:
        raise errors.InternalError("the sandbox has no pipes")
    deadline = time.monotonic() + limits.wall_s
    taken = {process.stdout: bytearray(), process.stderr: bytearray()}
    ended = os.pidfd_open(process.pid)
    killed_by = ""
    with process, selectors.DefaultSelector() as selector:
        try:
            selector.register(ended, selectors.EVENT_READ)
            for pipe in taken:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, taken[pipe])
            while True:
                ready = selector.select(_TICK_S)
                for key, _ in ready:
                    if key.data is not None and not _take(key.fd, key.data):
                        selector.unregister(key.fileobj)
                if any(key.fd == ended for key, _ in ready):
                    break
                if not killed_by:
                    killed_by = "time" if time.monotonic() > deadline else _excess(process.pid, scratch, limits)
                    if killed_by:
                        os.killpg(process.pid, signal.SIGKILL)
            for pipe in taken:
                while _take(pipe.fileno(), taken[pipe]):
                    pass
        finally:
            # The leader is not reaped yet, so its number is still its own; in a weaker sandbox it may leave others.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            os.close(ended)
    if not killed_by and process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        killed_by = "cpu" if name == "SIGXCPU" else name
    return (bytes(taken[process.stdout]), bytes(taken[process.stderr])), killed_by


def _take(fd: int, into: bytearray) -> bool:
    """Read what is there, keep the first part; False at the end or when nothing is there."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return False
    into += data[: _MAX_OUTPUT - len(into)]
    return bool(data)


def _excess(pid: int, scratch: Path, limits: Limits) -> str:
    """Which limit the child is over: memory of every kind, threads, files in scratch."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    held = sum(int(facts[name][0]) for name in ("RssAnon", "RssShmem") if name in facts) * 1024
    if held > limits.memory:
        return "memory"
    if "Threads" in facts and int(facts["Threads"][0]) > limits.threads:
        return "threads"
    return "disk" if _overfull(scratch, limits.disk) else ""


def _overfull(scratch: Path, limit: int) -> bool:
    """Whether a folder holds more bytes or entries than allowed; the child changes it meanwhile."""
    count = size = 0
    folders = [str(scratch)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                count += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if count > _MAX_FILES_IN_SCRATCH or size > limit:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return False


def _verdict(report: int, stderr: bytes, killed_by: str) -> tuple[str, ...]:
    """The walls that are missing, as the launcher said before anything else ran."""
    said = os.read(report, 4096)
    if said:
        return tuple(str(name) for name in json.loads(said))
    if killed_by:
        return ()
    raise errors.InternalError("the sandbox did not start.", hint=last_words(stderr))
