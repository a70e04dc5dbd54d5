"""Data sets: what is read of each kind of file, and that what is no data set is refused with a sentence."""

from __future__ import annotations

import contextlib
import csv
import io
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.packaging import dataset


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def test_the_same_table_is_read_from_each_kind() -> None:
    rows = [{"x": 1.5, "kind": "a"}, {"x": None, "kind": "b"}]
    files = {
        ".csv": b"x,kind\n1.5,a\n,b\n",
        ".json": json.dumps(rows).encode(),
        ".ndjson": b"\n".join(json.dumps(row).encode() for row in rows) + b"\n\n",
        ".npz": npz(x=np.array([1.5, np.nan]), kind=np.array(["a", "b"])),
    }
    files[".jsonl"] = files[".ndjson"]
    columns = json.dumps({"x": [1.5, None], "kind": ["a", "b"]}).encode()
    for suffix, data in [*files.items(), (".json", columns)]:
        found = dataset.read(data, suffix)
        assert found.rows == 2
        assert dataset.numbers(found.columns["x"], "x").tolist()[0] == 1.5
        assert np.isnan(dataset.numbers(found.columns["x"], "x")[1])
        assert dataset.texts(found.columns["kind"]).tolist() == ["a", "b"]
    assert dataset.read(files[".csv"], ".csv").digest != dataset.read(files[".json"], ".json").digest


def test_whole_numbers_are_labels_without_a_fraction() -> None:
    assert dataset.texts(np.array([0.0, 1.0, 2.5])).tolist() == ["0", "1", "2.5"]
    assert dataset.texts(np.array([True, False])).tolist() == ["True", "False"]


def test_labels_may_lie_in_a_file_of_their_own() -> None:
    data = dataset.read(b"x\n1\n2\n", ".csv")
    joined, name = dataset.with_labels(data, b"yes\nno\n", ".txt")
    assert joined.columns[name].tolist() == ["yes", "no"]
    assert joined.digest != data.digest
    joined, name = dataset.with_labels(data, b"x,y\n3,yes\n4,no\n", ".csv", "x")
    assert (name, joined.columns[name].tolist(), joined.columns["x"].tolist()) == ("x_", ["3", "4"], ["1", "2"])
    with pytest.raises(errors.UsageError, match="1 labels for 2 rows"):
        dataset.with_labels(data, b"yes", "")
    with pytest.raises(errors.UsageError, match="several columns"):
        dataset.with_labels(data, b"x,y\n3,yes\n4,no\n", ".csv")


@pytest.mark.parametrize(
    ("data", "suffix", "said"),
    [
        (b"", ".csv", "empty"),
        (b"x,y\n", ".csv", "empty"),
        (b"x,x\n1,2\n", ".csv", "twice"),
        (b"x,y\n1\n", ".csv", "row 2"),
        (b"\xff\xfe", ".csv", "UTF-8"),
        (b"[1, 2]", ".json", "object of its columns"),
        (b"3", ".json", "neither"),
        (b'{"x": [1], "y": [1, 2]}', ".json", "not equally long"),
        (b'{"x": [[1, 2], [3]]}', ".json", "no tensors of one shape"),
        (b"nonsense", ".npz", "no NPZ"),
        (npz(x=np.array([None, 1], object)), ".npz", "without objects"),
        (npz(x=np.float64(3)), ".npz", "single value"),
        (b"x", ".arrow", "cannot be read from '.arrow'"),
    ],
)
def test_what_is_no_data_set_is_refused(data: bytes, suffix: str, said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        dataset.read(data, suffix)


def test_what_is_no_number_is_named_with_its_row() -> None:
    with pytest.raises(errors.UsageError, match="'b' in column 'x', row 1"):
        dataset.numbers(np.array(["1", "b"], object), "x")
    with pytest.raises(errors.UsageError, match="no column 'lable'") as raised:
        dataset.taken({"label": np.zeros(1)}, "lable")
    assert "'label'" in raised.value.hint


@hypothesis.given(
    st.lists(st.lists(st.text(max_size=6).filter(lambda t: "\x00" not in t), min_size=2, max_size=2), min_size=1)
)
def test_a_table_written_down_is_read_again(rows: list[list[str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["a", "b"], *rows])
    found = dataset.read(file.getvalue().encode(errors="surrogatepass"), ".csv").columns
    assert [[cell or "" for cell in row] for row in zip(found["a"], found["b"], strict=True)] == rows


@hypothesis.given(st.binary(max_size=300), st.sampled_from(dataset.SUFFIXES))
def test_any_bytes_are_read_or_refused(data: bytes, suffix: str) -> None:
    # Parquet may want a library that is not here.
    with contextlib.suppress(errors.InvalidInput, errors.Unsupported):
        assert dataset.read(data, suffix).rows > 0
