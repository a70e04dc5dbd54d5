"""Columns of a table, by name, to the tensors of a model: numbers scaled, categories to numbers, gaps by a stated rule.

Loaded through the catalogue. Must never guess a missing value or an unknown category: the parameters say what they
become, or they are refused with the column and the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from windlass import errors
from windlass.transforms import parameters as params
from windlass.types import fields, tensor

# FP64 holds every whole number up to 2**53; above it, neighbours are lost before INT64 is reached.
_LARGEST = {"FP32": float(np.finfo(np.float32).max), "FP64": float(np.finfo(np.float64).max), "INT64": 2.0**53}
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column. A number becomes `(value - mean) / scale`.

    A category becomes its index among `categories`, or one column each of 0 and 1 (`onehot`), or with
    `encoding: text` itself, for models that encode it. `missing` and `unknown` are refused unless said otherwise:
    `nan` leaves NaN (all zeros for `onehot`, the empty text for `text`), `value` puts `fill` there.
    """

    name: Name
    kind: Literal["number", "category"] = "number"
    mean: float = 0.0
    scale: float = 1.0
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    encoding: Literal["index", "onehot", "text"] = "index"
    missing: Literal["refuse", "nan", "value"] = "refuse"
    unknown: Literal["refuse", "nan"] = "refuse"
    fill: float | str | None = None
    datatype: Literal["", "FP32", "FP64", "INT64"] = ""
    meaning: str = ""


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `input` names one matrix `[rows, features]`, or `separate` gives a tensor `[rows, 1]` per column."""

    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]
    input: str = ""
    separate: bool = False
    datatype: Literal["FP32", "FP64"] = "FP32"


class _Numbers:
    """All the number columns at once: their rules as arrays `[columns, 1]` beside their values `[columns, rows]`."""

    def __init__(self, columns: tuple[Column, ...], datatype: str) -> None:
        datatypes = [column.datatype or datatype for column in columns]
        self._columns = columns
        self._refuse = _rule([column.missing == "refuse" for column in columns])
        self._fill = _rule([np.nan if column.fill is None else column.fill for column in columns])
        self._low = _rule([-np.inf if column.minimum is None else column.minimum for column in columns])
        self._high = _rule([np.inf if column.maximum is None else column.maximum for column in columns])
        self._mean = _rule([column.mean for column in columns])
        self._scale = _rule([column.scale for column in columns])
        self._scaled = any(column.mean or column.scale != 1 for column in columns)
        self._whole = _rule([kind == "INT64" for kind in datatypes])
        self._largest = _rule([_LARGEST[kind] for kind in datatypes])

    def apply(self, columns: fields.Columns, rows: int) -> tensor.Tensors:
        """Float64 `[rows]` by column: gaps filled, in range, scaled."""
        if not self._columns:
            return {}
        given = [self._read(column, columns.get(column.name), rows) for column in self._columns]
        numbers = np.array(given, np.float64)
        missing = np.isnan(numbers)
        if missing.any():
            self._check(missing & self._refuse, numbers, "is missing")
            numbers = np.where(missing, self._fill, numbers)
        self._check(numbers < self._low, numbers, "is below the least allowed")
        self._check(numbers > self._high, numbers, "is above the most allowed")
        self._check(self._whole & ~(numbers == np.trunc(numbers)), numbers, "is not a whole number")
        ready = numbers
        if self._scaled:
            with np.errstate(over="ignore"):
                ready = (numbers - self._mean) / self._scale
        self._check(np.abs(ready) > self._largest, numbers, "is too large")
        return {column.name: values for column, values in zip(self._columns, ready, strict=True)}

    def _read(self, column: Column, values: tensor.Array | None, rows: int) -> tensor.Array:
        if values is None:
            if column.missing == "refuse":
                raise errors.InvalidInput(f"missing column '{column.name}'")
            return np.full(rows, np.nan)
        if values.dtype.kind not in "fiub":
            raise errors.InvalidInput(f"column '{column.name}' must hold numbers")
        return values.ravel()

    def _check(self, wrong: tensor.Array, numbers: tensor.Array, fault: str) -> None:
        if wrong.any():
            index, row = np.argwhere(wrong)[0]
            raise errors.InvalidInput(f"column '{self._columns[index].name}', row {row}: {numbers[index, row]} {fault}")


def _rule(values: list[Any]) -> tensor.Array:
    return np.array(values)[:, None]


class Tabular:
    """Takes a column per entry of `columns`, gives one matrix or a tensor per column."""

    name: ClassVar[str] = "tabular"
    stage: Literal["pre", "post"] = "pre"
    media: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    inline_bytes = 65_536

    def __init__(self, parameters: Parameters) -> None:
        self._input = parameters.input
        self._separate = parameters.separate
        self._columns = parameters.columns
        self._names = frozenset(column.name for column in parameters.columns)
        self._datatype = parameters.datatype
        self._numbers = _Numbers(tuple(c for c in parameters.columns if c.kind == "number"), parameters.datatype)
        self._indexes = {c.name: {text: i for i, text in enumerate(c.categories)} for c in parameters.columns}
        self.reads = tuple(
            fields.Field(
                column.name,
                column.kind,
                required=column.missing == "refuse",
                categories=column.categories if column.unknown == "refuse" else (),
                meaning=column.meaning,
            )
            for column in parameters.columns
        )

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Tabular:
        """The transform; `InvalidInput` on wrong parameters or any file."""
        params.require_files(files, (), transform=cls.name)
        known = params.decode(Parameters, parameters, transform=cls.name, parts=(Column,))
        if bool(known.input) == known.separate:
            raise errors.InvalidInput("transform 'tabular' needs either 'input' (one matrix) or 'separate'")
        if len({column.name for column in known.columns}) != len(known.columns):
            raise errors.InvalidInput("transform 'tabular' has a column twice")
        for column in known.columns:
            _check_column(column, separate=known.separate)
        return cls(known)

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """Columns with the table replaced by tensors; `InvalidInput` names the column and the row."""
        rows = -1
        for column in self._columns:
            values = columns.get(column.name)
            if values is not None and rows < 0:
                rows = len(values)
            elif values is not None and len(values) != rows:
                raise errors.InvalidInput(f"column '{column.name}' has {len(values)} rows, the others have {rows}")
        if rows < 0:
            raise errors.InvalidInput(f"no column is given: the model takes {', '.join(sorted(self._names))}")
        answer = {name: column for name, column in columns.items() if name not in self._names}
        blocks = self._numbers.apply(columns, rows)
        for column in self._columns:
            if column.kind == "category":
                blocks[column.name] = self._categories(column, columns.get(column.name), rows)
        if self._separate:
            for column in self._columns:
                block = blocks[column.name]
                if block.dtype != object:
                    block = block.astype(tensor.dtype(column.datatype or self._datatype))
                answer[column.name] = block.reshape(rows, -1)
        else:
            answer[self._input] = _join([blocks[column.name] for column in self._columns], self._datatype)
        return answer

    def _categories(self, column: Column, values: tensor.Array | None, rows: int) -> tensor.Array:
        """Float64 `[rows]` or `[rows, categories]`, or for `text` an object array of bytes `[rows]`."""
        if values is None and column.missing == "refuse":
            raise errors.InvalidInput(f"missing column '{column.name}'")
        cells = [None] * rows if values is None else values.ravel().tolist()
        texts = [self._category(column, row, cell) for row, cell in enumerate(cells)]
        if column.encoding == "text":
            encoded = np.empty(len(texts), object)
            encoded[:] = [b"" if text is None else text.encode() for text in texts]
            return encoded
        index = self._indexes[column.name]
        if column.encoding == "index":
            return np.array([np.nan if text is None else index[text] for text in texts], np.float64)
        hot = np.zeros((len(texts), len(index)))
        for row, text in enumerate(texts):
            if text is not None:
                hot[row, index[text]] = 1
        return hot

    def _category(self, column: Column, row: int, value: object) -> str | None:
        """The category of one row, or None where the rule says that it counts as missing."""
        if value is None or value != value:
            if column.missing == "refuse":
                raise errors.InvalidInput(f"column '{column.name}', row {row}: the value is missing")
            return str(column.fill) if column.missing == "value" else None
        if not isinstance(value, str):
            raise errors.InvalidInput(f"column '{column.name}', row {row}: a text is expected")
        if not column.categories or value in self._indexes[column.name]:
            return value
        if column.unknown == "nan":
            return None
        known = ", ".join(f"'{text}'" for text in column.categories[:8])
        raise errors.InvalidInput(f"column '{column.name}', row {row}: '{value[:64]}' is not one of {known}")


def _join(blocks: list[tensor.Array], datatype: str) -> tensor.Array:
    """One matrix `[rows, features]` of all blocks, side by side."""
    dtype = tensor.dtype(datatype)
    if all(block.ndim == 1 for block in blocks):
        return np.array(blocks, dtype).T.copy()
    return np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1).astype(dtype)


def _check_column(column: Column, *, separate: bool) -> None:
    """Refuse parameters that contradict one another."""
    what = f"transform 'tabular', column '{column.name}'"
    if column.scale == 0:
        raise errors.InvalidInput(f"{what} has a scale of 0")
    if (column.missing == "value") != (column.fill is not None):
        raise errors.InvalidInput(f"{what} needs 'fill' exactly when 'missing' is 'value'")
    if column.datatype and not separate:
        raise errors.InvalidInput(f"{what} has a datatype of its own, which needs 'separate'")
    if len(set(column.categories)) != len(column.categories):
        raise errors.InvalidInput(f"{what} has a category twice")
    if column.kind == "number":
        if column.categories or column.encoding != "index" or isinstance(column.fill, str):
            raise errors.InvalidInput(f"{what} is a number and has the parameters of a category")
        return
    if column.encoding == "text" and not separate:
        raise errors.InvalidInput(f"{what} is a text, which needs 'separate'")
    if column.encoding != "text" and not column.categories:
        raise errors.InvalidInput(f"{what} needs 'categories'")
    if column.fill is not None and str(column.fill) not in column.categories and column.categories:
        raise errors.InvalidInput(f"{what} fills with '{column.fill}', which is not one of its categories")
