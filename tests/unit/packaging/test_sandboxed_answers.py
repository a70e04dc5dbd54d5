"""What the parent makes of a confined child's ending, without a child."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, exchange, sandboxed
from windlass.security import sandbox
from windlass.types import signature

SPEC = signature.TensorSpec("x", "FP32", ("batch", 2))
DRAFT = draft.Draft(
    files={"model.onnx": b"a model"},
    signature=signature.Signature((SPEC,), (SPEC,)),
    trials=(draft.Trial("one", {"x": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 2), np.float32)}),),
    framework="probe",
    notes=("a note",),
)
ENDED = sandbox.Result(0, b"", b"", (), "")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., draft.Draft]:
    """Capture with a child that leaves this answer and ends like this."""
    source = tmp_path / "model.pkl"
    source.write_bytes(b"bytes")

    def capture(answer: draft.Draft | exchange.Failure | None, **ending: Any) -> draft.Draft:
        def run(command: Any, *, scratch: Path, readable: list[Path], **_: Any) -> sandbox.Result:
            assert command[1:3] == ("sklearn", str(source))
            assert readable == [source]
            assert exchange.read_options(scratch / "question", 1 << 20) == base.Options()
            if answer is not None:
                exchange.write_answer(scratch / "answer", answer)
            return msgspec.structs.replace(ENDED, **ending)

        monkeypatch.setattr(sandbox, "run", run)
        return sandboxed.capture(source, "sklearn", base.Options())

    return capture


def test_an_answer_is_the_draft(child) -> None:
    assert child(DRAFT).notes == DRAFT.notes
    assert child(DRAFT).files == DRAFT.files


def test_a_missing_wall_is_noted(child) -> None:
    notes = child(DRAFT, missing=("seccomp",)).notes
    assert notes[0] == "a note"
    assert "seccomp" in notes[1]


@pytest.mark.promise("P-25")
@pytest.mark.parametrize("runtime", ["echo", "python", "torch_export"])
def test_a_hostile_file_cannot_hand_over_a_model_that_carries_code(child, runtime: str) -> None:
    with pytest.raises(errors.CorruptPackage, match="other than 'onnx'"):
        child(msgspec.structs.replace(DRAFT, runtime=runtime))


@pytest.mark.parametrize("kind", [errors.CaptureFailed, errors.InvalidInput, errors.UsageError, errors.Unsupported])
def test_the_childs_error_is_raised_here(child, kind: type[errors.WindlassError]) -> None:
    with pytest.raises(kind) as caught:
        child(exchange.Failure(kind.code, "what", "do this"))
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what", "do this")


def test_an_error_of_an_unknown_kind_is_a_failed_capture(child) -> None:
    with pytest.raises(errors.CaptureFailed, match="what"):
        child(exchange.Failure("made_up", "what"))


@pytest.mark.threat("F1")
def test_a_hostile_message_cannot_drive_a_terminal(child) -> None:
    with pytest.raises(errors.CaptureFailed) as caught:
        child(
            exchange.Failure("capture_failed", "\x1b]0;owned\x07 red\x1b[31m\r\x9b2J" + "x" * 10_000, "\x1b[2J\u202e")
        )
    text = caught.value.message + caught.value.hint
    assert all(letter.isprintable() for letter in text)
    assert len(caught.value.message) <= sandbox.MAX_TEXT


@pytest.mark.parametrize(
    ("killed_by", "said"),
    [
        ("time", "longer than 900 s"),
        ("cpu", "processor time"),
        ("memory", "8192 MiB of memory"),
        ("disk", "wrote more than 4096 MiB"),
        ("threads", "256 threads"),
        ("SIGSEGV", "crashed (SIGSEGV)"),
        ("", "without an answer"),
    ],
)
def test_each_ending_has_its_sentence(child, killed_by: str, said: str) -> None:
    with pytest.raises(errors.CaptureFailed) as caught:
        child(None, returncode=1, killed_by=killed_by, stderr=b"Traceback\nValueError: its last words\n")
    assert said in caught.value.message
    assert "its last words" in caught.value.hint


def test_a_child_that_says_all_went_well_but_leaves_nothing_is_not_believed(child) -> None:
    with pytest.raises(errors.CorruptPackage, match="no answer"):
        child(None)
