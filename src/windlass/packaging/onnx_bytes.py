"""One spelling of an ONNX model: without the traces of how and where it was exported, its weights where they belong.

Called by `build.py`, on files that `external_data.py` has checked; the one file of the package format that needs the
onnx library. Must never change what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import onnx

from windlass.packaging import external_data

Buffer: TypeAlias = bytes | memoryview
INLINE_BELOW = 64 << 20
DATA_FILE = "model.onnx.data"
# Smaller tensors stay inside (shapes, scales): the runtime wants to see them while it optimizes the graph.
_APART_FROM = 1024
# A page of memory, so that a runtime may map each tensor where it lies.
_ALIGN = 4096
_TRACES = ("doc_string", "metadata_props", "producer_name", "producer_version")


def canonical(files: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """The same model in its one spelling: `model.onnx`, and `model.onnx.data` if its weights come to 64 MB or more."""
    model = onnx.ModelProto.FromString(bytes(files[external_data.MODEL_FILE]))
    tensors = []
    for message in _messages(model):
        for field in _TRACES:
            # producer_name and producer_version are the model's alone; not every message has the others.
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
        if isinstance(message, onnx.TensorProto):
            load(message, files)
            tensors.append(message)
    data = b""
    if sum(len(t.raw_data) for t in tensors) >= INLINE_BELOW:
        data = _move_apart([t for t in model.graph.initializer if len(t.raw_data) >= _APART_FROM])
    result: dict[str, Buffer] = {external_data.MODEL_FILE: model.SerializeToString(deterministic=True)}
    if data:
        result[DATA_FILE] = data
    return result


def load(tensor: Any, files: Mapping[str, Buffer]) -> None:
    """Bring a tensor's external bytes inside; `files` are checked, and hold the file that it names."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = memoryview(files[entries["location"]])
    start = int(entries.get("offset", "0"))
    length = external_data.size_of(list(tensor.dims), tensor.data_type)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(data[start : start + length])


def _messages(root: Any) -> Iterator[Any]:
    """Every message of a protobuf tree, the root included, in the order of the file."""
    stack = [root]
    while stack:
        message = stack.pop()
        yield message
        children: list[Any] = []
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            children.extend([value] if hasattr(value, "ListFields") else value)
        stack.extend(reversed(children))


def _move_apart(tensors: list[Any]) -> bytes:
    """Move the bytes of these tensors into one file, in their order, and leave references."""
    parts: list[bytes] = []
    offset = 0
    for tensor in tensors:
        start = math.ceil(offset / _ALIGN) * _ALIGN
        parts += [bytes(start - offset), tensor.raw_data]
        length = len(tensor.raw_data)
        offset = start + length
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", DATA_FILE), ("offset", str(start)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return b"".join(parts)
