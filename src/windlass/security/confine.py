"""The launcher of a confined child: `python -m windlass.security.confine POLICY MODULE ARGUMENT...`

Started by `sandbox.py`. It walls itself in, says which walls stand, and only then runs the module. It walls itself in
after its own start, not before (no preexec in a parent with threads), and before it imports anything of the module:
Landlock and namespaces bind the thread that asks, and a library may start threads when it is imported.
Must never read an untrusted byte, nor import more than what raises the walls.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import runpy
import signal
import sys
from pathlib import Path

import msgspec

from windlass.security import landlock, seccomp

REFUSED_EXIT_CODE = 77
# Without these two there is no sandbox. Namespaces only double what seccomp does already: no socket can be made.
REQUIRED = ("landlock", "seccomp")
_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000  # CLONE_NEWUSER, NEWNET, NEWIPC, NEWUTS
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the child may do. Paths are absolute; sizes are bytes, times seconds; `report` is the fd of the verdict."""

    parent: int
    report: int
    scratch: str
    readable: tuple[str, ...]
    listable: tuple[str, ...]
    memory: int
    cpu_s: int
    file_size: int
    open_files: int
    niceness: int
    allow_weaker: bool


def apply(policy: Policy) -> tuple[str, ...]:
    """Raise the walls around this process, for good; the names of those that this machine refused.

    Capabilities and NO_NEW_PRIVS are dropped first: nothing that follows is taken back by a program with a set-uid bit.
    """
    missing: list[str] = []
    os.nice(policy.niceness)
    try:
        _new_namespaces()
    except OSError:
        missing.append("namespaces")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(policy)
    _drop_capabilities()
    # No core dump, neither to a file nor to a collector; RLIMIT_CORE alone does not stop the latter.
    _prctl(_PR_SET_DUMPABLE, 0)
    try:
        landlock.restrict(
            [
                *((path, landlock.READ) for path in policy.readable),
                *((path, landlock.LIST) for path in policy.listable),
                (policy.scratch, landlock.WRITE),
                ("/dev/null", landlock.READ | landlock.WRITE_FILE),
            ]
        )
    except OSError:
        missing.append("landlock")
    try:
        seccomp.install(seccomp.program(os.getpid(), platform.machine()))
    except (OSError, KeyError):
        missing.append("seccomp")
    return tuple(missing)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(REFUSED_EXIT_CODE)


def _limit(policy: Policy) -> None:
    """What the kernel counts by process. Threads, total memory and the scratch folder are watched by the parent.

    RLIMIT_DATA, not RLIMIT_AS: torch and OpenBLAS reserve many times the address space that they ever touch.
    """
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_DATA, policy.memory, policy.memory),
        # The first says why (SIGXCPU), the second kills whoever does not hear it.
        (resource.RLIMIT_CPU, policy.cpu_s, policy.cpu_s + 1),
        (resource.RLIMIT_FSIZE, policy.file_size, policy.file_size),
        (resource.RLIMIT_NOFILE, policy.open_files, policy.open_files),
    ):
        _, present = resource.getrlimit(kind)
        most = hard if present == resource.RLIM_INFINITY else min(hard, present)
        resource.setrlimit(kind, (min(soft, most), most))


def _new_namespaces() -> None:
    """A user namespace of our own, and in it a network without an interface that is up. `OSError` if refused."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main(arguments: list[str]) -> None:
    """Wall in, report, run the module as a program; without a module, only report."""
    policy = msgspec.json.decode(arguments[0], type=Policy)
    die_with(policy.parent)
    missing = apply(policy)
    os.write(policy.report, json.dumps(missing).encode())
    os.close(policy.report)  # closed before untrusted code runs: what the parent reads there is ours
    if not policy.allow_weaker and any(wall in missing for wall in REQUIRED):
        sys.exit(REFUSED_EXIT_CODE)
    if len(arguments) > 1:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
