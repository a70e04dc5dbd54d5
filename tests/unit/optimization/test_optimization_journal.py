"""The journal of a study: what is kept, what is torn, and who holds it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import form, journal

FILE = "journal.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


def filled(folder: Path, count: int) -> None:
    kept = journal.Journal(folder)
    for number in range(count):
        kept.put(["time", number], {"ms": number}, number / 2)
    kept.close()


def known(folder: Path, count: int) -> list[int]:
    kept = journal.Journal(folder)
    found = [number for number in range(count) if kept.get(["time", number]) == ({"ms": number}, number / 2)]
    kept.close()
    return found


def test_what_was_put_is_there_again(folder: Path) -> None:
    filled(folder, 3)
    assert known(folder, 4) == [0, 1, 2]
    kept = journal.Journal(folder)
    assert len(kept) == 3
    kept.put(["time", 0], "anew", 1.0)
    assert kept.get(["time", 0]) == ("anew", 1.0)
    kept.close()


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_loses_only_what_is_torn(data: st.DataObject, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    filled(folder, 4)
    whole = (folder / FILE).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / FILE).write_bytes(whole[:cut])
    survive = list(range(whole[:cut].count(b"\n")))
    assert known(folder, 4) == survive
    kept = journal.Journal(folder)
    kept.put(["time", 9], {"ms": 9}, 4.5)
    kept.close()
    assert known(folder, 10) == [*survive, 9]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"\xff", b'{"key":["a"],"value":NaN,"seconds":0}', b'{"key":1}', b""])
def test_a_line_that_is_none_is_passed_over(folder: Path, line: bytes) -> None:
    filled(folder, 1)
    with (folder / FILE).open("ab") as file:
        file.write(line + b"\n")
    kept = journal.Journal(folder)
    kept.put(["time", 1], {"ms": 1}, 0.5)
    kept.close()
    assert known(folder, 2) == [0, 1]


def test_infinity_becomes_the_largest_number_and_nan_is_refused(folder: Path) -> None:
    kept = journal.Journal(folder)
    kept.put(["a"], {"high": [float("inf"), float("-inf")]}, 0.0)
    with pytest.raises(errors.InvalidInput):
        kept.put(["b"], float("nan"), 0.0)
    kept.close()
    kept = journal.Journal(folder)
    found = kept.get(["a"])
    assert found is not None
    assert found.value["high"][0] > 1e308
    assert kept.get(["b"]) is None
    kept.close()


def test_one_process_at_a_time(folder: Path) -> None:
    kept = journal.Journal(folder)
    with pytest.raises(errors.Conflict):
        journal.Journal(folder)
    kept.close()
    journal.Journal(folder).close()


def test_a_form_is_kept_without_its_network(folder: Path) -> None:
    made = form.Form(
        {"model.onnx": b"x" * 100, "w.bin": b""},
        precision="int8",
        steps=(form.Step("quantize_static", {"bits": 8}),),
        network=object(),
        left=(form.Left("n", "Conv", "no"),),
        notes=("a",),
    )
    kept = journal.Journal(folder)
    kept.keep(made)
    again = kept.form(made.digest)
    assert again is not None
    assert (again.files, again.steps, again.left, again.notes) == (made.files, made.steps, made.left, made.notes)
    assert again.digest == made.digest
    assert again.network is None
    assert kept.form("sha256:other") is None
    kept.close()


def test_a_form_whose_bytes_changed_is_not_there(folder: Path) -> None:
    made = form.Form({"model.onnx": b"abc"})
    kept = journal.Journal(folder)
    kept.keep(made)
    (blob,) = [path for path in (folder / "forms").rglob("*") if path.is_file() and path.read_bytes() == b"abc"]
    blob.chmod(0o600)
    blob.write_bytes(b"abd")
    assert kept.form(made.digest) is None
    kept.close()


def test_a_form_that_says_another_digest_is_not_there(folder: Path) -> None:
    kept = journal.Journal(folder)
    made = form.Form({"model.onnx": b"abc"})
    kept.keep(made)
    line = json.loads((folder / FILE).read_bytes().splitlines()[0])
    kept.put(["forms", "sha256:lie"], line["value"], 0.0)
    assert kept.form("sha256:lie") is None
    kept.close()


def test_it_is_forgotten(folder: Path) -> None:
    filled(folder, 1)
    journal.forget(folder)
    assert not folder.exists()
    journal.forget(folder)
