"""The filter, run by a small interpreter of the kernel's BPF: what it answers for each call and argument."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.security import seccomp, syscalls

PID = 4242
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
LISTED = syscalls.FILES + syscalls.WAITING + syscalls.MEMORY + syscalls.THREADS + syscalls.SIGNALS + syscalls.FACTS


def answer(program: seccomp.Program, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do, by struct seccomp_data {int nr; u32 arch; u64 ip; u64 args[6]}."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, true, false, k = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += true if accumulator == k else false
        elif code == 0x35:
            at += true if accumulator >= k else false
        elif code == 0x45:
            at += true if accumulator & k else false
        elif code == 0x06:
            return k
        else:
            raise AssertionError(hex(code))


@pytest.fixture(params=sorted(MACHINES))
def ask(request: pytest.FixtureRequest):
    """`ask(name, *arguments)` for each machine; a name that the machine has not is None."""
    column, arch = MACHINES[request.param]
    program = seccomp.program(PID, request.param)
    numbers = seccomp.numbers(LISTED + syscalls.REFUSED, column)

    def of(name: str, *arguments: int) -> int | None:
        return answer(program, arch, numbers[name], *arguments) if name in numbers else None

    of.program, of.arch, of.numbers = program, arch, numbers
    return of


def test_the_program_is_one_the_kernel_takes(ask) -> None:
    assert len(ask.program) <= 4096
    assert all(0 <= field < 256 for _, true, false, _ in ask.program for field in (true, false))


def test_plain_work_is_allowed(ask) -> None:
    for name in ("read", "write", "close", "mmap", "brk", "futex", "exit_group", "newfstatat", "clock_gettime"):
        assert ask(name) == ALLOW, name


def test_every_refused_call_is_refused_and_none_is_listed_twice(ask) -> None:
    for row in syscalls.REFUSED.split():
        assert ask(row.split(":")[0]) in (EPERM, None), row
    assert len(set(ask.numbers.values())) == len(ask.numbers)
    for word in ("execve", "socket", "ptrace", "mount", "io_uring_setup", "bpf", "keyctl", "kexec_load"):
        assert ask(word) == EPERM


@given(number=st.integers(0, 0xFFFFFFFF), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_a_call_that_is_not_listed_is_never_allowed(number: int, arguments: list[int]) -> None:
    for machine, (column, arch) in MACHINES.items():
        listed = set(seccomp.numbers(LISTED, column).values())
        if number not in listed:
            assert answer(seccomp.program(PID, machine), arch, number, *arguments) in (EPERM, ENOSYS, KILL)


def test_another_architecture_or_the_x32_door_is_death(ask) -> None:
    other = {arch for _, arch in MACHINES.values()} - {ask.arch} | {0x40000003}
    assert {answer(ask.program, arch, 0) for arch in other} == {KILL}
    assert answer(ask.program, ask.arch, 0x40000000) == KILL


@given(flags=st.integers(0, 2**32 - 1))
def test_only_threads_are_cloned(flags: int) -> None:
    for machine, (column, arch) in MACHINES.items():
        number = seccomp.numbers(LISTED, column)["clone"]
        allowed = answer(seccomp.program(PID, machine), arch, number, flags) == ALLOW
        assert allowed == (bool(flags & 0x10000) and not flags & 0x7E020080)


@pytest.mark.parametrize("name", ["kill", "tgkill"])
def test_signals_reach_the_process_itself_only(ask, name: str) -> None:
    assert ask(name, PID, PID, 6) == ALLOW
    for pid in (0, 1, PID - 1, PID + 1, 2**32 - 1):
        assert ask(name, pid, 1, 9) == EPERM


def test_limits_of_others_are_not_touched(ask) -> None:
    assert ask("prlimit64", 0) == ask("prlimit64", PID) == ALLOW
    assert ask("prlimit64", 1) == EPERM


def test_reading_never_truncates(ask) -> None:
    assert ask("openat", 3, 0, os.O_RDONLY) == ALLOW
    assert ask("openat", 3, 0, os.O_RDONLY | os.O_TRUNC | os.O_CLOEXEC) == EPERM
    assert ask("openat", 3, 0, os.O_WRONLY | os.O_TRUNC | os.O_CREAT) == ALLOW
    assert ask("open", 0, os.O_RDONLY | os.O_TRUNC) in (EPERM, None)


def test_devices_descriptors_and_the_process_itself_are_controlled_narrowly(ask) -> None:
    assert ask("ioctl", 1, 0x5401) == ALLOW
    assert ask("ioctl", 1, 0x5412) == EPERM  # TIOCSTI: type into somebody's terminal
    assert ask("fcntl", 1, 1) == ALLOW
    assert ask("fcntl", 1, 8) == EPERM  # F_SETOWN: signal somebody
    assert ask("prctl", 15) == ALLOW
    assert ask("prctl", 1) == EPERM  # PR_SET_PDEATHSIG
    assert ask("prctl", 4) == EPERM  # PR_SET_DUMPABLE


def test_a_machine_without_a_table_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp.program(PID, "s390x")
