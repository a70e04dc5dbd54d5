"""The standard gRPC health service, which load balancers and orchestrators ask.

Found through the catalogue. The server (service name empty) and each gRPC service are healthy when every model can
answer. Needs no key, so it must never tell anything about single models.
"""

from __future__ import annotations

from typing import ClassVar

from windlass import errors
from windlass.protocols import answers, base
from windlass.protocols import errors as statuses
from windlass.protocols.pb import messages
from windlass.types import directory

_CHECK = messages.message_class(f"{messages.HEALTH_PACKAGE}.HealthCheckRequest")
_STATUS = messages.message_class(f"{messages.HEALTH_PACKAGE}.HealthCheckResponse")
_LIST = messages.message_class(f"{messages.HEALTH_PACKAGE}.HealthListResponse")
_SERVICES = ("", messages.INFERENCE, messages.HEALTH)


class Health:
    """The plugin."""

    name: ClassVar[str] = "grpc_health"

    def routes(self) -> tuple[base.Route, ...]:
        return (
            base.Route("POST", f"/{messages.HEALTH}/Check", "health", base.RpcQuery(check)),
            base.Route("POST", f"/{messages.HEALTH}/List", "health", base.RpcQuery(list_all)),
            base.Route("POST", f"/{messages.HEALTH}/Watch", "health", base.RpcQuery(watch, "watch")),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        """For callers that do not speak gRPC: `{"error": sentence}`."""
        del request_id
        return answers.document({"error": statuses.sentence(error)}, statuses.status(error))


def check(message: bytes, models: directory.ModelDirectory) -> base.Answer:
    """A service's status now; `NotFound` if there is no such service."""
    service = messages.parse(_CHECK, message).service
    if service not in _SERVICES:
        raise errors.NotFound(f"there is no gRPC service '{service[:64]}' here")
    return base.Answer(messages.filled(_STATUS, {"status": _status(models)}))


def list_all(_message: bytes, models: directory.ModelDirectory) -> base.Answer:
    """The status of every service."""
    status = {"status": _status(models)}
    return base.Answer(messages.filled(_LIST, {"statuses": dict.fromkeys(_SERVICES, status)}))


def watch(message: bytes, models: directory.ModelDirectory) -> base.Answer:
    """A service's status now. One that there is not may come yet: that is an answer, not an error."""
    service = messages.parse(_CHECK, message).service
    status = _status(models) if service in _SERVICES else "SERVICE_UNKNOWN"
    return base.Answer(messages.filled(_STATUS, {"status": status}))


def _status(models: directory.ModelDirectory) -> str:
    return "SERVING" if models.ready() else "NOT_SERVING"
