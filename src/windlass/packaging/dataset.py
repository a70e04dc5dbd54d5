"""A data set with labels, as people keep them: CSV, NPZ, JSON rows or columns, NDJSON, Parquet.

Read by `windlass check` and the jobs that judge a version. Must never unpickle, and never guess a value that is not
there: an empty cell is missing.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from windlass import errors, plugins
from windlass.types import fields, refs, strict_json, tensor

MAX_BYTES = 1 << 30
SUFFIXES = (".csv", ".npz", ".json", ".ndjson", ".jsonl", ".parquet")


class Dataset(NamedTuple):
    """Columns of equal length (axis 0 is the row), and the SHA-256 of the bytes they were read from."""

    columns: fields.Columns
    digest: str

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))


def read(data: bytes, suffix: str) -> Dataset:
    """The data set in a file's bytes, told by its suffix; `UsageError` says what is wrong with it.

    Cells of CSV stay text, None where they are empty; `column` and `matrix` turn them into what is expected.
    """
    if len(data) > MAX_BYTES:
        raise errors.UsageError(f"the data set is larger than {MAX_BYTES >> 20} MiB.", hint="A sample is enough.")
    if suffix == ".csv":
        columns = _csv(data)
    elif suffix == ".npz":
        columns = _npz(data)
    elif suffix == ".parquet":
        columns = plugins.load("tables", "parquet")(data)
    elif suffix in (".ndjson", ".jsonl", ".parquet"):
        columns = _rows([strict_json.loads(line, what="a line") for line in data.splitlines() if line.strip()])
    elif suffix == ".json":
        columns = _json(data)
    else:
        raise errors.UsageError(
            f"a data set cannot be read from '{suffix}'.", hint=f"Give one of: {', '.join(SUFFIXES)}."
        )
    lengths = {len(values) for values in columns.values()}
    if not columns or lengths == {0}:
        raise errors.UsageError("the data set is empty.", hint="Give real rows, with their labels.")
    if len(lengths) != 1:
        told = ", ".join(f"'{name}' {len(values)}" for name, values in list(columns.items())[:8])
        raise errors.UsageError(f"the columns are not equally long: {told}.", hint="Each row has every column.")
    return Dataset(columns, f"sha256:{hashlib.sha256(data).hexdigest()}")


def with_labels(data: Dataset, labels: bytes, suffix: str, column: str = "") -> tuple[Dataset, str]:
    """A data set with the labels of another file (one a line, or a column of a table), and their column's name."""
    if suffix in SUFFIXES:
        found = read(labels, suffix).columns
        if not column and len(found) > 1:
            raise errors.UsageError("the file of labels has several columns.", hint="Name one: --labels FILE::COLUMN")
        values = taken(found, column or next(iter(found)))
    else:
        values = _objects([line.strip() or None for line in labels.decode("utf-8-sig").splitlines()])
    if len(values) != data.rows:
        raise errors.UsageError(f"there are {len(values)} labels for {data.rows} rows.")
    name = column or "labels"
    while name in data.columns:
        name = f"{name}_"
    digest = hashlib.sha256(data.digest.encode() + labels).hexdigest()
    return Dataset({**data.columns, name: values}, f"sha256:{digest}"), name


def taken(columns: fields.Columns, name: str) -> tensor.Array:
    """A column by its name; `UsageError` names the nearest."""
    if name not in columns:
        known = ", ".join(f"'{one}'" for one in list(columns)[:8])
        raise errors.UsageError(
            f"the data set has no column '{name}': it has {known}.", hint=refs.nearest(name, columns)
        )
    return columns[name]


def numbers(values: tensor.Array, name: str) -> tensor.Array:
    """A column as float64, NaN where it is missing; `UsageError` names the row of what is no number."""
    if values.dtype != object:
        if values.dtype.kind not in "fiub":
            raise errors.UsageError(f"the column '{name}' holds {values.dtype}, and numbers are needed.")
        return values.astype(np.float64)
    found = np.empty(len(values))
    for row, value in enumerate(values.tolist()):
        try:
            found[row] = np.nan if value is None else msgspec.convert(value, float, strict=False)
        except msgspec.ValidationError:
            raise errors.UsageError(f"'{str(value)[:40]}' in column '{name}', row {row}, is no number.") from None
    return found


def texts(values: tensor.Array) -> tensor.Array:
    """A column as text, None where it is missing; whole numbers without a fraction."""
    found = np.empty(len(values), object)
    found[:] = [_text(value) for value in values.tolist()]
    return found


def matrix(columns: fields.Columns, names: Sequence[str], datatype: str) -> tensor.Array:
    """Columns side by side as `[rows, columns]` of a datatype."""
    stacked = np.stack([numbers(columns[name], name) for name in names], axis=1)
    return stacked.astype(tensor.dtype(datatype))


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _csv(data: bytes) -> fields.Columns:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as e:
        raise errors.UsageError(f"the data set is no CSV table in UTF-8: {e}.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if len(set(header)) != len(header):
        raise errors.UsageError("the CSV table has a column twice.")
    body = [row for row in rows[1:] if row]
    for at, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise errors.UsageError(f"row {at} of the CSV table has {len(row)} cells: its header has {len(header)}.")
    return {name: _objects([row[at] or None for row in body]) for at, name in enumerate(header)}


def _npz(data: bytes) -> fields.Columns:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except Exception as e:  # noqa: BLE001 - zipfile and numpy have many ways of saying so
        raise errors.UsageError(
            f"the data set is no NPZ file without objects: {e}.", hint="Write it with numpy.savez, without objects."
        ) from None
    flat = [name for name, values in found.items() if not values.ndim]
    if flat:
        raise errors.UsageError(f"'{flat[0]}' in the NPZ file is a single value, not a column.")
    return found


def _json(data: bytes) -> fields.Columns:
    found = strict_json.loads(data, what="the data set", max_bytes=MAX_BYTES)
    if isinstance(found, list):
        return _rows(found)
    if isinstance(found, dict) and all(isinstance(values, list) for values in found.values()):
        return {name: _array(values) for name, values in found.items()}
    raise errors.UsageError("the data set is neither a list of rows nor an object of columns.")


def _rows(rows: list[Any]) -> fields.Columns:
    if not all(isinstance(row, dict) for row in rows):
        raise errors.UsageError("each row of the data set is an object of its columns.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _array([row.get(name) for row in rows]) for name in names}


def _array(values: list[Any]) -> tensor.Array:
    """Lists of lists become tensors; the rest stays as it is."""
    if values and all(isinstance(value, list) for value in values):
        try:
            return np.array(values, np.float64)
        except (ValueError, TypeError):
            raise errors.UsageError("the data set holds lists that are no tensors of one shape.") from None
    return _objects(values)


def _objects(values: list[Any]) -> tensor.Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found
