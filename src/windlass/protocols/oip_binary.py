"""The Open Inference Protocol's binary extension: tensors as bytes behind the JSON document.

Called by `oip_rest` when a body has (or an answer wants) binary parts; the document's length is in the header
`Inference-Header-Content-Length`. Numbers become views on the body, not copies. Must never read past what a header
claims, and never leave a byte of the body unread.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.protocols import base, oip_messages
from windlass.types import directory, tensor, tensor_codec

LENGTH_HEADER = b"inference-header-content-length"
CONTENT_TYPE = b"application/octet-stream"


def document_length(value: bytes, body: bytes) -> int:
    """The length of the JSON document, from the header's value; 0 means that the body is one raw tensor."""
    # isdigit on bytes is ASCII only; the length bound keeps int() from reading a megabyte of digits.
    if not value.isdigit() or len(value) > 18:
        raise errors.InvalidInput("the header Inference-Header-Content-Length is not a number of bytes")
    length = int(value)
    if length > len(body):
        raise errors.InvalidInput(
            f"the header Inference-Header-Content-Length says {length} bytes: the body has {len(body)}"
        )
    return length


def size_of(one: oip_messages.InputTensor[Any]) -> int | None:
    """`binary_data_size` of an input; None if it has none. Data beside it is `InvalidInput`."""
    if one.parameters is msgspec.UNSET:
        return None
    oip_messages.refuse_shared_memory(one.parameters)
    if "binary_data_size" not in one.parameters:
        return None
    if one.data is not msgspec.UNSET:
        raise errors.InvalidInput(f"tensor '{one.name[:64]}' has both data and binary_data_size")
    return oip_messages.number(one.parameters, "binary_data_size")


def no_data(one: oip_messages.InputTensor[Any]) -> errors.InvalidInput:
    """The sentence for an input that came without data."""
    if size_of(one) is None:
        return errors.InvalidInput(f"tensor '{one.name[:64]}' has no data")
    return errors.InvalidInput(
        f"tensor '{one.name[:64]}' says binary_data_size, but the request has no binary part",
        hint="Send the header Inference-Header-Content-Length with the length of the JSON.",
    )


class Tail:
    """The bytes behind the document, handed out in order."""

    __slots__ = ("_bytes", "_position")

    def __init__(self, body: bytes, start: int) -> None:
        self._bytes = memoryview(body)
        self._position = start

    def take(self, one: oip_messages.InputTensor[Any], size: int, max_elements: int) -> tensor.Array:
        """The next tensor, a read-only view where it holds numbers."""
        start, end = self._position, self._position + size
        if end > len(self._bytes):
            raise errors.InvalidInput(
                f"tensor '{one.name[:64]}' says binary_data_size {size}: the body has {len(self._bytes) - start} left",
                hint="The header Inference-Header-Content-Length gives the length of the JSON before the tensors.",
            )
        self._position = end
        return tensor_codec.from_raw(
            one.datatype, one.shape, self._bytes[start:end], name=one.name[:64], max_elements=max_elements
        )

    def finish(self) -> None:
        """`InvalidInput` if bytes are left over."""
        if self._position != len(self._bytes):
            raise errors.InvalidInput(f"the body has {len(self._bytes) - self._position} bytes after its last tensor")


def raw_input(body: bytes, view: directory.ModelView) -> tensor.Tensors:
    """The whole body as the one input of the model: one row, every other dimension known (or one, and computed)."""
    signature = view.contract.signature
    if len(signature.inputs) != 1:
        raise errors.InvalidInput(
            f"a raw body is for models with one input: this one has {len(signature.inputs)}",
            hint="Describe the inputs in a JSON document before them.",
        )
    spec = signature.inputs[0]
    if spec.datatype == "BYTES":
        # As the protocol has it: the body is the one element, without a length before it.
        shape: tuple[int, ...] = (1,) * len(spec.shape)
        data: bytes = tensor_codec.to_raw(_one(body))
    else:
        shape = _raw_shape(spec.shape, len(body) // tensor.dtype(spec.datatype).itemsize, batched=signature.batched)
        data = body
    return {
        spec.name: tensor_codec.from_raw(
            spec.datatype, shape, data, name=spec.name, max_elements=view.limits.max_elements
        )
    }


def join(document: bytes, raw: list[bytes]) -> base.Answer:
    """The answer whose document is followed by tensors."""
    return base.Answer(b"".join([document, *raw]), CONTENT_TYPE, headers=((LENGTH_HEADER, b"%d" % len(document)),))


def _one(body: bytes) -> tensor.Array:
    array = np.empty(1, dtype=object)
    array[0] = body
    return array


def _raw_shape(declared: tuple[int | str, ...], elements: int, *, batched: bool) -> tuple[int, ...]:
    known = 1
    unknown: list[int] = []
    shape: list[int] = []
    for axis, size in enumerate(declared):
        if isinstance(size, int):
            known *= size
            shape.append(size)
        else:
            # One row, unless the rows are all that is unknown.
            shape.append(1)
            if not (batched and axis == 0):
                unknown.append(axis)
    if not unknown and batched:
        unknown = [0]
    if len(unknown) > 1:
        raise errors.InvalidInput("a raw body cannot tell the sizes of two dimensions: describe it in a JSON document")
    if unknown and known:
        shape[unknown[0]] = elements // known
    return tuple(shape)
