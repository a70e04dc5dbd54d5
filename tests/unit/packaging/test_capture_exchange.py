"""Capture's question and answer as data: nothing is lost on the way, and nothing false is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, exchange
from windlass.types import manifest, signature

MAX = 1 << 20


def a_draft() -> draft.Draft:
    return draft.Draft(
        files={"model.onnx": b"\x08\x0a", "weights.bin": bytes(range(256))},
        signature=signature.Signature(
            (signature.TensorSpec("x", "FP32", ("batch", 3), minimum=0.5),),
            (signature.TensorSpec("label", "BYTES", ("batch",)),),
            {"batch": signature.Dimension(maximum=8)},
        ),
        trials=(
            draft.Trial(
                "one row",
                {"x": np.arange(3, dtype=np.float32).reshape(1, 3)},
                {"label": np.array([b"a"], dtype=object)},
            ),
            draft.Trial("none", {"x": np.zeros((0, 3), np.float32)}, {"label": np.empty(0, object)}),
        ),
        framework="scikit-learn 1.7",
        transforms=(draft.TransformDraft("tabular", {"columns": ["a", "b"]}, {"map.json": b"{}"}),),
        labels=("no", "yes"),
        max_batch=16,
        synthetic=True,
        trees=True,
        rtol=0.01,
        lineage=manifest.Lineage(framework="scikit-learn", source="m.pkl"),
        notes=("a note",),
    )


def same(a: draft.Draft, b: draft.Draft) -> bool:
    for name in draft.Draft.__struct_fields__:
        if name != "trials" and getattr(a, name) != getattr(b, name):
            return False
    for mine, theirs in zip(a.trials, b.trials, strict=True):
        for left, right in ((mine.inputs, theirs.inputs), (mine.outputs, theirs.outputs)):
            if set(left) != set(right) or any(not np.array_equal(left[n], right[n]) for n in left):
                return False
            if any(left[n].dtype != right[n].dtype or left[n].shape != right[n].shape for n in left):
                return False
    return True


def test_a_draft_survives(tmp_path: Path) -> None:
    exchange.write_answer(tmp_path / "a", a_draft())
    read = exchange.read_answer(tmp_path / "a", MAX)
    assert isinstance(read, draft.Draft)
    assert same(read, a_draft())


def test_a_failure_survives(tmp_path: Path) -> None:
    said = exchange.Failure("capture_failed", "no such operator", "try another")
    exchange.write_answer(tmp_path / "a", said)
    assert exchange.read_answer(tmp_path / "a", MAX) == said


def test_options_survive_with_text_as_text_and_bytes_as_bytes(tmp_path: Path) -> None:
    options = base.Options(
        example={
            "": np.ones((2, 3), np.float64),
            "word": np.array(["a", "ü"], dtype=object),
            "fixed": np.array(["ab", "c"]),
            "raw": np.array([b"a", b"\xff"], dtype=object),
        },
        labels=("a",),
        transforms=(draft.TransformDraft("classify", {"k": 3}, {"labels.txt": b"a\nb"}),),
        dynamic={"x": {1: "tokens", 2: "width"}},
        batched=False,
        input_names=("x",),
        output_names=("y", "z"),
        max_batch=4,
        seed=7,
    )
    exchange.write_options(tmp_path / "q", options)
    read = exchange.read_options(tmp_path / "q", MAX)
    assert read.example is not None
    assert options.example is not None
    for name, array in options.example.items():
        assert read.example[name].tolist() == array.tolist(), name
    for name in ("labels", "transforms", "dynamic", "batched", "input_names", "output_names", "max_batch", "seed"):
        assert getattr(read, name) == getattr(options, name), name


def test_an_example_that_mixes_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="mixes int, str"):
        exchange.write_options(tmp_path / "q", base.Options(example={"x": np.array(["a", 1], dtype=object)}))


def test_no_options_are_options(tmp_path: Path) -> None:
    exchange.write_options(tmp_path / "q", base.Options())
    assert exchange.read_options(tmp_path / "q", MAX) == base.Options()


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    exchange.write_answer(tmp_path / "a", a_draft())
    return tmp_path / "a"


def refused(answer: Path, max_bytes: int = MAX) -> str:
    with pytest.raises(errors.CorruptPackage) as caught:
        exchange.read_answer(answer, max_bytes)
    return caught.value.message


def edit(answer: Path, change) -> None:
    index = json.loads((answer / "index.json").read_text())
    change(index["draft"])
    (answer / "index.json").write_text(json.dumps(index))


@pytest.mark.threat("F1")
def test_links_are_not_followed(answer: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((answer / "0").read_bytes())
    (answer / "0").unlink()
    (answer / "0").symlink_to(secret)
    assert "lacks a file" in refused(answer)
    (answer / "0").unlink()
    (answer / "0").hardlink_to(secret)
    assert "no plain file" in refused(answer)
    (answer / "0").unlink()
    os.mkfifo(answer / "0")
    assert "no plain file" in refused(answer)
    (answer / "0").unlink()
    (answer / "0").mkdir()
    assert "no plain file" in refused(answer)


def test_the_folder_itself_is_no_link(answer: Path, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(answer)
    assert "left no answer" in refused(tmp_path / "b")
    assert "left no answer" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", ".", "", "a\x00b", "a\nb", "x" * 300])
def test_a_file_name_is_only_a_name(answer: Path, name: str) -> None:
    edit(answer, lambda d: d.update(files={name: {"number": 0, "size": 1}}))
    assert "no plain file name" in refused(answer)


@pytest.mark.parametrize("size", [0, 1, -1, 1 << 62])
def test_a_size_is_not_believed(answer: Path, size: int) -> None:
    edit(answer, lambda d: d["files"]["model.onnx"].update(size=size))
    assert "another size" in refused(answer)


def test_a_number_is_within_the_folder(answer: Path) -> None:
    edit(answer, lambda d: d["files"]["model.onnx"].update(number=-1))
    assert "too many files" in refused(answer)
    edit(answer, lambda d: d["files"]["model.onnx"].update(number=999))
    assert "lacks a file" in refused(answer)


def test_the_whole_answer_is_bounded(answer: Path) -> None:
    """A file that is named often is counted as often: the index cannot multiply it."""
    assert "larger than allowed" in refused(answer, max_bytes=(answer / "index.json").stat().st_size + 100)
    edit(answer, lambda d: d.update(files={f"f{n}": d["files"]["weights.bin"] for n in range(5000)}))
    assert "larger than allowed" in refused(answer)
    edit(answer, lambda d: d.update(files={f"f{n}": d["files"]["f0"] for n in range(5001)}))
    assert "too many files" in refused(answer, max_bytes=1 << 40)


@pytest.mark.parametrize("wrong", [{"trees": 1}, {"rtol": "a"}, {"surprise": 1}, {"trials": [{"name": 1}]}])
def test_an_index_of_another_shape_is_refused(answer: Path, wrong: dict[str, object]) -> None:
    edit(answer, lambda d: d.update(wrong))
    assert "not as expected" in refused(answer)


def test_tensors_that_lie_are_refused(answer: Path) -> None:
    entry = json.loads((answer / "index.json").read_text())["draft"]["trials"][0]["inputs"]
    path = answer / str(entry["number"])
    path.write_bytes(path.read_bytes().replace(b'"shape":[1,3]', b'"shape":[3,3]'))
    assert "needs 36" in refused(answer)
