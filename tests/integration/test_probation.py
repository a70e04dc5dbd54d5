"""The first load of a package, in a child that may die: verdicts, reasons, memory of both, and mutated models."""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from windlass import errors
from windlass.packaging import archive, probation, verdicts
from windlass.security import sandbox
from windlass.storage import blobs
from windlass.types import manifest, signature, tensor_codec

MUTANTS = Path(__file__).with_name("onnx_mutants.py")
LIMITS = sandbox.Limits(memory=sandbox.GIB, wall_s=60.0, cpu_s=60, disk=1 << 20, niceness=10)


def double(times: int | None = None) -> bytes:
    """y = 2x; with `times`, by a loop that runs so often."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    if times is None:
        nodes, initializers = [helper.make_node("Add", ["x", "x"], ["y"])], []
    else:
        scalar = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Abs", ["v"], ["v_out"])],
            "body",
            [
                scalar("i", TensorProto.INT64, []),
                scalar("go", TensorProto.BOOL, []),
                scalar("v", TensorProto.FLOAT, None),
            ],
            [scalar("go_on", TensorProto.BOOL, []), scalar("v_out", TensorProto.FLOAT, None)],
        )
        nodes = [helper.make_node("Loop", ["times", "start", "x"], ["y"], body=body)]
        initializers = [
            numpy_helper.from_array(np.array(times, np.int64), "times"),
            numpy_helper.from_array(np.array(True), "start"),
        ]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def package(model: bytes | None = None, factor: float = 2.0) -> archive.Package:
    spec = tuple(signature.TensorSpec(name, "FP32", ("batch", 2)) for name in ("x", "y"))
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = [model or double(), tensor_codec.pack({"x": rows}), tensor_codec.pack({"y": rows * np.float32(factor)})]
    refs = [manifest.BlobRef(blobs.digest_of(part), len(part)) for part in parts]
    value = manifest.Manifest(
        name="double",
        kind="model",
        signature=signature.Signature(spec[:1], spec[1:]),
        model=manifest.ModelSpec(runtime="onnx", blobs={"model.onnx": refs[0]}, ir_version=10, opset=20),
        golden=manifest.Golden(refs[1], refs[2], rtol=1e-3, atol=1e-5),
    )
    return archive.in_memory(value, {ref.digest: part for ref, part in zip(refs, parts, strict=True)})


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch):
    """Have the child run a statement after, or in the place of, the load: a runtime that misbehaves natively."""
    run = sandbox.run
    started: list[tuple[str, ...]] = []

    def misbehave(statement: str | None = None) -> list[tuple[str, ...]]:
        def replaced(command: Any, **options: Any) -> sandbox.Result:
            started.append(tuple(command))
            return run(command if statement is None else ("timeit", "-n1", "-r1", statement), **options)

        monkeypatch.setattr(sandbox, "run", replaced)
        return started

    return misbehave


def test_a_good_package_passes_from_memory_a_folder_and_a_file(tmp_path: Path) -> None:
    good = package()
    archive.write_folder(good, tmp_path / "folder")
    archive.write_zip(good, tmp_path / "double.windlass")
    for source in (good, tmp_path / "folder", tmp_path / "double.windlass"):
        found = probation.run(source, limits=LIMITS)
        assert (found.verdict, found.digest, found.kind) == ("passed", good.digest, "verify"), found.statistics
        assert found.statistics["reason"] == ""
        assert set(found.statistics["walls_missing"]) <= {"namespaces"}


def test_a_wrong_answer_fails_with_the_reason() -> None:
    found = probation.run(package(factor=3.0), limits=LIMITS)
    assert found.verdict == "failed"
    assert "gate_refused" in found.statistics["reason"]
    assert "golden" in found.statistics["reason"]


def test_damaged_bytes_fail(tmp_path: Path) -> None:
    archive.write_folder(package(), tmp_path / "folder")
    blob = next(iter((tmp_path / "folder" / "blobs" / "sha256").iterdir()))
    blob.write_bytes(bytes(reversed(blob.read_bytes())))
    found = probation.run(tmp_path / "folder", limits=LIMITS)
    assert found.verdict == "failed"
    assert "corrupt_package" in found.statistics["reason"]


def test_a_package_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        probation.run(tmp_path / "nothing", limits=LIMITS)


@pytest.mark.promise("P-24")
@pytest.mark.threat("F6")
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import os; os.kill(os.getpid(), 9)", "crashed (SIGKILL)"),
        (
            "import mmap; held = [mmap.mmap(-1, 1 << 28) for _ in range(9)]; [m.write(bytes(1 << 28)) for m in held]",
            "memory",
        ),
        ("import os; os._exit(0)", "exit code 0"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_child_that_dies_is_a_verdict(instead, statement: str, reason: str) -> None:
    instead(statement)
    found = probation.run(package(), limits=LIMITS)
    assert found.verdict == "failed"
    assert reason in found.statistics["reason"]


@pytest.mark.promise("P-24")
def test_a_model_that_never_ends_is_a_verdict_that_is_not_kept(tmp_path: Path) -> None:
    """The golden run loops 2**62 times: only the clock can end it. A slow day must not quarantine a model for good."""
    limits = msgspec.structs.replace(LIMITS, wall_s=3.0)
    found = probation.run(package(double(1 << 62)), verdicts=tmp_path, limits=limits)
    assert found.verdict == "failed"
    assert "too long" in found.statistics["reason"]
    assert list(tmp_path.iterdir()) == []


def test_a_known_verdict_starts_no_child(tmp_path: Path, instead) -> None:
    started = instead()
    good, bad = package(), package(factor=3.0)
    first = [probation.run(p, verdicts=tmp_path / "new", limits=LIMITS) for p in (good, bad)]
    assert len(started) == 2
    again = [probation.run(p, verdicts=tmp_path / "new", limits=LIMITS) for p in (good, bad)]
    assert again == first
    assert len(started) == 2
    assert [found.verdict for found in again] == ["passed", "failed"]
    assert verdicts.known(good.digest, tmp_path / "new") == first[0]


def test_other_software_or_another_machine_asks_again(tmp_path: Path, instead, monkeypatch: pytest.MonkeyPatch) -> None:
    started = instead()
    probation.run(package(), verdicts=tmp_path, limits=LIMITS)
    monkeypatch.setattr(verdicts, "isa", lambda: "x86_64 made-up")
    assert verdicts.known(package().digest, tmp_path) is None
    probation.run(package(), verdicts=tmp_path, limits=LIMITS)
    assert len(started) == 2


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"software":"a","isa":"b","evidence":1}'])
def test_a_kept_verdict_that_is_damaged_is_no_verdict(tmp_path: Path, text: bytes) -> None:
    probation.run(package(), verdicts=tmp_path, limits=LIMITS)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(text)
    assert verdicts.known(package().digest, tmp_path) is None


def test_a_verdict_moved_to_another_name_is_no_verdict(tmp_path: Path) -> None:
    probation.run(package(factor=3.0), verdicts=tmp_path / "bad", limits=LIMITS)
    probation.run(package(), verdicts=tmp_path / "good", limits=LIMITS)
    (bad,), (good,) = (tmp_path / "bad").iterdir(), (tmp_path / "good").iterdir()
    bad.write_bytes(good.read_bytes())
    assert verdicts.known(package(factor=3.0).digest, tmp_path / "bad") is None


def try_mutants(folder: Path, seed: int, first: int, count: int) -> dict[str, collections.Counter[str]]:
    """Half of them in each of two processes, which must both be there at the end to say what they saw."""
    totals: dict[str, collections.Counter[str]] = {"seen": collections.Counter(), "refused": collections.Counter()}
    with contextlib.ExitStack() as stack:
        halves = []
        for part in range(2):
            (folder / str(part)).mkdir(parents=True)
            numbers = (str(seed), str(first + part * count // 2), str(count // 2))
            command = [sys.executable, MUTANTS, folder / str(part), *numbers]
            half = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            stack.callback(half.kill)
            halves.append(half)
        for half in halves:
            said, complaint = half.communicate()
            assert half.returncode == 0, complaint.decode()[-2000:]
            outcome = json.loads(said)
            for name, total in totals.items():
                total.update(outcome[name])
    return totals


@pytest.mark.promise("P-24")
@pytest.mark.threat("F6")
@pytest.mark.timeout(300)
def test_the_parent_survives_mutated_models(tmp_path: Path) -> None:
    """Every mutant ends in a verdict: most are refused, some still compute. The process that forks them all lives."""
    outcome = try_mutants(tmp_path / "mutants", seed=1, first=0, count=250)
    assert sum(outcome["seen"].values()) == 250
    assert outcome["seen"]["refused"] > 125
    assert outcome["seen"]["passed"] > 2
    # The mutants get as far as the runtime: some load and fail only when they run.
    assert outcome["refused"]["internal"] + outcome["refused"]["gate_refused"] > 5
    assert f"exit {77}" not in outcome["seen"], "the forks were not walled in"


@pytest.mark.soak
@pytest.mark.promise("P-24")
@pytest.mark.timeout(0)
def test_the_parent_survives_ten_thousand_mutants(tmp_path: Path) -> None:
    seen = 0
    for part in range(10):
        outcome = try_mutants(tmp_path / str(part), seed=2, first=1000 * part, count=1000)
        seen += sum(outcome["seen"].values())
    assert seen == 10_000
