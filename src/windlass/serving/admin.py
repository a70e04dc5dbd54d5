"""What the operator may ask: metrics and status on the admin port, and new specs over the control socket.

Two small protocols like any other, on listeners of their own, in the supervisor. Must never be mounted on the port
that callers use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

import orjson

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.metrics import exposition as metrics
from windlass.types import directory, spec, strict_json

Directory = directory.ModelDirectory


class Server(Protocol):
    """What is operated: a fleet of workers."""

    def ready(self) -> bool:
        """Whether callers are answered."""
        ...

    def current(self) -> spec.Spec:
        """The spec in force."""
        ...

    async def status(self) -> dict[str, Any]: ...

    async def metrics(self) -> bytes:
        """The exposition of all metrics."""
        ...

    def outcomes(self) -> dict[str, Any]:
        """What came of requests, by endpoint and arm."""
        ...

    async def apply(self, wanted: spec.Spec) -> tuple[str, ...]:
        """Put a spec in force; the names of workers that had to be replaced for it."""
        ...

    async def restart(self) -> None:
        """Replace every worker, and lose nothing."""
        ...


class Admin:
    """Metrics, health and status. Reads only."""

    name: ClassVar[str] = "admin"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> tuple[base.Route, ...]:
        """The admin port's routes."""
        return (
            base.Route("GET", "/metrics", "model:read", base.QueryRoute(self._metrics)),
            base.Route("GET", "/health", "health", base.QueryRoute(self._health)),
            base.Route("GET", "/outcomes", "model:read", base.QueryRoute(self._outcomes)),
            base.Route("GET", "/status", "model:read", base.QueryRoute(self._status)),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """The error as `{"error": {code, message, request_id}}`."""
        body = {"error": {"code": error.code, "message": statuses.sentence(error), "request_id": request_id}}
        return base.Answer(orjson.dumps(body), status=statuses.status(error))

    def _metrics(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Pending:
        del head, parameters, body, models

        async def written() -> base.Answer:
            return base.Answer(await self._server.metrics(), metrics.CONTENT_TYPE)

        return self._pending(written)

    def _outcomes(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        return base.Answer(orjson.dumps(self._server.outcomes()))

    def _health(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        ready = self._server.ready()
        return base.Answer(orjson.dumps({"ready": ready}), status=statuses.OK if ready else statuses.NOT_READY)

    def _status(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Pending:
        del head, parameters, body, models

        async def told() -> base.Answer:
            return base.Answer(orjson.dumps(await self._server.status()))

        return self._pending(told)

    def _pending(self, work: Callable[[], Awaitable[base.Answer]]) -> base.Pending:
        """The answer of work that goes on beside the connection."""

        async def finished(finish: base.Finish) -> None:
            try:
                answer = await work()
            except errors.WindlassError as e:
                finish(e)
            except Exception as e:  # noqa: BLE001 - whatever it was, the operator is answered
                finish(errors.InternalError(f"this could not be done: {e}"))
            else:
                finish(answer)

        def start(finish: base.Finish) -> None:
            task = asyncio.get_running_loop().create_task(finished(finish))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return base.Pending(start)


class Control(Admin):
    """The control socket: the admin's questions, and the spec. Whoever can open the socket is the operator."""

    name: ClassVar[str] = "control"

    def routes(self) -> tuple[base.Route, ...]:
        """The control socket's routes."""
        return (
            *super().routes(),
            base.Route("GET", "/spec", "admin", base.QueryRoute(self._get_spec)),
            base.Route("PUT", "/spec", "admin", base.QueryRoute(self._put_spec)),
            base.Route("POST", "/restart", "admin", base.QueryRoute(self._restart)),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """As the admin port's, but in the error's own words: the operator is told why a spec is refused."""
        body = {"error": {"code": error.code, "message": str(error), "request_id": request_id}}
        return base.Answer(orjson.dumps(body), status=statuses.status(error))

    def _get_spec(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        return base.Answer(strict_json.canonical(self._server.current()))

    def _put_spec(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Pending:
        del head, parameters, models
        wanted = strict_json.decode(body, spec.Spec, what="the spec")

        async def applied() -> base.Answer:
            replaced = await self._server.apply(wanted)
            told = {"generation": wanted.generation, "in_force": True, "replaced": replaced}
            return base.Answer(orjson.dumps(told))

        return self._pending(applied)

    def _restart(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Pending:
        del head, parameters, body, models

        async def restarted() -> base.Answer:
            await self._server.restart()
            return base.Answer(orjson.dumps({"restarted": True}))

        return self._pending(restarted)


class NoModels:
    """The directory of a port on which no model is asked: there is none."""

    def find(self, name: str, version: str = "") -> directory.ModelView:
        """`NotFound`, always."""
        raise errors.NotFound(f"no model is served here: '{name[:128]}' {version[:16]}".rstrip())

    def states(self) -> tuple[directory.ModelState, ...]:
        """None."""
        return ()

    def live(self) -> bool:
        """True."""
        return True

    def ready(self) -> bool:
        """True: there is nothing to wait for."""
        return True

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:  # noqa: ARG002
        """None."""
        return ()

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """`NotFound`, always."""
        self.find(name, version)
        return {}

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Refused."""
        done(errors.NotFound(f"no model is loaded here: '{name[:128]}'"))

    unload = load
