"""Ctrl-C at any moment of `windlass package`: nothing half done, nothing left behind, and the next one works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytestmark = pytest.mark.timeout(300)

WINDLASS = str(Path(sys.executable).parent / "windlass")
TIMES = 12


class Shell:
    """A folder with a home, and with a folder for whatever is put aside for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`windlass ARGUMENTS` as a shell starts it: a process group, which Ctrl-C reaches as a whole."""
        return subprocess.Popen(
            [WINDLASS, *arguments],
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.temporary), "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def package(self, seed: int) -> subprocess.Popen[bytes]:
        weights = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, self.folder / f"{seed}.onnx")
        return self.start("package", f"{seed}.onnx", "--name", "m")

    def finished(self, *arguments: str) -> bytes:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out


def processes_of(session: int) -> list[str]:
    """What still runs in a session, but zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_interrupted_at_any_moment_it_leaves_nothing_half_done(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    begun = time.monotonic()
    first = shell.package(0)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    whole = time.monotonic() - begun
    interrupted = registered = 0
    for round_ in range(TIMES):
        process = shell.package(1 + round_)
        time.sleep(whole * (round_ + 0.5) / TIMES)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        out, said = process.communicate(timeout=60)
        # Before Python has read the first line of ours, the signal itself ends the process; a shell shows 130 as well.
        early = process.returncode == -signal.SIGINT
        assert early or process.returncode in (0, 130), said
        assert (process.returncode == 130) == (b"Interrupted" in said)
        assert early or b"Traceback" not in said
        interrupted += process.returncode != 0
        # What was said to be registered is, even if the interrupt came a moment later.
        registered += bool(out)
        assert not (early and out)
        assert process.returncode != 0 or out
        assert processes_of(process.pid) == []
    assert interrupted >= TIMES // 3
    # The next one works, and the versions are those that were said to be, with every byte whole.
    again = shell.package(0)
    out, said = again.communicate(timeout=120)
    assert (again.returncode, b"nothing new" in said) == (0, True)
    versions = json.loads(shell.finished("models", "list", "m", "--json"))
    numbers = sorted(version["version"] for version in versions)
    assert {version["status"] for version in versions} == {"READY"}
    # An interrupt between the commit and the last word leaves a whole version, never a part of one.
    assert 1 + registered <= len(numbers) <= 1 + TIMES
    assert numbers == list(range(1, len(numbers) + 1))
    assert b"every blob is whole" in shell.finished("models", "scrub")
    assert list(shell.temporary.iterdir()) == []
    # No library reports to its maker, or keeps what it would report.
    assert list(tmp_path.rglob("*Microsoft*")) == []
    litter = [p for p in (tmp_path / ".windlass").rglob("*") if ".tmp" in p.name or "partial" in p.name]
    assert litter == []
