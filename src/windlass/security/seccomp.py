"""The system calls that a confined process may make: a filter of our own, written as the kernel's BPF instructions.

Installed by `confine.py`, as the last wall and before any untrusted byte is read. An allow-list: a call that a later
kernel adds is refused. Must never allow a way to a socket, another program, another process, or a file's metadata.
Format: Linux, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

from windlass.security import syscalls

# machine -> (column in the table, AUDIT_ARCH_*, number of seccomp(2))
_MACHINES = {"x86_64": (1, 0xC000003E, 317), "aarch64": (2, 0xC00000B7, 277)}
_X32_BIT = 0x40000000

_LOAD, _AND, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_ABSENT = 0x00050000 | errno.ENOSYS

_CLONE_THREAD = 0x00010000
_CLONE_NEW_ANY = 0x7E020080  # every CLONE_NEW*
_OPEN_MODE_AND_TRUNCATE = os.O_ACCMODE | os.O_TRUNC
# TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# F_SETOWN, F_SETSIG, F_SETOWN_EX send signals to others; F_SETLEASE holds up whoever opens the file
_FCNTLS_REFUSED = (8, 10, 15, 1024)
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and mappings. Not PR_SET_PDEATHSIG, not PR_SET_DUMPABLE.
_PRCTLS = (15, 16, 0x53564D41)

Instruction = tuple[int, int, int, int]
Program = list[Instruction]


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def numbers(table: str, column: int) -> dict[str, int]:
    """The calls of one table of `syscalls.py` that this machine has, by name."""
    rows = (row.split(":") for row in table.split())
    return {row[0]: int(row[column]) for row in rows if row[column]}


def program(pid: int, machine: str) -> Program:
    """The filter for the process `pid`, which may signal and limit itself only. `KeyError` on an unknown machine."""
    column, arch, _ = _MACHINES[machine]
    checked = _checked(pid)
    listed = "".join(
        (syscalls.FILES, syscalls.WAITING, syscalls.MEMORY, syscalls.THREADS, syscalls.SIGNALS, syscalls.FACTS)
    )
    code: Program = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    for name, number in numbers(listed, column).items():
        code += _when(number, checked.get(name, [(_RETURN, 0, 0, _ALLOW)]))
    for number in numbers(syscalls.REFUSED, column).values():
        code += _when(number, [(_RETURN, 0, 0, _REFUSE)])
    # What is not listed looks absent, so that libraries take the older way that is.
    return [*code, (_RETURN, 0, 0, _ABSENT)]


def _checked(pid: int) -> dict[str, Program]:
    """The calls that are allowed with some arguments only."""
    no_truncation: Program = [
        (_AND, 0, 0, _OPEN_MODE_AND_TRUNCATE),
        # Opening for reading with O_TRUNC empties a file, which Landlock before its third version lets pass.
        (_EQUAL, 0, 1, os.O_RDONLY | os.O_TRUNC),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return {
        "open": [_argument(1), *no_truncation],
        "openat": [_argument(2), *no_truncation],
        "clone": [
            _argument(0),
            (_HAS_BIT, 1, 0, _CLONE_THREAD),
            (_RETURN, 0, 0, _REFUSE),
            (_HAS_BIT, 0, 1, _CLONE_NEW_ANY),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ],
        "kill": _only(0, (pid,)),
        "tgkill": _only(0, (pid,)),
        "prlimit64": _only(0, (0, pid)),
        "ioctl": _only(1, _IOCTLS),
        "prctl": _only(0, _PRCTLS),
        "fcntl": [_argument(1), *_each(_FCNTLS_REFUSED, _REFUSE), (_RETURN, 0, 0, _ALLOW)],
    }


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)  # the low half; both machines are little-endian


def _each(values: Iterable[int], verdict: int) -> Program:
    return [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict))]


def _only(index: int, values: tuple[int, ...]) -> Program:
    return [_argument(index), *_each(values, _ALLOW), (_RETURN, 0, 0, _REFUSE)]


def _when(number: int, block: Program) -> Program:
    return [(_EQUAL, 0, len(block), number), *block]


def install(code: Program) -> None:
    """Bind every thread of this process to the filter, for good. Needs NO_NEW_PRIVS. `OSError` if refused."""
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    raw = b"".join(struct.pack("<HBBI", *step) for step in code)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    fprog = _SockFprog(len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    set_mode_filter, synchronise_threads = 1, 1
    if libc.syscall(_MACHINES[machine][2], set_mode_filter, synchronise_threads, ctypes.byref(fprog)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp")
