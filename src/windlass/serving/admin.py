"""What the operator may ask: metrics and status on the admin port, and new specs over the control socket.

Two small protocols like any other, on listeners of their own. Must never be mounted on the port that callers use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import orjson

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving import metrics, pool
from windlass.types import directory, spec, strict_json

Directory = directory.ModelDirectory


class Admin:
    """Metrics, health and status. Reads only."""

    name: ClassVar[str] = "admin"

    def __init__(self, models: pool.Pool, exporter: metrics.Exporter, about: Callable[[], dict[str, Any]]) -> None:
        """`about` says where this server listens and since when."""
        self._models = models
        self._exporter = exporter
        self._about = about

    def routes(self) -> tuple[base.Route, ...]:
        """The admin port's routes."""
        return (
            base.Route("GET", "/metrics", "model:read", base.QueryRoute(self._metrics)),
            base.Route("GET", "/health", "health", base.QueryRoute(self._health)),
            base.Route("GET", "/status", "model:read", base.QueryRoute(self._status)),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """The error as `{"error": {code, message, request_id}}`."""
        body = {"error": {"code": error.code, "message": statuses.sentence(error), "request_id": request_id}}
        return base.Answer(orjson.dumps(body), status=statuses.status(error))

    def _metrics(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        return base.Answer(self._exporter.text(), metrics.CONTENT_TYPE)

    def _health(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body
        ready = models.ready()
        return base.Answer(orjson.dumps({"ready": ready}), status=statuses.OK if ready else statuses.NOT_READY)

    def _status(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        pool_ = self._models
        found = {
            **self._about(),
            "generation": pool_.generation,
            "ready": pool_.ready(),
            "models": [
                {"name": s.name, "version": s.version, "state": s.state, "reason": s.reason}
                | (pool_.config(s.name) if s.state == "READY" else {})
                for s in pool_.states()
            ],
        }
        return base.Answer(orjson.dumps(found))


class Control(Admin):
    """The control socket: the admin's questions, and the spec. Whoever can open the socket is the operator."""

    name: ClassVar[str] = "control"

    def __init__(
        self,
        models: pool.Pool,
        exporter: metrics.Exporter,
        about: Callable[[], dict[str, Any]],
        apply: Callable[[spec.Spec], Coroutine[Any, Any, None]],
        current: Callable[[], spec.Spec],
    ) -> None:
        """`apply(spec)` returns when the spec is in force, or raises; `current` is the one in force."""
        super().__init__(models, exporter, about)
        self._apply = apply
        self._current = current
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> tuple[base.Route, ...]:
        """The control socket's routes."""
        return (
            *super().routes(),
            base.Route("GET", "/spec", "admin", base.QueryRoute(self._get_spec)),
            base.Route("PUT", "/spec", "admin", base.QueryRoute(self._put_spec)),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """As the admin port's, but in the error's own words: the operator is told why a spec is refused."""
        body = {"error": {"code": error.code, "message": str(error), "request_id": request_id}}
        return base.Answer(orjson.dumps(body), status=statuses.status(error))

    def _get_spec(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Answer:
        del head, parameters, body, models
        return base.Answer(strict_json.canonical(self._current()))

    def _put_spec(self, head: base.Head, parameters: base.Parameters, body: bytes, models: Directory) -> base.Pending:
        del head, parameters, models
        wanted = strict_json.decode(body, spec.Spec, what="the spec")

        def start(finish: base.Finish) -> None:
            task = asyncio.get_running_loop().create_task(self._apply(wanted))
            self._tasks.add(task)
            task.add_done_callback(lambda t: self._applied(t, wanted, finish))

        return base.Pending(start)

    def _applied(self, task: asyncio.Task[None], wanted: spec.Spec, finish: base.Finish) -> None:
        self._tasks.discard(task)
        error = task.exception()
        if error is None:
            finish(base.Answer(orjson.dumps({"generation": wanted.generation, "in_force": True})))
        elif isinstance(error, errors.WindlassError):
            finish(error)
        else:
            finish(errors.InternalError(f"the spec could not be applied: {error}"))
