"""A listener without a socket: a fake transport, a loop whose turns and clock are told, a protocol of three routes.

Used by the unit tests of connections, exchanges and the door.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import numpy as np
import orjson
import pytest

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import door, identity, routes
from windlass.serving.door import limits as allowances
from windlass.serving.metrics import counters
from windlass.serving.transport import arrival, http1, listener
from windlass.types import contract, directory, inference, manifest, signature, spec

SIGNATURE = signature.Signature(
    (signature.TensorSpec("x", "UINT8", ("batch",)),), (signature.TensorSpec("y", "UINT8", ("batch",)),)
)


class Loop:
    """Turns and seconds are told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Nothing comes by itself: tests sweep."""

    def turn(self) -> None:
        while self.soon:
            soon, self.soon = self.soon, []
            for callback, arguments in soon:
                callback(*arguments)


class Transport:
    """What uvloop's does, as far as a connection can tell: it refuses writes after the end of writing."""

    def __init__(self, peername: object = ("192.0.2.7", 4242), agreed: str | None = "") -> None:
        """`agreed` is what ALPN gave (None: nothing); empty: there is no TLS."""
        self.written = b""
        self.peername = peername
        self.agreed = agreed
        self.protocol: Any = None
        self.closed = self.aborted = self.ended = self.paused = False
        self.unsent = 0

    def get_extra_info(self, name: str) -> Any:
        if name == "ssl_object":
            return None if self.agreed == "" else self
        return self.peername if name == "peername" else None

    def selected_alpn_protocol(self) -> str | None:
        return self.agreed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        if self.ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not self.closed:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Toy:
    """Answers with the bytes it was asked, and with what the path held."""

    name: ClassVar[str] = "toy"

    def routes(self) -> tuple[base.Route, ...]:
        return (
            base.Route("POST", "/echo/{model}", "model:predict", base.InferRoute(self._decode, self._encode)),
            base.Route("GET", "/health", "health", base.QueryRoute(self._health)),
            base.Route("POST", "/ask", "model:read", base.QueryRoute(self._ask)),
            base.Route("GET", "/ask", "model:read", base.QueryRoute(self._ask)),
            base.Route("POST", "/load/{model}", "model:load", base.QueryRoute(self._ask)),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        body = {"error": statuses.sentence(error), "code": error.code}
        return base.Answer(orjson.dumps(body), status=statuses.status(error))

    def _decode(self, head: base.Head, _parameters: Any, body: bytes, view: directory.ModelView) -> Any:
        if body == b"fault":
            raise ZeroDivisionError("inside /srv/secret.py")
        inputs = {"x": np.frombuffer(body, np.uint8)}
        timeout = float(head.query.removeprefix("timeout=")) if head.query.startswith("timeout=") else None
        return inference.InferRequest(model=view.name, inputs=inputs, rows=max(1, len(body)), timeout_s=timeout)

    def _encode(self, _head: base.Head, request: Any, response: inference.InferResponse, _view: Any) -> base.Answer:
        if response.version == "unencodable":
            raise ValueError("inside /srv/secret.py")
        return base.Answer(response.outputs["y"].tobytes(), b"application/octet-stream")

    def _health(self, _head: base.Head, _parameters: Any, _body: bytes, models: Any) -> base.Answer:
        return base.Answer(b'{"live":true}')

    def _ask(self, head: base.Head, parameters: Any, body: bytes, models: Any) -> base.Answer:
        names = [state.name for state in models.states()]
        return base.Answer(orjson.dumps({"query": head.query, "size": len(body), "models": names}))


class Directory:
    """Models whose calls are kept until a test answers them, or answered at once."""

    def __init__(self, *names: str, limits: manifest.Limits) -> None:
        self.calls: list[inference.Call] = []
        self.at_once = True
        self.views = {
            name: directory.ModelView(
                name=name,
                version="1",
                versions=("1",),
                platform="toy",
                signature=SIGNATURE,
                contract=contract.Contract(SIGNATURE, max_rows=64, max_elements=1 << 20),
                limits=limits,
                transformer=None,  # type: ignore[arg-type]
                labels=(),
                infer=self._infer,
                lease=directory.Lease(),
            )
            for name in names
        }

    def _infer(self, call: inference.Call) -> None:
        if self.at_once:
            self.answer(call)
        else:
            self.calls.append(call)

    @staticmethod
    def answer(call: inference.Call, version: str = "1") -> None:
        call.reply(inference.InferResponse({"y": call.request.inputs["x"]}, version))

    def find(self, name: str, version: str = "") -> directory.ModelView:
        if name not in self.views:
            raise errors.NotFound(f"Request for unknown model: '{name}' is not found")
        return self.views[name]

    def states(self) -> tuple[directory.ModelState, ...]:
        return tuple(directory.ModelState(name, "1", "READY") for name in sorted(self.views))


class Server:
    """One listener and its connections."""

    def __init__(
        self,
        *names: str,
        limits: spec.ServerLimits,
        model_limits: manifest.Limits,
        trusted: Any,
        allow: tuple[str, ...] = (),
    ) -> None:
        self.loop = Loop()
        self.wall = 1_700_000_000.0
        self.models = Directory(*names, limits=model_limits)
        self.counters = counters.Counters()
        self.allowances = allowances.Allowances(clock=self.loop.clock, wall=lambda: self.wall)
        self.door = door.Door(
            routes.RouteTable([Toy()]),
            self.models,  # type: ignore[arg-type]
            limits,
            hosts=("models.example",),
            trusted=trusted,
            clock=lambda: self.wall,
            allowances=self.allowances,
        )
        self.listener = listener.Listener(
            self.loop,  # type: ignore[arg-type]
            self.door,
            self.counters,
            Now(),
            clock=self.loop.clock,
            allow=allow,
        )

    def connect(self) -> tuple[http1.Connection, Transport]:
        connection, transport = http1.Connection(self.listener), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport

    def arrive(self, *arguments: Any) -> tuple[Any, Transport]:
        """A new connection of which nothing is known; arguments as for `Transport`."""
        transport = Transport(*arguments)
        transport.protocol = new = arrival.Arrival(self.listener)
        new.connection_made(transport)  # type: ignore[arg-type]
        return new, transport

    def sweep(self, seconds: float = 0.0) -> None:
        self.loop.now += seconds
        for connection in tuple(self.listener.connections):
            connection.sweep(self.loop.now)

    def ask(self, data: bytes) -> bytes:
        """All that one connection answers to these bytes."""
        connection, transport = self.connect()
        connection.data_received(data)
        self.loop.turn()
        return transport.written

    def check_settled(self) -> None:
        """Nothing is in flight, no byte is kept, and no model is held."""
        assert self.door.in_flight == 0
        assert self.door.pending_bytes == 0
        assert all(view.lease.held == 0 for view in self.models.views.values())

    def outcomes(self, name: str = "m") -> dict[str, int]:
        series = self.counters.requests_of(name, "1", "toy")
        return dict(zip(counters.OUTCOMES, series.outcomes, strict=True))


class Now(concurrent.futures.Executor):
    """Does the work at once, in this thread."""

    def submit(self, work: Any, *arguments: Any, **named: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as e:  # noqa: BLE001 - as an executor does
            future.set_exception(e)
        return future


class Response(msgspec.Struct):
    """One response of a stream."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def parse(data: bytes, *, head: bool = False) -> list[Response]:
    """The responses in a stream of bytes; fails if it is not a whole number of them."""
    found: list[Response] = []
    while data:
        block, separator, data = data.partition(b"\r\n\r\n")
        if not separator:
            raise AssertionError(f"half a response: {block!r}")
        first, *lines = block.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        status = int(first.split(b" ")[1])
        size = 0 if head or status < 200 else int(headers[b"content-length"])
        if len(data) < size:
            raise AssertionError("half a body")
        found.append(Response(status, headers, data[:size]))
        data = data[size:]
    return found


@pytest.fixture(scope="session")
def make_server() -> Callable[..., Server]:
    """A new server; `limits` and `model_limits` override the defaults."""

    def make(*names: str, **options: Any) -> Server:
        trusted = options.pop("trusted", identity.LOCAL)
        model_limits = options.pop("model_limits", manifest.Limits(max_body=1 << 20))
        allow = options.pop("allow", ())
        limits = spec.ServerLimits(**options)
        return Server(*names or ("m",), limits=limits, model_limits=model_limits, trusted=trusted, allow=allow)

    return make


@pytest.fixture(scope="session")
def parse_responses() -> Callable[..., list[Response]]:
    """The responses in a stream of bytes."""
    return parse


@pytest.fixture(scope="session")
def request_bytes() -> Callable[..., bytes]:
    """A request as bytes."""

    def write(method: str, target: str, body: bytes | None = None, *lines: str, version: str = "1.1") -> bytes:
        head = [f"{method} {target} HTTP/{version}", "Host: 127.0.0.1:8000", *lines]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (body or b"")

    return write
