"""The Open Inference Protocol v2 over HTTP, JSON and binary: what KServe and Triton clients speak.

Found through the catalogue; `oip_control` answers its questions about the server, this file asks models.
Decoding and encoding run on the event loop for every request: plain calls, no loop over elements in Python.
Must never change what a client sent to make it fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import numpy as np
import orjson

from windlass import errors
from windlass.protocols import (
    answers,
    base,
    json_documents,
    json_rows,
    json_tensors,
    oip_binary,
    oip_classification,
    oip_control,
    oip_messages,
    oip_repeated,
)
from windlass.protocols import errors as statuses
from windlass.types import directory, inference, tensor, tensor_codec

_DATA = b'"data":'
# Up to here one pass over the whole document is quickest; above, long arrays are better read by themselves.
_SHORT = 4096


class OpenInference:
    """The plugin."""

    name: ClassVar[str] = "oip_rest"

    def routes(self) -> tuple[base.Route, ...]:
        infer = base.InferRoute(decode, encode)
        return (
            base.Route("POST", "/v2/models/{model}/infer", "model:predict", infer),
            base.Route("POST", "/v2/models/{model}/versions/{version}/infer", "model:predict", infer),
            *oip_control.routes(),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """`{"error": sentence}`; the request id is in the answer's header, as for every answer."""
        del request_id
        return answers.document({"error": statuses.sentence(error)}, statuses.status(error))


def decode(
    head: base.Head, _parameters: base.Parameters, body: bytes, view: directory.ModelView
) -> inference.InferRequest:
    """The request, its tensors checked against the contract; numbers sent as bytes are views on the body."""
    length = head.headers.get(oip_binary.LENGTH_HEADER)
    if length is not None:
        return _decode_binary(length, body, view)
    if len(body) <= _SHORT:
        known = oip_repeated.again(body, view)
        if known is not None:
            return known
        read = oip_messages.reader(view.contract)
        if read is not None:
            try:
                return _decode(read(body), body, view, json_tensors.pack)
            except (*json_tensors.MALFORMED, errors.InvalidInput):
                # The other reading knows the tensor's name, and is the one that refuses.
                pass
    return _decode(json_documents.decode(oip_messages.RAW, body), body, view, json_tensors.decode)


def encode(
    _head: base.Head, request: inference.InferRequest, response: inference.InferResponse, view: directory.ModelView
) -> base.Answer:
    """The answer: JSON, or JSON with the outputs that were wanted as bytes behind it."""
    names = request.outputs or view.contract.output_names
    if request.context is not None or request.id or len(names) != 1:
        return _encode_parts(request, response, view, names)
    name = names[0]
    array = response.outputs[name]
    start = _start(view.name, response.version or view.version, name, array.dtype, array.shape)
    return base.Answer(b"%b%b}]}" % (start, json_tensors.encode_flat(array, name)))


@functools.lru_cache(maxsize=1024)
def _start(model: str, version: str, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """An answer with one output up to its data. Cached, as what it is made of: the same few come again and again."""
    return b'%b"outputs":[%b' % (_opening(model, version), _described(name, dtype, shape))


@functools.lru_cache(maxsize=256)
def _opening(model: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,' % (orjson.dumps(model), orjson.dumps(version))


@functools.lru_cache(maxsize=1024)
def _described(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """An output's object up to its data."""
    datatype = tensor.datatype(np.empty(0, dtype))
    return (
        b'{"name":%b,"datatype":"%b","shape":%b,' % (orjson.dumps(name), datatype.encode(), orjson.dumps(shape)) + _DATA
    )


def _decode(
    document: oip_messages.InferDocument[Any],
    body: bytes,
    view: directory.ModelView,
    read: Callable[[Any, str, tuple[int, ...], str, int], tensor.Array],
) -> inference.InferRequest:
    inputs: tensor.Tensors = {}
    limit = view.limits.max_elements
    for one in document.inputs:
        if one.data is msgspec.UNSET:
            raise oip_binary.no_data(one)
        if len(body) > json_tensors.HUGE:
            limit = json_rows.element_limit(len(body), view.contract.spec(one.name), view)
        inputs[one.name] = read(one.data, one.datatype, one.shape, one.name, limit)
    # Every key has its colon, so that a request with no more colons than these has no other key, and none twice.
    usual = 1 + 4 * len(document.inputs)
    if json_documents.colons(body) == usual and len(inputs) == len(document.inputs):
        rows, key = view.contract.check(inputs)
        request = inference.InferRequest(view.name, inputs, rows, key)
        if len(body) <= _SHORT:
            oip_repeated.remember(body, request, view)
        return request
    for one in document.inputs:
        oip_binary.size_of(one)
    return _request(document, body, inputs, view)


def _request(
    document: oip_messages.InferDocument[Any], text: bytes, inputs: tensor.Tensors, view: directory.ModelView
) -> inference.InferRequest:
    json_documents.refuse_repeated(text, oip_messages.key_count(document))
    if len(inputs) != len(document.inputs):
        raise errors.InvalidInput("an input is given twice")
    return oip_messages.request(document, inputs, view)


def _decode_binary(length_value: bytes, body: bytes, view: directory.ModelView) -> inference.InferRequest:
    length = oip_binary.document_length(length_value, body)
    if length == 0:
        inputs = oip_binary.raw_input(body, view)
        rows, key = view.contract.check(inputs)
        return inference.InferRequest(view.name, inputs, rows, key)
    text = body[:length]
    known = oip_repeated.again_binary(text, body, view)
    if known is not None:
        return known
    document = json_documents.decode(oip_messages.RAW, text)
    tail = oip_binary.Tail(body, length)
    inputs = {}
    limit = view.limits.max_elements
    for one in document.inputs:
        size = oip_binary.size_of(one)
        if size is not None:
            inputs[one.name] = tail.take(one, size, limit)
        elif one.data is not msgspec.UNSET:
            inputs[one.name] = json_tensors.decode(one.data, one.datatype, one.shape, one.name, limit)
        else:
            raise oip_binary.no_data(one)
    tail.finish()
    request = _request(document, text, inputs, view)
    oip_repeated.remember_binary(text, body, request, view)
    return request


def _encode_parts(
    request: inference.InferRequest,
    response: inference.InferResponse,
    view: directory.ModelView,
    names: tuple[str, ...],
) -> base.Answer:
    """The answer in general: several outputs, an id to repeat, outputs as bytes or as classes."""
    wanted: oip_messages.Wanted = request.context or oip_messages.PLAIN
    text = _opening(view.name, response.version or view.version)
    if request.id:
        text += b'"id":%b,' % orjson.dumps(request.id)
    text += b'"outputs":['
    raw: list[bytes] = []
    for name in names:
        array = response.outputs[name]
        k = wanted.classes.get(name)
        if k is not None:
            batched = view.contract.signature.batched
            array = oip_classification.top_classes(array, k, view.labels, name, batched=batched)
        described = _described(name, array.dtype, array.shape)
        if name in wanted.binary:
            data = tensor_codec.to_raw(array)
            raw.append(data)
            text += described.removesuffix(_DATA) + b'"parameters":{"binary_data_size":%d}},' % len(data)
        else:
            text += described + json_tensors.encode_flat(array, name) + b"},"
    text = text[:-1] + b"]}"
    return oip_binary.join(text, raw) if wanted.binary else base.Answer(text)
