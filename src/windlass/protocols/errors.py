"""The status that each error gets on the wire, over HTTP and over gRPC: the one place of them in the data plane.

Used by every protocol's `encode_error` and by the server for errors before a route is known.
Must never grow a special case: an error that needs another status is another error.
"""

from __future__ import annotations

from windlass import errors

OK = 200
NOT_READY = 503
# What servers of any make say when they cannot answer now, and when the answer comes too late.
NOT_NOW = frozenset({429, NOT_READY})
TOO_LATE = 504

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
    errors.RateLimited: 429,
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
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}

GRPC_OK = 0
GRPC: dict[type[errors.WindlassError], int] = {
    errors.Cancelled: 1,
    errors.InvalidInput: 3,
    errors.DeadlineExceeded: 4,
    errors.SlowRequest: 4,
    errors.NotFound: 5,
    errors.NotAllowed: 7,
    errors.Overloaded: 8,
    errors.RateLimited: 8,
    errors.PayloadTooLarge: 8,
    errors.HeadersTooLarge: 8,
    errors.Conflict: 10,
    errors.Unsupported: 12,
    errors.MethodNotAllowed: 12,
    errors.WindlassError: 13,
    errors.Unavailable: 14,
    errors.Unauthenticated: 16,
}


def status(error: errors.WindlassError) -> int:
    """The HTTP status of an error: its own, or that of its nearest ancestor in the table."""
    return _nearest(HTTP, error)


def grpc_status(error: errors.WindlassError) -> int:
    """The gRPC status of an error: its own, or that of its nearest ancestor in the table."""
    return _nearest(GRPC, error)


def _nearest(table: dict[type[errors.WindlassError], int], error: errors.WindlassError) -> int:
    for kind in type(error).__mro__:
        if kind in table:
            return table[kind]
    return table[errors.WindlassError]


def is_internal(error: errors.WindlassError) -> bool:
    """Whether callers are told of this error in general words only, and the log has its own."""
    return status(error) == HTTP[errors.WindlassError]


def sentence(error: errors.WindlassError) -> str:
    """What a caller is told: nothing internal. An error without a status of its own gives only a general sentence."""
    if is_internal(error):
        return "the server failed to answer this request; its log has the details under the request id"
    return str(error)
