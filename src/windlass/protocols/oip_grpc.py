"""The Open Inference Protocol v2 over gRPC: what KServe and Triton clients speak where they do not speak JSON.

Found through the catalogue; `oip_grpc_control` answers its questions about the server, this file asks models. A usual
request is recognised by its bytes (`oip_grpc_repeated`), any other goes through protobuf; answers are written by hand.
Must never change what a client sent to make it fit.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import msgspec
import numpy as np

from windlass import errors
from windlass.protocols import (
    answers,
    base,
    oip_classification,
    oip_grpc_control,
    oip_grpc_repeated,
    oip_grpc_tensors,
    oip_messages,
)
from windlass.protocols import errors as statuses
from windlass.protocols.pb import messages, wire
from windlass.types import directory, inference, tensor

REQUEST = messages.message_class("inference.ModelInferRequest")
_LONGEST_ID = 1_024
_NAME, _VERSION, _ID = 1, 2, 3
_OUTPUT, _RAW_OUTPUT = 5, 6
_ERROR, _RESPONSE = 1, 2
# The parameter triton_final_response: true. Clients that read a stream wait for it; each answer here is its last.
_FINAL = wire.field(4, wire.field(1, b"triton_final_response") + wire.field(2, b"\x08\x01"))


class OpenInference:
    """The plugin."""

    name: ClassVar[str] = "oip_grpc"

    def routes(self) -> tuple[base.Route, ...]:
        one = base.RpcInfer(peek, base.InferRoute(decode, encode))
        many = base.RpcInfer(peek, base.InferRoute(decode, encode_for_stream), fail)
        return (
            base.Route("POST", f"/{messages.INFERENCE}/ModelInfer", "model:predict", one),
            base.Route("POST", f"/{messages.INFERENCE}/ModelStreamInfer", "model:predict", many),
            *oip_grpc_control.routes(),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """For callers that do not speak gRPC: `{"error": sentence}`."""
        del request_id
        return answers.document({"error": statuses.sentence(error)}, statuses.status(error))


def peek(message: bytes) -> tuple[str, str]:
    """The model and the version that a request names; `InvalidInput` if it cannot be read that far."""
    try:
        if message[0] == 0x0A and message[1] < 0x80:
            end = 2 + message[1]
            name = message[2:end].decode()
            # The version comes next, if there is one.
            if message[end] in (0x1A, 0x22, 0x2A):
                return name, ""
            if message[end] == 0x12 and message[end + 1] < 0x80:
                return name, message[end + 2 : end + 2 + message[end + 1]].decode()
    except (IndexError, UnicodeDecodeError):
        pass
    found = _texts(message)
    return found.get(_NAME, ""), found.get(_VERSION, "")


def _texts(message: bytes) -> dict[int, str]:
    """The name, the version and the id of a request by their field numbers."""
    try:
        return {
            number: message[start:end].decode()
            for number, _, start, end in wire.fields(message)
            if number in (_NAME, _VERSION, _ID)
        }
    except UnicodeDecodeError:
        raise errors.InvalidInput("the message is not a valid inference.ModelInferRequest") from None


def decode(
    _head: base.Head, _parameters: base.Parameters, message: bytes, view: directory.ModelView
) -> inference.InferRequest:
    """The request, its tensors checked against the contract; raw numbers are views on the message."""
    known = oip_grpc_repeated.again(message, view)
    if known is not None:
        return known
    rest, raw = oip_grpc_tensors.split(message)
    parsed = messages.parse(REQUEST, rest)
    # The model was found by what stands first; whoever else reads the message, a proxy, takes what stands last.
    if peek(message) != (parsed.model_name, parsed.model_version):
        raise errors.InvalidInput("the message's model and version do not stand first in it, or stand there twice")
    document = _document(parsed)
    inputs = oip_grpc_tensors.decode(parsed, raw, view)
    request = oip_messages.request(document, inputs, view)
    if raw:
        oip_grpc_repeated.remember(message, request, view)
    return request


def _document(parsed: Any) -> oip_messages.InferDocument[Any]:
    """A parsed request without its tensors' data, as the form that all encodings of the protocol share."""
    if len(parsed.id) > _LONGEST_ID:
        raise errors.InvalidInput(f"the request's id is longer than {_LONGEST_ID} characters")
    for one in parsed.inputs:
        if one.parameters:
            oip_messages.refuse_shared_memory(_parameters(one.parameters))
    outputs = [oip_messages.OutputTensor(one.name, _parameters(one.parameters)) for one in parsed.outputs]
    return oip_messages.InferDocument(
        inputs=[],
        id=parsed.id or msgspec.UNSET,
        outputs=outputs or msgspec.UNSET,
        parameters=_parameters(parsed.parameters) if parsed.parameters else msgspec.UNSET,
    )


def _parameters(given: Any) -> oip_messages.Parameters:
    found: oip_messages.Parameters = {}
    for name, one in given.items():
        kind = one.WhichOneof("parameter_choice")
        if kind is None:
            raise errors.InvalidInput(f"the parameter '{name[:64]}' has no value")
        found[name] = getattr(one, kind)
    return found


def encode(
    _head: base.Head, request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> base.Answer:
    """The answer, its outputs as raw contents."""
    names = request.outputs or view.contract.output_names
    version = response.version or view.version
    array = response.outputs[names[0]]
    if request.context is not None or len(names) != 1 or array.dtype.kind in "OSU":
        return base.Answer(_encode_parts(request, response, view, version))
    message = _start(view.name, version, names[0], array.dtype, array.shape) + array.tobytes()
    return base.Answer(message + wire.field(_ID, request.id.encode()) if request.id else message)


@functools.lru_cache(maxsize=1024)
def _start(model: str, version: str, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """An answer with one output of numbers up to its data."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    return _opening(model, version) + _described(name, dtype, shape) + _tag(size)


def _tag(size: int) -> bytes:
    return wire.varint(_RAW_OUTPUT << 3 | 2) + wire.varint(size)


@functools.lru_cache(maxsize=256)
def _opening(model: str, version: str) -> bytes:
    return wire.field(_NAME, model.encode()) + wire.field(_VERSION, version.encode())


@functools.lru_cache(maxsize=1024)
def _described(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    datatype = tensor.datatype(np.empty(0, dtype)).encode()
    sizes = b"".join(wire.varint(size) for size in shape)
    return wire.field(_OUTPUT, wire.field(1, name.encode()) + wire.field(2, datatype) + wire.field(3, sizes))


def _encode_parts(
    request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView, version: str
) -> bytes:
    """The answer in general: several outputs, an id to repeat, outputs of bytes or as classes."""
    wanted: oip_messages.Wanted = request.context or oip_messages.PLAIN
    parts = [_opening(view.name, version)]
    if request.id:
        parts.append(wire.field(_ID, request.id.encode()))
    raw: list[bytes] = []
    for name in request.outputs or view.contract.output_names:
        array = response.outputs[name]
        k = wanted.classes.get(name)
        if k is not None:
            batched = view.contract.signature.batched
            array = oip_classification.top_classes(array, k, view.labels, name, batched=batched)
        data = oip_grpc_tensors.to_raw(array)
        parts.append(_described(name, array.dtype, array.shape))
        raw += (_tag(len(data)), data)
    return b"".join([*parts, *raw])


def encode_for_stream(
    head: base.Head, request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> base.Answer:
    """The answer as a message of a stream, marked as the last one to its question."""
    return base.Answer(wire.field(_RESPONSE, encode(head, request, response, view).body + _FINAL))


def fail(message: bytes, error: errors.WindlassError) -> bytes:
    """What a stream answers to a message that failed: the sentence, and the message's id where it can be read."""
    try:
        name = _texts(message).get(_ID, "")
    except errors.InvalidInput:
        name = ""
    answered = (wire.field(_ID, name.encode()) if name else b"") + _FINAL
    return wire.field(_ERROR, statuses.sentence(error).encode()) + wire.field(_RESPONSE, answered)
