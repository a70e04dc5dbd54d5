"""Rows and columns of JSON values to the tensors of a model, by the names of its inputs.

Called by the protocols whose clients send rows (`[{input: value}, ...]`) or whole tensors by name. The parts stay raw
until the contract says what they are. Must never take a field that the model does not have.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from windlass import errors
from windlass.protocols import json_tensors
from windlass.types import directory, signature, tensor

RawObject: TypeAlias = dict[str, msgspec.Raw]
ROWS = msgspec.json.Decoder(list[RawObject])
OBJECT = msgspec.json.Decoder(RawObject)
_FIRST = re.compile(rb"[ \t\r\n]*(.)", re.DOTALL)
_FIRST_ITEM = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*(.)", re.DOTALL)


class Binary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes in JSON: `{"b64": "..."}`."""

    b64: str


def first(data: bytes) -> bytes:
    """The first character of a JSON text, or nothing."""
    found = _FIRST.match(data)
    return found[1] if found else b""


def first_item(data: bytes) -> bytes:
    """The first character inside a JSON array, or nothing if it is none."""
    found = _FIRST_ITEM.match(data)
    return found[1] if found else b""


def to_bytes(value: Binary, name: str) -> bytes:
    """The bytes of a `{"b64": ...}`; `InvalidInput` names the input or field."""
    try:
        return base64.b64decode(value.b64, validate=True)
    except (binascii.Error, ValueError):
        raise errors.InvalidInput(f"'{name[:64]}' has a b64 value that is not base64") from None


def only_input(view: directory.ModelView) -> signature.TensorSpec:
    """The input of a model that has one; `InvalidInput` names those of one that has more."""
    inputs = view.signature.inputs
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise errors.InvalidInput(f"the model has {len(inputs)} inputs: give each by its name ({names})")
    return inputs[0]


def element_limit(size: int, spec: signature.TensorSpec, view: directory.ModelView) -> int:
    """How many elements may be read for an input from `size` bytes.

    Short data may be read in full, so that the contract refuses it with a better sentence. Long data is read only as
    far as the contract could let it pass.
    """
    if size <= json_tensors.HUGE:
        return view.limits.max_elements
    count = 1
    for dimension in spec.shape:
        if isinstance(dimension, int):
            count *= dimension
        elif dimension == signature.BATCH and view.signature.batched:
            count *= view.contract.max_rows
        else:
            return view.limits.max_elements
    return min(count, view.limits.max_elements)


def read_tensor(data: bytes, spec: signature.TensorSpec, view: directory.ModelView) -> tensor.Array:
    """A whole tensor from nested arrays; BYTES may be text or `{"b64": ...}`."""
    limit, rank = element_limit(len(data), spec, view), len(spec.shape)
    if spec.datatype != "BYTES" or b"{" not in data:
        return json_tensors.decode_rank(data, spec.datatype, rank, spec.name, limit)
    try:
        values = _binary_decoder(max(rank, 1)).decode(data)
    except json_tensors.MALFORMED as e:
        raise errors.InvalidInput(f"tensor '{spec.name}' is not an array of BYTES values: {e}") from None
    return json_tensors.pack_rank(_binaries(values, spec.name), "BYTES", rank, spec.name, limit)


def by_name(document: Mapping[str, msgspec.Raw], view: directory.ModelView) -> tensor.Tensors:
    """Tensors by the names of the inputs."""
    return {name: read_tensor(bytes(raw), view.contract.spec(name), view) for name, raw in document.items()}


def by_row(rows: list[RawObject], view: directory.ModelView) -> tensor.Tensors:
    """Tensors from rows, each of which gives every input its part."""
    if not rows:
        raise errors.InvalidInput("the request has no rows")
    names = rows[0].keys()
    for index, row in enumerate(rows):
        if row.keys() != names:
            raise errors.InvalidInput(f"row {index} does not have the same names as row 0")
    return {name: read_tensor(join([row[name] for row in rows]), view.contract.spec(name), view) for name in names}


def check_rows(count: int, view: directory.ModelView) -> None:
    """Refuse more rows than the model takes before anything is done for them."""
    if count > view.contract.max_rows:
        raise errors.InvalidInput(f"the request has {count} rows: the model takes 1 to {view.contract.max_rows}")


def join(parts: list[msgspec.Raw]) -> bytes:
    """JSON values as one JSON array."""
    return b"[" + b",".join([bytes(part) for part in parts]) + b"]"


@functools.lru_cache(maxsize=64)
def _binary_decoder(depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = str | Binary
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _binaries(values: list[Any], name: str) -> list[Any]:
    """The same nested lists with each `{"b64": ...}` as bytes. As deep as the decoder's type."""
    return [
        _binaries(value, name)
        if isinstance(value, list)
        else to_bytes(value, name)
        if isinstance(value, Binary)
        else value
        for value in values
    ]
