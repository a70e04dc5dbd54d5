"""The status that each error gets at the API, and the one body in which it is told.

Asked by the door, which is where every error ends. Must never tell a caller anything internal.
"""

from __future__ import annotations

import http

import msgspec

from windlass import errors
from windlass.protocols import errors as statuses

# As in the data plane, and for what only the control plane has.
HTTP: dict[type[errors.WindlassError], int] = {
    **statuses.HTTP,
    errors.GateRefused: 422,
    errors.CorruptPackage: 422,
}
SERVER_ERRORS = 500


class Told(msgspec.Struct, frozen=True):
    """What is said of an error: `code` is stable, `hint` says what to do next, `request_id` is in the server's log."""

    code: str
    message: str
    hint: str
    request_id: str


class Body(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Told


def status(error: errors.WindlassError) -> int:
    """The status of an error: its own, or that of its nearest ancestor in the table."""
    return next(HTTP[kind] for kind in type(error).__mro__ if kind in HTTP)


def is_internal(error: errors.WindlassError) -> bool:
    """Whether callers are told in general words only, and the log has the error's own."""
    return status(error) == SERVER_ERRORS


def body(error: errors.WindlassError, request_id: str) -> Body:
    """What a caller is told."""
    if is_internal(error):
        sentence = "The control plane failed to answer this request; its log has the details under the request id."
        return Body(Told(errors.InternalError.code, sentence, "", request_id))
    return Body(Told(error.code, error.message, error.hint, request_id))


def headers(error: errors.WindlassError) -> dict[str, str]:
    """The headers that belong to an error."""
    found = {}
    if isinstance(error, errors.Unauthenticated):
        found["www-authenticate"] = "Bearer"
    if isinstance(error, errors.Unavailable):
        found["retry-after"] = str(error.retry_after_s)
    if isinstance(error, errors.MethodNotAllowed):
        found["allow"] = ", ".join(error.allowed)
    return found


def documented() -> dict[int, str]:
    """Every status that an error can have, and its name."""
    return {number: http.HTTPStatus(number).phrase for number in sorted(set(HTTP.values()))}
