"""Parquet files: what is read of each kind of column, what is refused, and what is said where pyarrow is missing."""

from __future__ import annotations

import io
import random
import sys
from typing import Any

import pytest

from windlass import errors, plugins
from windlass.packaging import dataset


def written(columns: dict[str, Any]) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_a_table_is_read() -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    data = written(
        {
            "x": [1.5, None],
            "n": [1, 2],
            "yes": [True, False],
            "kind": pa.array(["a", None]).dictionary_encode(),
            "picture": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
            "fixed": pa.FixedSizeListArray.from_arrays(pa.array([0.5, 1.5, 2.5, 3.5]), 2),
        }
    )
    found = dataset.read(data, ".parquet")
    assert found.rows == 2
    assert {name: (values.dtype.kind, values.shape) for name, values in found.columns.items()} == {
        "x": ("O", (2,)),
        "n": ("i", (2,)),
        "yes": ("b", (2,)),
        "kind": ("O", (2,)),
        "picture": ("i", (2, 2, 2)),
        "fixed": ("f", (2, 2)),
    }
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        "x": [1.5, None],
        "n": [1, 2],
        "yes": [True, False],
        "kind": ["a", None],
        "picture": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
        "fixed": [[0.5, 1.5], [2.5, 3.5]],
    }


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="'v' holds lists that are no tensors of one shape"):
        dataset.read(written({"v": [[1], [2, 3]]}), ".parquet")
    with pytest.raises(errors.UsageError, match="empty"):
        dataset.read(written({"v": []}), ".parquet")
    for data in (b"", b"PAR1 nonsense PAR1"):
        with pytest.raises(errors.UsageError, match="no Parquet file"):
            dataset.read(data, ".parquet")


def test_damaged_files_are_read_or_refused() -> None:
    data, drawn = written({"x": [1.5, None, 2.5], "v": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}), random.Random(1)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[drawn.randrange(len(data))] = drawn.randrange(256)
        try:
            dataset.read(bytes(damaged), ".parquet")
        except errors.UsageError:
            refused += 1
    assert refused > 50


def test_more_than_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written({"x": [0] * 100_000})
    monkeypatch.setattr("windlass.packaging.parquet.MAX_BYTES", 1000)
    with pytest.raises(errors.UsageError, match="unpacks to more"):
        dataset.read(data, ".parquet")


def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.load.cache_clear()
    monkeypatch.delitem(sys.modules, "windlass.packaging.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.Unsupported, match="pyarrow") as raised:
        dataset.read(b"PAR1", ".parquet")
    assert "windlass[parquet]" in raised.value.hint
