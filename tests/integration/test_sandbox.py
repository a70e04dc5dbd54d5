"""The sandbox on machines that lack a wall, for an ordinary user, and its ordinary work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from windlass import errors
from windlass.security import confine, sandbox

LIMITS = sandbox.Limits(memory=sandbox.GIB, wall_s=60.0, cpu_s=60, disk=1 << 20)

# Takes system calls away from itself, as an old kernel or a container would, then uses the sandbox.
POORER = """
import errno, json, platform, sys
from pathlib import Path
from windlass import errors
from windlass.security import confine, landlock, sandbox, seccomp, syscalls

taken = set(sys.argv[2].split(","))
column = {"x86_64": 1, "aarch64": 2}[platform.machine()]
numbers = {
    "landlock": 444,
    "seccomp": {1: 317, 2: 277}[column],
    "namespaces": seccomp.numbers(syscalls.REFUSED, column)["unshare"],
}
code = [(0x20, 0, 0, 0)]
for name in taken:
    code += [(0x15, 0, 1, numbers[name]), (0x06, 0, 0, 0x50000 | errno.ENOSYS)]
confine._prctl(38, 1)
seccomp.install([*code, (0x06, 0, 0, 0x7FFF0000)])

scratch = Path(sys.argv[1])
program = ["timeit", "-n1", "-r1", "open('ran', 'w').close()"]
answer = {}
try:
    answer["missing"] = sandbox.run(program, scratch=scratch).missing
except errors.NotAllowed as e:
    answer |= {"code": e.code, "exit_code": e.exit_code, "message": e.message, "hint": e.hint}
answer["ran"] = (scratch / "ran").exists()
answer["weaker"] = sandbox.run(program, scratch=scratch, allow_weaker=True).missing
answer["ran_weaker"] = (scratch / "ran").exists()
print(json.dumps(answer))
"""


def on_a_machine_without(scratch: Path, *walls: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", POORER, scratch, ",".join(walls)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.promise("P-25")
@pytest.mark.parametrize("walls", [["landlock"], ["seccomp"], ["landlock", "seccomp"]])
def test_a_missing_wall_is_named_and_refused(tmp_path: Path, walls: list[str]) -> None:
    answer = on_a_machine_without(tmp_path, *walls)
    assert answer["code"] == "not_allowed"
    assert answer["exit_code"] == 7
    assert all(wall in str(answer["message"]) for wall in walls)
    assert answer["hint"]
    assert answer["ran"] is False
    # Asked for, what could be had is applied, and what could not is said.
    assert [wall for wall in answer["weaker"] if wall != "namespaces"] == walls
    assert answer["ran_weaker"] is True


@pytest.mark.promise("P-25")
def test_without_namespaces_the_other_walls_still_keep_the_network_out(tmp_path: Path) -> None:
    """Containers refuse namespaces by default: no socket can be made all the same, and the result says so."""
    answer = on_a_machine_without(tmp_path, "namespaces")
    assert answer["missing"] == ["namespaces"]
    assert answer["ran"] is True


def test_the_result_is_the_programs_own(tmp_path: Path) -> None:
    program = (
        "import os; os.write(1, os.getcwd().encode()); os.write(2, b'aside'); open('kept', 'w').write('x'); os._exit(5)"
    )
    result = sandbox.run(("timeit", "-n1", "-r1", program), scratch=tmp_path, limits=LIMITS)
    assert (result.returncode, result.killed_by) == (5, "")
    # Namespaces only double another wall: many containers refuse them.
    assert set(result.missing) <= {"namespaces"}
    assert result.stdout.decode() == str(tmp_path)
    assert result.stderr == b"aside"
    assert (tmp_path / "kept").read_text() == "x"


def test_only_what_is_named_is_readable(tmp_path: Path) -> None:
    scratch, shown, hidden = tmp_path / "scratch", tmp_path / "shown", tmp_path / "hidden"
    scratch.mkdir()
    shown.write_text("seen")
    hidden.write_text("not seen")
    for path, code in ((shown, 0), (hidden, 1)):
        program = ("timeit", "-n1", "-r1", f"open({str(path)!r}).read()")
        assert sandbox.run(program, scratch=scratch, readable=[shown], limits=LIMITS).returncode == code


def test_output_is_cut_and_never_fills_a_pipe(tmp_path: Path) -> None:
    program = (
        "timeit",
        "-n1",
        "-r1",
        "import sys; sys.stdout.write('x' * 5_000_000); sys.stderr.write('y' * 5_000_000)",
    )
    result = sandbox.run(program, scratch=tmp_path, limits=LIMITS)
    assert result.returncode == 0
    assert (len(result.stdout), len(result.stderr)) == (1 << 20, 1 << 20)


def test_heavy_libraries_work_behind_the_walls(tmp_path: Path) -> None:
    program = (
        "import numpy as np, onnxruntime, sklearn.linear_model as m; "
        "print(m.LogisticRegression().fit([[0.], [1.]], [0, 1]).predict([[1.]]), np.linalg.inv(np.eye(3)).sum())"
    )
    result = sandbox.run(("timeit", "-n1", "-r1", program), scratch=tmp_path, limits=LIMITS)
    assert result.returncode == 0, result.stderr.decode()
    assert b"[1] 3.0" in result.stdout


def test_it_starts_quickly(tmp_path: Path) -> None:
    """The walls cost a start of Python and little more; the least of several, since the machine is shared."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        sandbox.run((), scratch=tmp_path, limits=LIMITS)
        times.append(time.monotonic() - started)
    assert min(times) < 0.5


def test_a_folder_that_is_not_there_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sandbox.run((), scratch=tmp_path / "nothing")


def test_the_launcher_obeys_its_own_parent_only() -> None:
    """A child whose parent died before it could ask to die with it leaves by itself."""
    child = os.fork()
    if child == 0:
        confine.die_with(1 if os.getppid() != 1 else 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == confine.REFUSED_EXIT_CODE


TRIES = {
    "open('a', 'w').close()": 0,
    "open({mine!r})": 1,
    "open({mine!r}, 'a')": 1,
    "import socket; socket.socket()": 1,
    "import os; os.fork()": 1,
    "import os; os.kill(os.getppid(), 0)": 1,
    "import os; open(f'/proc/{{os.getppid()}}/environ')": 1,
    "import os; os.chmod({mine!r}, 0o600)": 1,
}
AS_NOBODY = """
import json, os, sys, tempfile
from pathlib import Path
from windlass.security import sandbox
os.umask(0o077)
with tempfile.TemporaryDirectory() as folder:
    mine, scratch = Path(folder, "mine"), Path(folder, "scratch")
    mine.write_text("a key")
    scratch.mkdir()
    answers = [os.geteuid()]
    for statement in json.loads(sys.argv[1]):
        command = ("timeit", "-n1", "-r1", statement.format(mine=str(mine)))
        answers.append(sandbox.run(command, scratch=scratch).returncode)
print(json.dumps(answers))
"""
# Root's home, where Python may lie, is closed to others: in a mount namespace of its own, only Python is left there.
BECOME_NOBODY = """
set -e
keep=$(mktemp -d); mount --bind "$1" "$keep"; mount -t tmpfs -o mode=755 none "$HOME"
mkdir -p "$1"; mount --move "$keep" "$1"; rmdir "$keep"; shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all "$@"
"""


@pytest.mark.promise("P-25")
def test_an_ordinary_user_has_the_same_walls() -> None:
    program = [sys.executable, "-c", AS_NOBODY, json.dumps(list(TRIES))]
    if os.geteuid() == 0:
        if not Path(sys.base_prefix).is_relative_to(Path.home()):
            become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        else:
            become = ["unshare", "-m", "sh", "-c", BECOME_NOBODY, "sh", sys.base_prefix]
        program = [*become, *program]
    done = subprocess.run(program, capture_output=True, timeout=60, cwd="/")
    if done.returncode != 0 and b"Traceback" not in done.stderr:
        pytest.skip(f"root cannot become an ordinary user here: {done.stderr.decode().strip()}")
    assert done.returncode == 0, done.stderr.decode()
    user, *answers = json.loads(done.stdout)
    assert user != 0
    assert answers == list(TRIES.values())


def test_an_unknown_machine_is_refused_not_run_bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "system", lambda: "Darwin")
    with pytest.raises(errors.NotAllowed, match="needs Linux"):
        sandbox.run((), scratch=tmp_path, allow_weaker=True)
