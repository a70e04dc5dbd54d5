"""A server of a toy gRPC service, and calls to it on fake HTTP/2 streams.

Used by the unit tests of gRPC calls.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads, routes
from windlass.serving.transport import http2_hpack, rpc_receivers, rpc_streams
from windlass.types import inference, manifest

PATH = "/toy.Toy/"


class Toy:
    """Messages are `model:bytes`; the answer is the bytes."""

    name: ClassVar[str] = "toy"

    def __init__(self) -> None:
        self.state = b"one"
        self.finish: Any = None

    def routes(self) -> tuple[base.Route, ...]:
        infer = base.InferRoute(self._decode, lambda _h, _r, response, _v: base.Answer(response.outputs["y"].tobytes()))
        fail = lambda message, error: b"!" + message[:1] + statuses.sentence(error).encode()  # noqa: E731
        kinds = {
            "Ask": ("model:predict", base.RpcInfer(_peek, infer)),
            "Chat": ("model:predict", base.RpcInfer(_peek, infer, fail)),
            "Say": ("model:read", base.RpcQuery(lambda message, _: base.Answer(message))),
            "Later": ("model:load", base.RpcQuery(lambda _m, _d: base.Pending(self._later))),
            "Each": ("model:read", base.RpcQuery(self._each, "each")),
            "Watch": ("health", base.RpcQuery(lambda _m, _d: base.Answer(self.state), "watch")),
        }
        plain = base.Route("POST", "/plain", "model:read", base.QueryRoute(lambda *_: base.Answer(b"")))
        return (plain, *(base.Route("POST", PATH + name, *kind) for name, kind in kinds.items()))  # type: ignore[arg-type]

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        return base.Answer(b"{}", status=statuses.status(error))

    def _decode(self, _head: Any, _parameters: Any, message: bytes, view: Any) -> inference.InferRequest:
        body = message.partition(b":")[2]
        if body == b"fault":
            raise ZeroDivisionError("inside /srv/secret.py")
        if body == b"bad":
            raise errors.InvalidInput("this is bad: 100 % nö")
        return inference.InferRequest(view.name, {"x": np.frombuffer(body, np.uint8)}, max(1, len(body)))

    def _later(self, finish: base.Finish) -> None:
        self.finish = finish

    def _each(self, message: bytes, _models: Any) -> base.Answer:
        if message == b"bad":
            raise errors.InvalidInput("no")
        return base.Answer(message)


def _peek(message: bytes) -> tuple[str, str]:
    return message.partition(b":")[0].decode(), ""


class Stream:
    """What a call sends, decoded."""

    def __init__(self) -> None:
        self.peer = "192.0.2.7"
        self.timed = self.ready = True
        self.paused = self.ended = False
        self.on_ready: Any = None
        self.head: dict[bytes, bytes] = {}
        self.trailers: dict[bytes, bytes] = {}
        self.data = b""

    def send_block(self, block: bytes, end: bool = False) -> None:
        assert not self.ended
        fields = _fields(block)
        self.head = fields
        self.ended = end
        if end:
            self.trailers = fields

    def send_data(self, data: bytes) -> None:
        assert not self.ended
        assert self.head
        self.data += data

    def send_trailers(self, fields: base.Fields) -> None:
        assert not self.ended
        assert self.head
        self.trailers, self.ended = dict(fields), True

    def respond(self, head: bytes, body: bytes, trailers: bytes = b"") -> None:
        self.send_block(head)
        self.send_data(body)
        self.send_trailers(tuple(_fields(trailers).items()) if trailers else ())

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    @property
    def status(self) -> int:
        return int(self.trailers[b"grpc-status"])

    @property
    def messages(self) -> list[bytes]:
        found, data = [], self.data
        while data:
            flag, length = struct.unpack_from(">BI", data)
            message, data = data[5 : 5 + length], data[5 + length :]
            found.append(zlib.decompress(message, 47) if flag else message)
        return found


def _fields(block: bytes) -> dict[bytes, bytes]:
    return {name: value for name, value, *_ in http2_hpack.Decoder().decode(block, 1 << 16)}


class Calls:
    """A server of `Toy`, and calls to it."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.toy = Toy()
        server.door.table = routes.RouteTable([self.toy])
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        server.loop.call_later = self._call_later

    def _call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> Any:
        self.timers.append((seconds, callback, arguments))
        return self

    def cancel(self) -> None:
        """A timer of ours is never cancelled: it must do no harm when it fires late."""

    def tick(self) -> None:
        """A second passes."""
        timers, self.timers = self.timers, []
        for seconds, callback, arguments in timers:
            assert seconds == rpc_streams.TICK_S
            callback(*arguments)

    def open(self, method: str, **headers: str) -> tuple[Any, Stream]:
        stream = Stream()
        fields = {b"content-type": b"application/grpc", b"te": b"trailers", b"host": b"127.0.0.1"}
        fields |= {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        path = method if method.startswith("/") else PATH + method
        head = heads.RequestHead(b"POST", path.encode(), fields, keep_alive=True)
        receiver = rpc_receivers.receiver(self.server.listener, stream, head)  # type: ignore[arg-type]
        receiver.admit()
        return receiver, stream

    def ask(self, method: str, body: bytes, **headers: str) -> Stream:
        receiver, stream = self.open(method, **headers)
        receiver.complete(self.server.loop.now, body)
        self.server.loop.turn()
        return stream


@pytest.fixture(scope="session")
def make_calls(make_server: Callable[..., Any]) -> Callable[..., Calls]:
    """A new server; options override its limits."""

    def make(**options: Any) -> Calls:
        return Calls(make_server(model_limits=manifest.Limits(max_body=1 << 20), **{"max_body": 1 << 20, **options}))

    return make


@pytest.fixture
def calls(make_calls: Callable[..., Calls]) -> Calls:
    return make_calls()
