"""Servers of all kinds as targets of a load: where a protocol asks, how a request looks, and what a good answer is.

One line of `ADAPTERS` a protocol, for servers of ours and of others. Used by `windlass bench`.
Must never measure what was not checked: before a load one request is asked and its answer read.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np

from windlass import errors
from windlass.client import generator, inference, inputs, load, plan
from windlass.protocols import errors as statuses
from windlass.protocols.pb import wire
from windlass.types import tensor, tensor_codec

_TF_TYPES = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}
_KINDS = {status: kind for kind, status in statuses.HTTP.items()}
_PATIENCE_S = 30.0


class Body(NamedTuple):
    """What is sent: bytes, and the headers that say what they are."""

    data: bytes
    headers: Mapping[str, str] = {"content-type": "application/json"}


class Access(NamedTuple):
    """How to be let in: an API key, and a PEM file of authorities for https."""

    key: str = ""
    ca: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The key as a header."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


class Adapter(NamedTuple):
    """One protocol: the path for a model (empty: the URL's own), what is sent for tensors, what a good answer is."""

    path: str
    body: Callable[[str, tensor.Tensors], Body] | None
    answers: Callable[[httpx.Response], bool]
    metadata: str = "/v2/models/{model}"


def _oip(_model: str, tensors: tensor.Tensors) -> Body:
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": tensor.datatype(array),
            "data": _plain(array.ravel()),
        }
        for name, array in tensors.items()
    ]
    return Body(msgspec.json.encode({"inputs": described}))


def _oip_binary(_model: str, tensors: tensor.Tensors) -> Body:
    header, raw = inference.binary_request(tensors)
    length = {"inference-header-content-length": str(len(header)), "content-type": "application/octet-stream"}
    return Body(header + raw, length)


def _oip_grpc(model: str, tensors: tensor.Tensors) -> Body:
    """A ModelInferRequest with raw contents, behind the five bytes of a gRPC message."""
    message = wire.field(1, model.encode())
    for name, array in tensors.items():
        shape = b"".join(wire.varint(size) for size in array.shape)
        parts = ((1, name.encode()), (2, tensor.datatype(array).encode()), (3, shape))
        message += wire.field(5, b"".join(wire.field(number, part) for number, part in parts))
    message += b"".join(wire.field(7, tensor_codec.to_raw(array)) for array in tensors.values())
    return Body(b"\0" + len(message).to_bytes(4, "big") + message)


def _tfserving(_model: str, tensors: tensor.Tensors) -> Body:
    return Body(msgspec.json.encode({"inputs": {name: _plain(array) for name, array in tensors.items()}}))


def _plain(array: tensor.Array) -> Any:
    """Lists of numbers, as short as their datatype allows, and of text."""
    if array.dtype.kind == "O":
        return [item.decode() if isinstance(item, bytes) else _plain(item) for item in array]
    if array.dtype == np.float32:
        # The shortest decimal that is this float32, not the double's seventeen digits.
        return np.array([float(str(x)) for x in array.ravel()]).reshape(array.shape).tolist()
    return array.tolist()


def _has(*names: str) -> Callable[[httpx.Response], bool]:
    """Whether the answer is a JSON object in which one of these is there and not empty."""

    def check(answer: httpx.Response) -> bool:
        try:
            document = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            return False
        return isinstance(document, dict) and any(document.get(name) for name in names)

    return check


def _binary_outputs(answer: httpx.Response) -> bool:
    try:
        return bool(inference.binary_response(answer))
    except (KeyError, ValueError, msgspec.DecodeError, errors.WindlassError):
        return False


def _anything(_answer: httpx.Response) -> bool:
    return True


ADAPTERS: dict[str, Adapter] = {
    "oip": Adapter("/v2/models/{model}/infer", _oip, _has("outputs")),
    "oip-binary": Adapter("/v2/models/{model}/infer", _oip_binary, _binary_outputs),
    "oip-grpc": Adapter("/inference.GRPCInferenceService/ModelInfer", _oip_grpc, _anything),
    "tfserving": Adapter(
        "/v1/models/{model}:predict", _tfserving, _has("predictions", "outputs"), "/v1/models/{model}/metadata"
    ),
    "plain": Adapter("/predict/{model}", _tfserving, _has("predictions")),
    "torchserve": Adapter("/predictions/{model}", None, _anything),
    "raw": Adapter("", None, _anything),
}


def find(
    url: str,
    protocol: str,
    access: Access,
    *,
    sizes: Sequence[inputs.Size] = (inputs.Size(),),
    given: Sequence[tensor.Tensors] = (),
    bodies: Sequence[tuple[Body, float]] = (),
) -> plan.Target:
    """The target that a person means by a URL; asked once, so that it is known to answer.

    `url` is http(s)://host:port/MODEL; with protocol `raw` it is taken as it is. Requests are `bodies` with their
    weights, else the tensors `given`, else random tensors of `sizes` for what the model's metadata tells.
    `Unavailable`, `NotFound`, `NotAllowed` or `InvalidInput` in the server's own words.
    """
    adapter = ADAPTERS[protocol]
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.UsageError(f"'{url}' is no address of a model.", hint="Write http://host:port/MODEL")
    model = parts.path.strip("/").rpartition("/")[2]
    if adapter.path and not model:
        raise errors.UsageError(f"{url} names no model.", hint=f"Write {url.rstrip('/')}/MODEL")
    base = f"{parts.scheme}://{parts.netloc}"
    with httpx.Client(
        base_url=base, headers=access.headers, timeout=_PATIENCE_S, verify=_verify(parts.scheme, access.ca)
    ) as client:
        if not bodies:
            bodies = _made(client, adapter, model, sizes, given)
        where = adapter.path.format(model=model) if adapter.path else parts.path or "/"
        full = urllib.parse.urlunsplit((parts.scheme, parts.netloc, where, parts.query if not adapter.path else "", ""))
        if protocol == "oip-grpc":
            return _grpc(full, bodies, access)
        for body, _ in bodies[:1]:
            _check(client, full, adapter, body)
    kinds = {tuple(sorted(body.headers.items())) for body, _ in bodies}
    if len(kinds) > 1:
        # A binary request says the length of its JSON: each keeps its own headers.
        targets = [load.http(full, b.data, headers={**b.headers, **access.headers}, ca=access.ca) for b, _ in bodies]
        requests = tuple(
            msgspec.structs.replace(target.requests[0], weight=weight)
            for target, (_, weight) in zip(targets, bodies, strict=True)
        )
        return msgspec.structs.replace(targets[0], requests=requests)
    return load.http(
        full,
        [body.data for body, _ in bodies],
        headers={**bodies[0][0].headers, **access.headers},
        weights=[weight for _, weight in bodies],
        ca=access.ca,
    )


def _verify(scheme: str, ca: str) -> Any:
    return generator.tls_context(ca, "http/1.1") if scheme == "https" else True


def _made(
    client: httpx.Client,
    adapter: Adapter,
    model: str,
    sizes: Sequence[inputs.Size],
    given: Sequence[tensor.Tensors],
) -> list[tuple[Body, float]]:
    if adapter.body is None:
        raise errors.UsageError("This protocol does not say what a model takes.", hint="Give a request: --input FILE")
    if given:
        return [(adapter.body(model, tensors), 1.0) for tensors in given]
    wanted = metadata(client, adapter.metadata.format(model=model))
    each = max(1, inputs.VARIANTS // len(sizes))
    return [
        (adapter.body(model, inputs.at_random(wanted, size, seed)), size.weight)
        for size in sizes
        for seed in range(each)
    ]


def metadata(client: httpx.Client, path: str) -> list[inputs.Wanted]:
    """What a model takes, by the Open Inference Protocol's metadata or TensorFlow Serving's."""
    document = msgspec.json.decode(_asked(client, "GET", path).content)
    try:
        if "inputs" in document:
            return [inputs.Wanted(i["name"], i["datatype"], tuple(map(int, i["shape"]))) for i in document["inputs"]]
        signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
        return [
            inputs.Wanted(
                name, _TF_TYPES[one["dtype"]], tuple(int(size["size"]) for size in one["tensor_shape"].get("dim", ()))
            )
            for name, one in signature.items()
        ]
    except (KeyError, TypeError, ValueError):
        raise errors.Unsupported(
            f"What {path} says of the model's inputs is not understood.", hint="Give a request: --input FILE"
        ) from None


def _check(client: httpx.Client, url: str, adapter: Adapter, body: Body) -> None:
    answer = _asked(client, "POST", url, body)
    if not adapter.answers(answer):
        raise errors.InvalidInput(
            f"{url} answers {answer.status_code}, but with no prediction: {answer.text[:200]}",
            hint="Is it another protocol? See --protocol.",
        )


def _asked(client: httpx.Client, method: str, path: str, body: Body | None = None) -> httpx.Response:
    try:
        if body is None:
            answer = client.request(method, path)
        else:
            answer = client.request(method, path, content=body.data, headers=dict(body.headers))
    except httpx.TransportError as e:
        raise errors.Unavailable(
            f"No answer from {client.base_url}: {e}.", hint="Is the server running, and the address right?"
        ) from None
    if answer.is_error:
        message, hint = inference.told(answer)
        kind = _KINDS.get(answer.status_code, errors.WindlassError)
        raise kind(f"{answer.url.path} answers {answer.status_code}: {message or answer.text[:200]}", hint=hint)
    return answer


def _grpc(url: str, bodies: Sequence[tuple[Body, float]], access: Access) -> plan.Target:
    parts = urllib.parse.urlsplit(url)
    target = plan.Target(
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "https" else 80),
        requests=tuple(plan.Request(body.data, weight) for body, weight in bodies),
        transport="grpc",
        path=parts.path,
        headers=tuple(access.headers.items()),
        tls=parts.scheme == "https",
        ca=access.ca,
    )
    first = msgspec.structs.replace(target, requests=target.requests[:1])
    asked = load.Load(load.opened(first, rate=50, seconds=0.2, timeout_s=_PATIENCE_S)).start().wait()
    if asked.lost or not asked.answered:
        codes = sorted(set(asked.statuses) - {0})
        kind: type[errors.WindlassError] = errors.Unavailable if asked.outcomes.broken else errors.InvalidInput
        known = {5: errors.NotFound, 7: errors.NotAllowed, 16: errors.Unauthenticated, 14: errors.Unavailable}
        raise known.get(codes[0] if codes else -1, kind)(
            f"{url} answers with grpc-status {', '.join(map(str, codes))}."
            if any(code > 0 for code in codes)
            else f"No answer over gRPC from {parts.netloc}.",
            hint="Is the server running, the model's name right, and the key?",
        )
    return target
