# ruff: noqa: BLE001, C408, C901, PTH101, PTH102, PTH104, PTH108, PTH115, PTH120, PTH123, PTH208, PTH211
# mypy: ignore-errors
"""What a hostile pickle tries, with benign markers: each attack returns if it got its way and raises if it was stopped.

The text of this file goes into a pickle (test_sandbox_hostile.py), which runs it walled in, and bare for comparison.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import socket
import subprocess
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
# ptrace, process_vm_readv, unshare, mount, bpf, keyctl, userfaultfd, io_uring_setup, perf_event_open, memfd_create
CALLS = {
    "x86_64": dict(
        ptrace=101,
        unshare=272,
        mount=165,
        bpf=321,
        keyctl=250,
        userfaultfd=323,
        io_uring=425,
        perf=298,
        setns=308,
        pidfd_open=434,
    ),
    "aarch64": dict(
        ptrace=117,
        unshare=97,
        mount=40,
        bpf=280,
        keyctl=219,
        userfaultfd=282,
        io_uring=425,
        perf=241,
        setns=268,
        pidfd_open=434,
    ),
}


def call(name, *arguments):
    if LIBC.syscall(CALLS[platform.machine()][name], *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def attacks(p):
    """By name; `p` holds the harmless targets: ports, files outside the scratch folder, a victim process."""
    outside, secret, victim = p["outside"], p["secret"], p["victim"]

    def connect_tcp():
        socket.create_connection(("127.0.0.1", p["tcp"]), timeout=2).close()

    def ask_dns():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"\0\1\1\0\0\1", ("127.0.0.1", p["udp"]))

    def connect_unix():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(p["unix"])

    def listen():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()

    def pair_of_sockets():
        for s in socket.socketpair():
            s.close()

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    def leave_a_daemon():
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(0)
        os.waitpid(child, 0)

    def leave_the_session():
        os.setsid()

    def run_a_program():
        subprocess.run(["/bin/true"], check=True)

    def become_a_program():
        os.execv(p["python"], [p["python"], "-c", "print('took over')"])

    def write_outside():
        with open(f"{outside}/new", "w") as f:
            f.write("x")

    def append_outside():
        with open(f"{outside}/file", "a") as f:
            f.write("x")

    def empty_by_reading():
        os.close(os.open(f"{outside}/readable", os.O_RDONLY | os.O_TRUNC))

    def truncate_outside():
        os.truncate(f"{outside}/file", 1)

    def hard_link():
        os.link(f"{outside}/file", "linked")

    def symbolic_link():
        os.symlink(f"{outside}/file", "symlinked")
        with open("symlinked", "a") as f:
            f.write("x")

    def rename_into():
        with open("mine", "w") as f:
            f.write("x")
        os.rename("mine", f"{outside}/renamed")

    def make_a_folder():
        os.mkdir(f"{outside}/folder")

    def delete_outside():
        os.unlink(f"{outside}/doomed")

    def change_mode():
        os.chmod(f"{outside}/readable", 0o640)

    def change_times():
        os.utime(f"{outside}/readable")

    def set_attribute():
        os.setxattr(f"{outside}/readable", "user.mark", b"x")

    def climb_out():
        os.chdir(outside)
        with open("climbed", "w") as f:
            f.write("x")

    def make_a_fifo():
        os.mkfifo("fifo")

    def read_secret():
        with open(secret) as f:
            f.read()

    def read_secret_through_proc():
        with open(f"/proc/self/root{secret}") as f:
            f.read()

    def list_home():
        os.listdir(os.path.dirname(secret))

    def read_shadow():
        with open("/etc/shadow") as f:
            f.read()

    def read_victims_environment():
        with open(f"/proc/{victim}/environ") as f:
            f.read()

    def read_victims_memory():
        os.close(os.open(f"/proc/{victim}/mem", os.O_RDONLY))

    def read_parents_memory():
        os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY))

    def read_own_source_environment():
        if "WINDLASS_TEST_TOKEN" not in os.environ:
            raise PermissionError("scrubbed")

    def trace_the_victim():
        call("ptrace", 0x4206, victim, 0, 0)  # PTRACE_SEIZE; let go when this process ends

    def signal_the_victim():
        os.kill(victim, 0)

    def signal_the_parent():
        os.kill(os.getppid(), 0)

    def signal_everyone():
        os.kill(0, 0)

    def signal_by_file():
        read_end, write_end = os.pipe()
        with contextlib.suppress(OSError):
            os.close(write_end)
        fcntl.fcntl(read_end, fcntl.F_SETOWN, victim)

    def limit_the_victim():
        import resource

        resource.prlimit(victim, resource.RLIMIT_CORE, (0, resource.prlimit(victim, resource.RLIMIT_CORE)[1]))

    def slow_the_victim():
        os.setpriority(os.PRIO_PROCESS, victim, 5)

    def open_the_victim():
        call("pidfd_open", victim, 0)

    def new_namespace():
        call("unshare", 0x10000000)

    def mount():
        call("mount", b"none", outside.encode(), b"tmpfs", 0, None)

    def load_bpf():
        call("bpf", 0, None, 0)

    def key_ring():
        call("keyctl", 0, -3, 1)

    def user_faults():
        call("userfaultfd", 1)

    def io_uring():
        parameters = (ctypes.c_uint32 * 30)()
        call("io_uring", 1, parameters)

    def watch_performance():
        call("perf", None, 0, -1, -1, 0)

    def dump_core():
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))

    def inherited_files():
        kinds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        if not any(kind.startswith(("socket:", "pipe:")) or kind == secret for kind in kinds):
            raise PermissionError("nothing was left open")

    return {name: f for name, f in locals().items() if callable(f)}


def run(p):
    """Every attack of `p["attacks"]`: what came of it."""
    known = attacks(p)
    outcomes = {}
    for name in p["attacks"] or sorted(known):
        try:
            known[name]()
            outcomes[name] = "SUCCEEDED"
        except Exception as e:
            outcomes[name] = f"blocked: {type(e).__name__}: {e}"
    return outcomes


def fork_bomb(p):
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def thread_bomb(p):
    threading.stack_size(65536)
    while True:
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def memory_bomb(p):
    held = []
    while True:
        held.append(bytearray(b"x" * (64 << 20)))


def shared_memory_bomb(p):
    held = []
    while True:
        held.append(mmap.mmap(-1, 64 << 20))
        held[-1].write(b"x" * (64 << 20))


def endless_loop(p):
    while True:
        pass


def deaf_loop(p):
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def fill_the_disk(p):
    for number in range(1 << 20):
        with open(f"filler-{number}", "wb") as f:
            f.write(b"x" * (8 << 20))


def many_files(p):
    for number in range(1 << 30):
        with open(f"filler-{number}", "wb"):
            pass


def endless_talk(p):
    while True:
        sys.stdout.write("x" * 65536)


def crash(p):
    ctypes.string_at(0)


def leave_quietly(p):
    os._exit(0)


def strange_call(p):
    LIBC.syscall(0x40000000 + 39)  # getpid by the x32 door


def fake_answer(p):
    """Leave an answer of one's own making, then go before the honest one is written."""
    os.mkdir("answer")
    for name, text in p["answer"].items():
        with open(f"answer/{name}", "w") as f:
            f.write(text)
    if p.get("link"):
        os.symlink(p["link"], "answer/0")
    os._exit(0)
