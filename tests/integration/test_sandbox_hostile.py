"""The converter's walls against pickles that attack: what works bare (where that is harmless) must fail inside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windlass import errors, plugins
from windlass.packaging.capture import base, sandboxed
from windlass.security import sandbox

PAYLOADS = Path(__file__).with_name("hostile_payloads.py").read_text(encoding="utf-8")
# Bare, these would need a privilege, or end the process that tries.
NOT_TRIED_BARE = {"become_a_program", "leave_the_session", "mount", "load_bpf", "new_namespace"}
# Bare, these depend on the machine: on its kernel's settings, on the file system, on who runs the test.
MAY_FAIL_BARE = {
    *("io_uring", "watch_performance", "user_faults", "key_ring", "set_attribute", "read_shadow", "dump_core"),
    *("trace_the_victim", "read_victims_memory", "read_parents_memory", "inherited_files", "open_the_victim"),
}
LIMITS = sandbox.Limits(memory=sandbox.GIB, wall_s=60.0, cpu_s=60, disk=64 << 20, threads=64)

PLUGIN = '''
"""A third party's capture source that does what pickles make every loader do."""
import pickle
from windlass.packaging import draft
from windlass.types import signature


class Probe:
    name = "probe"
    carries_code = True

    @classmethod
    def accepts(cls, source):
        return False

    @classmethod
    def capture(cls, source, options):
        found = pickle.loads(source.read_bytes())
        spec = signature.TensorSpec("x", "FP32", ("batch", 2))
        return draft.Draft(
            files={"model.onnx": b"a model"}, signature=signature.Signature((spec,), (spec,)), trials=(),
            framework="probe", notes=(str(found),),
        )
'''


class Exec:
    """A pickle that runs `PAYLOADS`, then `outcome`; its value is the outcome as JSON."""

    def __init__(self, outcome: str, parameters: dict[str, Any]) -> None:
        self.text = f"{PAYLOADS}\nimport json\nresult = json.dumps({outcome}(json.loads({json.dumps(parameters)!r})))"

    def __reduce__(self) -> tuple[Any, ...]:
        program = f"(lambda space: exec({self.text!r}, space) or space['result'])({{'__name__': 'payload'}})"
        return (eval, (program,))


def write_pickle(folder: Path, outcome: str, parameters: dict[str, Any] | None = None) -> Path:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(Exec(outcome, parameters or {})))
    return path


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The plugin, installed as a third party's would be: a module and its entry point."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "windlass_probe.py").write_text(PLUGIN)
    facts = folder / "windlass_probe-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: windlass-probe\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[windlass.capture]\nprobe = windlass_probe:Probe\n")
    monkeypatch.syspath_prepend(str(folder))
    plugins.catalog.cache_clear()
    yield "probe"
    plugins.catalog.cache_clear()


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Harmless things to attack. Sockets listen for the whole test, and must hear nothing."""
    outside = tmp_path / "outside"
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_text("a private key")
    outside.mkdir()
    for name in ("file", "readable", "doomed"):
        (outside / name).write_text("precious")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        # A socket's path is limited to 107 bytes, which pytest's folders can exceed.
        unix_path = f"/tmp/windlass-test-{os.getpid()}"
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(unix_path)
        unix.listen()
        stack.callback(Path(unix_path).unlink)
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        for listener in (tcp, udp, unix):
            listener.setblocking(False)
        yield {
            "outside": str(outside),
            "secret": str(home / "id_ed25519"),
            "victim": victim.pid,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": unix_path,
            "python": sys.executable,
            "attacks": [],
            "listeners": (tcp, udp, unix),
        }


def sent(targets: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in targets.items() if name != "listeners"}


def snapshot(folder: Path) -> str:
    """Every name, byte, mode and time below a folder."""
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        seen.update(f"{path}{facts.st_mode}{facts.st_mtime_ns}{facts.st_nlink}".encode())
        if path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()


def heard(listeners: tuple[socket.socket, ...]) -> int:
    tcp, udp, unix = listeners
    count = 0
    for listener in (tcp, unix):
        with contextlib.suppress(BlockingIOError):
            listener.accept()[0].close()
            count += 1
    with contextlib.suppress(BlockingIOError):
        count += bool(udp.recv(100))
    return count


@pytest.mark.promise("P-25")
@pytest.mark.threat("F1", "F2")
def test_no_attack_gets_through_the_walls(
    probe: str, targets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINDLASS_TEST_TOKEN", "canary")
    outside = Path(targets["outside"])
    before = snapshot(outside)
    source = write_pickle(tmp_path, "run", sent(targets))
    draft = sandboxed.capture(source, probe, base.Options(), limits=LIMITS)
    outcomes = json.loads(draft.notes[0])
    assert {name for name, outcome in outcomes.items() if outcome == "SUCCEEDED"} == set()
    assert len(outcomes) > 45
    assert snapshot(outside) == before
    assert heard(targets["listeners"]) == 0
    assert Path(f"/proc/{targets['victim']}").exists()
    assert not any("canary" in outcome for outcome in outcomes.values())


@pytest.mark.promise("P-25")
def test_the_same_attacks_work_where_there_are_no_walls(
    targets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would prove nothing."""
    monkeypatch.setenv("WINDLASS_TEST_TOKEN", "canary")
    names = subprocess.run(
        [sys.executable, "-c", f"{PAYLOADS}\nprint(*attacks({sent(targets)!r}))"], capture_output=True, check=True
    )
    tried = sorted(set(names.stdout.decode().split()) - NOT_TRIED_BARE)
    source = write_pickle(tmp_path, "run", sent(targets) | {"attacks": tried})
    reader = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')))"
    done = subprocess.run(
        [sys.executable, "-c", reader, source], cwd=tmp_path, capture_output=True, timeout=60, check=True
    )
    outcomes = json.loads(done.stdout)
    failed = {name: outcome for name, outcome in outcomes.items() if outcome != "SUCCEEDED"}
    assert set(failed) <= MAY_FAIL_BARE, failed
    assert len(outcomes) - len(failed) > 30
    assert heard(targets["listeners"]) == 3
    assert (Path(targets["outside"]) / "renamed").exists()


@pytest.mark.promise("P-25")
@pytest.mark.parametrize(
    ("bomb", "said", "limits"),
    [
        ("fork_bomb", "longer than 2 s", {"wall_s": 2.0}),
        ("thread_bomb", "threads", {}),
        ("shared_memory_bomb", "256 MiB of memory", {"memory": 256 << 20}),
        ("endless_loop", "longer than 1 s", {"wall_s": 1.0}),
        ("deaf_loop", "longer than 1 s", {"wall_s": 1.0}),
        ("endless_loop", "2 s of processor time", {"cpu_s": 2}),
        ("fill_the_disk", "wrote more than 64 MiB", {}),
        ("many_files", "wrote more than 64 MiB", {}),
        ("endless_talk", "longer than 1 s", {"wall_s": 1.0}),
        ("crash", "crashed (SIGSEGV)", {}),
        ("leave_quietly", "no answer", {}),
        ("strange_call", "crashed (SIGSYS)", {}),
    ],
)
def test_a_bomb_is_put_out(probe: str, tmp_path: Path, bomb: str, said: str, limits: dict[str, Any]) -> None:
    source = write_pickle(tmp_path, bomb)
    started = time.monotonic()
    with pytest.raises((errors.CaptureFailed, errors.CorruptPackage)) as caught:
        sandboxed.capture(source, probe, base.Options(), limits=msgspec.structs.replace(LIMITS, **limits))
    assert said in caught.value.message
    assert time.monotonic() - started < 30


@pytest.mark.promise("P-25")
def test_private_memory_ends_at_its_limit(probe: str, tmp_path: Path) -> None:
    """The kernel says no to the child, which is told as any other error of the loader."""
    with pytest.raises(errors.CaptureFailed, match="MemoryError"):
        sandboxed.capture(write_pickle(tmp_path, "memory_bomb"), probe, base.Options(), limits=LIMITS)


@pytest.mark.promise("P-25")
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The child is in an endless loop; when the process that started it is killed, the kernel kills it too."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom windlass.security import sandbox\n"
        "sandbox.run(['timeit', 'import time; time.sleep(300)'], scratch=Path(sys.argv[1]))"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", program, scratch])
    try:
        children: list[int] = []
        deadline = time.monotonic() + 20
        while not children and time.monotonic() < deadline:
            time.sleep(0.05)
            children = [int(n) for n in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert children
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.promise("P-25")
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"index.json": ""},
        {"index.json": "[]"},
        {"index.json": '{"draft": null}'},
        {"index.json": '{"draft": null, "draft": null}'},
        {"index.json": '{"surprise": 1}'},
        {"index.json": "[" * 100},
    ],
)
def test_a_forged_answer_is_refused(probe: str, tmp_path: Path, answer: dict[str, str]) -> None:
    source = write_pickle(tmp_path, "fake_answer", {"answer": answer})
    with pytest.raises(errors.CorruptPackage):
        sandboxed.capture(source, probe, base.Options(), limits=LIMITS)


@pytest.mark.promise("P-23")
@pytest.mark.threat("F3")
def test_no_second_loader_is_tried_when_the_first_fails(
    probe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One child, one loader; neither another child nor a load in this process follows."""
    source = tmp_path / "model.pkl"
    source.write_bytes(b"\x80\x04 not a pickle")
    started: list[tuple[str, ...]] = []
    run = sandbox.run

    def spy(command: Any, **options: Any) -> sandbox.Result:
        started.append(tuple(command))
        return run(command, **options)

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("loaded in this process")

    monkeypatch.setattr(sandbox, "run", spy)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    with pytest.raises(errors.CaptureFailed, match="reading the model failed: UnpicklingError"):
        sandboxed.capture(source, probe, base.Options(), limits=LIMITS)
    assert [command[1] for command in started] == ["probe"]
