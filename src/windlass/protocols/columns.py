"""A person's fields as columns, from JSON rows, JSON columns or a CSV table, and answer columns as JSON.

Called by the protocols that speak with people rather than in tensors. A missing value (null, an empty cell, an absent
optional field) is NaN among numbers and None elsewhere; whether that will do is for the transforms to say.
Must never fetch what a value names: an image is its bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.protocols import json_rows, json_tensors
from windlass.types import fields, tensor

_JSON: dict[str, msgspec.json.Decoder[Any]] = {
    "number": msgspec.json.Decoder(float | None | list[float | None]),
    "text": msgspec.json.Decoder(str | None | list[str | None]),
    "category": msgspec.json.Decoder(str | int | bool | None | list[str | int | bool | None]),
    "image": msgspec.json.Decoder(json_rows.Binary | None | list[json_rows.Binary | None]),
}
_EXPECTED = {
    "number": "a number",
    "text": "a text",
    "category": "a text",
    "image": 'an image as {"b64": "<base64>"}',
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NULL = msgspec.Raw(b"null")
_LONGEST_LINE = 1024


def from_columns(document: Mapping[str, msgspec.Raw], known: Sequence[fields.Field]) -> fields.Columns:
    """Columns from `{field: value}` (one row) or `{field: [values]}`."""
    _refuse_unknown(document, known)
    result: fields.Columns = {}
    rows = -1
    for field in known:
        raw = document.get(field.name)
        if raw is None:
            continue
        values = _read(bytes(raw), field)
        values = values if isinstance(values, list) else [values]
        if rows < 0:
            rows = len(values)
        elif len(values) != rows:
            raise errors.InvalidInput(f"field '{field.name}' has {len(values)} values: the fields before have {rows}")
        result[field.name] = _column(values, field)
    return _some(result, known)


def from_rows(rows: Sequence[Mapping[str, msgspec.Raw]], known: Sequence[fields.Field]) -> fields.Columns:
    """Columns from `[{field: value}, ...]`; a field that no row has is left out."""
    for row in rows:
        _refuse_unknown(row, known)
    result: fields.Columns = {}
    for field in known:
        if any(field.name in row for row in rows):
            values = _read(json_rows.join([row.get(field.name, _NULL) for row in rows]), field)
            result[field.name] = _column(values, field)
    return _some(result, known)


def from_value(value: str | bytes, field: fields.Field) -> fields.Columns:
    """One row whose one field is the whole body."""
    return {field.name: _objects([value])}


def read_table(body: bytes, max_rows: int) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV table; `InvalidInput` names the line."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise errors.InvalidInput("the CSV table is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise errors.InvalidInput(
                    f"line {reader.line_num} of the CSV table has {len(row)} cells: its header has {len(header)}"
                )
            if len(rows) == max_rows:
                raise errors.InvalidInput(f"the CSV table has more than the {max_rows} rows that the model takes")
            rows.append(row)
    except csv.Error as e:
        raise errors.InvalidInput(f"line {reader.line_num} of the CSV table cannot be read: {e}") from None
    if not header or not rows:
        raise errors.InvalidInput("the CSV table is empty: its first line names the columns, the others are rows")
    if len(set(header)) != len(header):
        raise errors.InvalidInput("the CSV table has a column twice")
    return header, rows


def from_table(header: list[str], rows: list[list[str]], known: Sequence[fields.Field]) -> fields.Columns:
    """Columns from a CSV table."""
    _refuse_unknown(dict.fromkeys(header), known)
    result: fields.Columns = {}
    for field in known:
        if field.kind == "image":
            raise errors.InvalidInput(f"field '{field.name}' is an image, which a CSV table cannot hold")
        if field.name not in header:
            continue
        index = header.index(field.name)
        cells = [row[index] or None for row in rows]
        values = [_number(cell, field.name, at) for at, cell in enumerate(cells)] if field.kind == "number" else cells
        result[field.name] = _column(values, field)
    return _some(result, known)


def numbers(rows: list[list[str]]) -> tensor.Array:
    """A CSV table's cells as float64 [rows, columns]."""
    return np.array([[_number(cell or None, "", at) for cell in row] for at, row in enumerate(rows)], np.float64)


def to_rows(answer: fields.Columns, rows: int, *, batched: bool) -> list[dict[str, Any]]:
    """Answer columns as one plain object for each row; of a model that does not batch, as one object."""
    if not batched:
        return [{name: to_json(column.tolist()) for name, column in answer.items()}]
    listed = {name: [to_json(item) for item in column.tolist()] for name, column in answer.items()}
    return [{name: items[row] for name, items in listed.items()} for row in range(rows)]


def to_json(item: Any) -> Any:
    """Bytes as text where they are UTF-8 and as `{"b64": ...}` where they are not, inside lists too."""
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(item).decode()}
    if isinstance(item, list):
        return [to_json(part) for part in item]
    return item


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a CSV table; what is no single value is written as JSON."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            [msgspec.json.encode(item).decode() if isinstance(item, dict | list) else item for item in row.values()]
        )
    return text.getvalue().encode()


def _read(data: bytes, field: fields.Field) -> Any:
    try:
        return _JSON[field.kind].decode(data)
    except json_tensors.MALFORMED:
        raise errors.InvalidInput(f"field '{field.name}' takes {_EXPECTED[field.kind]}, or a list of them") from None


def _column(values: list[Any], field: fields.Field) -> tensor.Array:
    if field.kind == "number":
        return np.array([math.nan if value is None else value for value in values], np.float64)
    if field.kind == "image":
        return _objects([None if value is None else json_rows.to_bytes(value, field.name) for value in values])
    if field.kind == "category":
        values = [value if value is None or isinstance(value, str) else _category(value) for value in values]
    return _objects(values)


def _category(value: int | bool) -> str:
    """A category that came as a number or a truth value, spelt as JSON spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _objects(values: Sequence[Any]) -> tensor.Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _number(cell: str | None, name: str, row: int) -> float:
    if cell is None:
        return math.nan
    text = cell.strip()
    if len(text) <= _LONGEST_LINE and _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
    where = f"column '{name}', row {row}" if name else f"row {row}"
    raise errors.InvalidInput(f"{where}: '{text[:32]}' is not a number")


def _refuse_unknown(names: Mapping[str, Any], known: Sequence[fields.Field]) -> None:
    expected = {field.name for field in known}
    for name in names:
        if name not in expected:
            listed = ", ".join(f"'{field.name}'" for field in known[:32])
            raise errors.InvalidInput(f"unexpected field '{name[:64]}': the model takes {listed}")


def _some(result: fields.Columns, known: Sequence[fields.Field]) -> fields.Columns:
    missing = [field.name for field in known if field.required and field.name not in result]
    if missing:
        raise errors.InvalidInput(f"missing field '{missing[0]}'")
    if not result or any(len(column) == 0 for column in result.values()):
        raise errors.InvalidInput("the request has no rows")
    return result
