"""What a protocol is: routes with their permission, and bytes to requests and answers back to bytes.

Implemented by each file beside this one and found through the catalogue; called by the server's connections.
Must never own a socket, hold a model or wait: what takes long is handed back as `Later` or `Pending`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from windlass import errors
from windlass.types import directory, inference

Permission = Literal["health", "model:read", "model:predict", "model:load", "admin"]
Parameters: TypeAlias = Mapping[str, str]
Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Head(msgspec.Struct, frozen=True):
    """The request line and headers. Header names are lower-case; `path` is percent-decoded, without the query."""

    method: str
    path: str
    query: str
    headers: Mapping[bytes, bytes]


class Answer(msgspec.Struct, frozen=True):
    """What to write. `status` None is the usual success."""

    body: bytes
    content_type: bytes = b"application/json"
    status: int | None = None
    headers: Fields = ()


class Later(NamedTuple):
    """Decoding that is too long for the loop: `work` runs in a bounded thread pool and may raise as decoding may."""

    work: Callable[[], inference.InferRequest]


Finish: TypeAlias = Callable[[Answer | errors.WindlassError], None]


class Pending(NamedTuple):
    """An answer that is not there yet: `start` is called at once, and calls back with it once, on the loop."""

    start: Callable[[Finish], None]


class InferRoute(NamedTuple):
    """A route that asks a model. `parameters` holds `model`, and `version` where the path has one.

    `decode(head, parameters, body, view)` gives a request whose tensors passed `view.contract`.
    `encode(head, request, response, view)` gives the answer.
    """

    decode: Callable[[Head, Parameters, bytes, directory.ModelView], inference.InferRequest | Later]
    encode: Callable[[Head, inference.InferRequest, inference.InferResponse, directory.ModelView], Answer]


class QueryRoute(NamedTuple):
    """A route that asks the server: `answer(head, parameters, body, directory)`."""

    answer: Callable[[Head, Parameters, bytes, directory.ModelDirectory], Answer | Pending]


class RpcInfer(NamedTuple):
    """A gRPC method that asks a model: one message is one question.

    `peek(message)` gives the model and the version that it names, before anything else of it is read; `infer` decodes a
    message and encodes its answer (`Answer.body` is a message) as it does bodies. With `fail` the method is a stream of
    questions and their answers, in order: `fail(message, error)` answers one that failed, and the others go on.
    """

    peek: Callable[[bytes], tuple[str, str]]
    infer: InferRoute
    fail: Callable[[bytes, errors.WindlassError], bytes] | None = None


class RpcQuery(NamedTuple):
    """A gRPC method that asks the server: `answer(message, directory)`; `Answer.body` is a message.

    `stream` "each" answers each message of a stream, "watch" answers one message now and whenever the answer changes.
    """

    answer: Callable[[bytes, directory.ModelDirectory], Answer | Pending]
    stream: Literal["", "each", "watch"] = ""


class Route(NamedTuple):
    """A method and a path, whose `{model}` and `{version}` segments become parameters, and who may ask it."""

    method: str
    path: str
    permission: Permission
    action: InferRoute | QueryRoute | RpcInfer | RpcQuery


class ServerProtocol(Protocol):
    """The plugin: one protocol. `routes` are declared once, at start; the server refuses two that are the same."""

    name: ClassVar[str]

    def routes(self) -> tuple[Route, ...]: ...

    def encode_error(self, error: errors.WindlassError, request_id: str) -> Answer:
        """The error in this protocol's own shape and status."""
        ...
