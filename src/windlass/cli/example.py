"""Reads what people have beside a model: example inputs, labels, transforms.

Used by `windlass package` and `windlass predict`. Must never unpickle: `.npz` and `.npy` are read without objects.
"""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from windlass import errors, sdk
from windlass.packaging import draft
from windlass.types import strict_json, tensor

_MAX_BYTES = 1 << 30


def tensors(path: Path) -> tensor.Tensors:
    """Arrays by input name from `.npz`, `.npy` (one input), `.json` or `.csv` (a column each)."""
    if not path.is_file():
        raise errors.NotFound(f"There is no file {path}.", hint="Check the path given with --example.")
    if path.stat().st_size > _MAX_BYTES:
        raise errors.UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MiB.", hint="A few hundred rows are enough.")
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as e:
        raise errors.UsageError(
            f"{path} cannot be read as numpy arrays: {e}.", hint="Write it with numpy.save or savez, without objects."
        ) from None
    if path.suffix == ".json":
        return sdk.tensors(strict_json.loads(path.read_bytes(), what=str(path), max_bytes=_MAX_BYTES))
    if path.suffix == ".csv":
        return _columns(path)
    raise errors.UsageError(f"{path} is no example that can be read.", hint="Give .npz, .npy, .json or .csv.")


def labels(text: str) -> tuple[str, ...]:
    """Labels from a file, one a line, or from a list with commas."""
    path = Path(text)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    return tuple(line.strip() for line in lines if line.strip())


def transform(text: str) -> draft.TransformDraft:
    """A transform from `kind:key=value,key=value` (values as in TOML, else text), or from a TOML file with `kind`."""
    path = Path(text)
    if path.suffix == ".toml" and path.is_file():
        return sdk.transform_draft(tomllib.loads(path.read_text(encoding="utf-8")))
    kind, _, rest = text.partition(":")
    parameters: dict[str, Any] = {"kind": kind}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise errors.UsageError(f"'{pair}' is no parameter.", hint=f"Write {kind}:key=value,key=value")
        try:
            parameters[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parameters[key.strip()] = value.strip()
    return sdk.transform_draft(parameters)


def _columns(path: Path) -> tensor.Tensors:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        raise errors.UsageError(f"{path} has no rows under its header.", hint="Give a header and real rows.")
    columns: tensor.Tensors = {}
    for index, name in enumerate(rows[0]):
        cells = [row[index] if index < len(row) else "" for row in rows[1:]]
        try:
            columns[name] = np.array([msgspec.convert(c or "nan", float, strict=False) for c in cells])
        except msgspec.ValidationError:
            columns[name] = np.array([c or None for c in cells], dtype=object)
    return columns
