"""Columns of a Parquet file, by pyarrow.

Loaded through the catalogue by `dataset.py`, for it needs a library that few have. Must never hold more than a data set
may, however well the file is packed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from windlass import errors
from windlass.types import fields, tensor

MAX_BYTES = 1 << 32


def read(data: bytes) -> fields.Columns:
    """Its columns: numbers as they are, lists of one length as tensors, all else as objects (None: missing).

    `UsageError` if it is no Parquet file, or unpacks to more than `MAX_BYTES`.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
        size = max(8 * file.metadata.num_rows * file.metadata.num_columns, sum(one.total_byte_size for one in groups))
        table = file.read(use_threads=False) if size <= MAX_BYTES else None
        columns = {} if table is None else {name: table.column(name).combine_chunks() for name in table.column_names}
    except Exception as e:  # noqa: BLE001 - pyarrow raises errors of its own, and bare ones of many kinds
        told = str(e).partition("\n")[0]
        raise errors.UsageError(f"the data set is no Parquet file, or one with a column twice: {told}") from None
    if table is None:
        raise errors.UsageError("the Parquet file unpacks to more than 4 GiB.", hint="A sample is enough.")
    return {name: _column(name, column) for name, column in columns.items()}


def _column(name: str, column: pa.Array) -> tensor.Array:
    kind, rows = column.type, len(column)
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = column.flatten()
        lengths = set(pc.list_value_length(column).to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise errors.UsageError(f"the column '{name}' holds lists that are no tensors of one shape.")
        values = _column(name, inner)
        return values.reshape(rows, lengths.pop(), *values.shape[1:])
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if plain and not column.null_count:
        found: tensor.Array = column.to_numpy(zero_copy_only=False)
        return found
    found = np.empty(rows, object)
    found[:] = column.to_pylist()
    return found
