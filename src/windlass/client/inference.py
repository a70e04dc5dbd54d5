"""Asks a server: tensors over the Open Inference Protocol in binary, or a person's data over `/predict`.

Used through `wl.Client`, by `windlass predict` and the demo. Must never retry a request that may have been answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import httpx
import msgspec
import numpy as np

from windlass import errors
from windlass.protocols import errors as statuses
from windlass.types import tensor, tensor_codec

Data: TypeAlias = "tensor.Array | str | bytes | Mapping[str, Any] | Sequence[Any]"
_PICTURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))
_KINDS = {status: kind for kind, status in statuses.HTTP.items()}


class Client:
    """A server at `url`. One client holds its connections open; it may be used from several threads."""

    def __init__(self, url: str, *, key: str = "", timeout_s: float = 30.0) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        # Compressing answers pays on slow networks only; a caller there sets the header.
        headers["accept-encoding"] = "identity"
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, limits=limits)

    def predict(self, model: str, data: Data, *, version: str = "", media_type: str = "") -> list[dict[str, Any]]:
        """Predictions, one a row, for what a person has.

        `data`: text; the bytes of a picture or a CSV file (`media_type` says which where the bytes do not); columns
        or rows as a data frame, a dict or a list of dicts; or an array, when the model has one input.
        """
        body, kind = _body(data, media_type)
        path = f"/predict/{model}/{version}" if version else f"/predict/{model}"
        answer = self.ask("POST", path, body, {"content-type": kind})
        predictions: list[dict[str, Any]] = msgspec.json.decode(answer.content)["predictions"]
        return predictions

    def infer(self, model: str, inputs: tensor.Tensors, *, version: str = "") -> tensor.Tensors:
        """The model's output tensors for its input tensors."""
        header, raw = binary_request(inputs)
        where = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
        headers = {
            "inference-header-content-length": str(len(header)),
            "content-type": "application/octet-stream",
        }
        return binary_response(self.ask("POST", where, header + raw, headers))

    def models(self) -> list[dict[str, Any]]:
        """The server's models and their states."""
        found: list[dict[str, Any]] = msgspec.json.decode(self.ask("POST", "/v2/repository/index", b"{}", {}).content)
        return found

    def ready(self) -> bool:
        """Whether the server answers for all its models."""
        try:
            return self._http.get("/v2/health/ready").is_success
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """One request as it is; an error status becomes the error it stands for, with the server's words."""
        try:
            answer = self._http.request(method, path, content=body, headers=headers)
        except httpx.TransportError as e:
            raise errors.Unavailable(
                f"no answer from {self._http.base_url}: {e}.",
                hint="Is the server running? Start it: windlass serve NAME",
            ) from None
        if answer.is_error:
            message, hint = told(answer)
            raise _KINDS.get(answer.status_code, errors.InternalError)(message, hint=hint)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _body(data: Data, media_type: str) -> tuple[bytes, str]:
    if isinstance(data, bytes):
        kind = media_type or next((m for start, m in _PICTURES if data.startswith(start)), "")
        if not kind:
            raise errors.UsageError("these bytes are no picture that is known: say what they are with media_type=")
        return data, kind
    if isinstance(data, str):
        return data.encode(), media_type or "text/plain; charset=utf-8"
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        table: Any = data
        data = {str(column): table[column].tolist() for column in table.columns}
    elif isinstance(data, Mapping):
        data = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in data.items()}
    elif hasattr(data, "tolist"):
        data = data.tolist()
    return msgspec.json.encode(data), "application/json"


def binary_request(inputs: tensor.Tensors) -> tuple[bytes, bytes]:
    """A request of the Open Inference Protocol in binary: its JSON, and the tensors behind it."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in inputs.items():
        raw = tensor_codec.to_raw(array)
        parts.append(raw)
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": tensor.datatype(array),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    header = msgspec.json.encode({"inputs": described, "parameters": {"binary_data_output": True}})
    return header, b"".join(parts)


def binary_response(answer: httpx.Response) -> tensor.Tensors:
    """The output tensors of an answer in binary."""
    length = int(answer.headers["inference-header-content-length"])
    header = msgspec.json.decode(answer.content[:length])
    rest = memoryview(answer.content)[length:]
    outputs: tensor.Tensors = {}
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        raw, rest = rest[:size], rest[size:]
        outputs[output["name"]] = tensor_codec.from_raw(
            output["datatype"], tuple(output["shape"]), raw, name=output["name"]
        )
    return outputs


def told(answer: httpx.Response) -> tuple[str, str]:
    """The server's sentence and its hint."""
    try:
        told = msgspec.json.decode(answer.content)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answered {answer.status_code}", ""
    if isinstance(told, dict):
        return str(told.get("message", "")), str(told.get("hint", ""))
    return str(told), ""
