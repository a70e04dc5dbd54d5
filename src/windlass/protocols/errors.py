"""The status that each error gets on the wire: the one table of the data plane.

Used by every protocol's `encode_error` and by the server for errors before a route is known.
Must never grow a special case: an error that needs another status is another error.
"""

from __future__ import annotations

from windlass import errors

OK = 200
NOT_READY = 503

HTTP: dict[type[errors.WindlassError], int] = {
    errors.InvalidInput: 400,
    errors.SlowRequest: 408,
    errors.PayloadTooLarge: 413,
    errors.HeadersTooLarge: 431,
    errors.UnsupportedMedia: 415,
    errors.Misdirected: 421,
    errors.MethodNotAllowed: 405,
    errors.NotFound: 404,
    errors.Unauthenticated: 401,
    errors.NotAllowed: 403,
    errors.Conflict: 409,
    errors.Unavailable: 503,
    errors.Unsupported: 501,
    errors.WindlassError: 500,
}

REASONS: dict[int, bytes] = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}


def status(error: errors.WindlassError) -> int:
    """The HTTP status of an error: its own, or that of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        if kind in HTTP:
            return HTTP[kind]
    return HTTP[errors.WindlassError]


def is_internal(error: errors.WindlassError) -> bool:
    """Whether callers are told of this error in general words only, and the log has its own."""
    return status(error) == HTTP[errors.WindlassError]


def sentence(error: errors.WindlassError) -> str:
    """What a caller is told: nothing internal. An error without a status of its own gives only a general sentence."""
    if is_internal(error):
        return "the server failed to answer this request; its log has the details under the request id"
    return str(error)
