"""The one tree of errors: every failure a user can meet, with a stable code and a sentence.

Raised everywhere; turned into an exit code by the CLI and into a status by the tables in `protocols/errors.py`.
Must never carry anything internal (a path of the server, a stack, an address) in `message`: callers are sent it.

    WindlassError
    ├── InvalidInput            the caller's data is wrong
    │   ├── PayloadTooLarge · HeadersTooLarge · UnsupportedMedia · SlowRequest · MethodNotAllowed · Misdirected
    │   └── UsageError          a setting, option or reference is wrong
    ├── NotFound
    ├── NotAllowed              ├── Unauthenticated
    ├── Conflict
    ├── GateRefused             a check (parity, policy, accuracy) said no
    │   └── CaptureFailed       a model that cannot be exported
    ├── CorruptPackage          bytes are not what their digest says, or the archive breaks a rule
    ├── Unsupported             known, but not done here
    ├── Unavailable             try again later
    │   ├── Overloaded · RateLimited · DeadlineExceeded · StoreReadOnly
    ├── Cancelled               the caller left
    └── InternalError           a fault of ours or of the model's run
"""

from __future__ import annotations


class WindlassError(Exception):
    """An error for a person: `message` says what and why, `hint` says what to do next.

    `code` is stable and part of the public interface; `exit_code` is what the CLI exits with.
    """

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        stop = "" if self.message.endswith((".", "?", "!", ":")) else "."
        return f"{self.message}{stop} {self.hint}" if self.hint else self.message


class InvalidInput(WindlassError):
    """The caller's data breaks the contract: a name, a datatype, a shape, a range, malformed bytes."""

    code = "invalid_input"
    exit_code = 2


class PayloadTooLarge(InvalidInput):
    """The body is larger than this endpoint accepts."""

    code = "payload_too_large"


class HeadersTooLarge(InvalidInput):
    """The request line or the headers are larger than the server accepts."""

    code = "headers_too_large"


class UnsupportedMedia(InvalidInput):
    """The media type or encoding of the body is not one that this route reads."""

    code = "unsupported_media_type"


class SlowRequest(InvalidInput):
    """The headers or the body did not arrive in time."""

    code = "request_timeout"


class MethodNotAllowed(InvalidInput):
    """The path exists, the method does not; those in `allowed` do."""

    code = "method_not_allowed"

    def __init__(self, message: str, *, hint: str = "", allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.allowed = allowed


class Misdirected(InvalidInput):
    """The Host header names a host that this server does not answer for."""

    code = "misdirected"


class UsageError(InvalidInput):
    """A setting, an option or a reference is wrong."""

    code = "usage"


class NotFound(WindlassError):
    """No such model, version, alias, route or file; or the caller may not see it."""

    code = "not_found"
    exit_code = 3


class NotAllowed(WindlassError):
    """The caller is known and lacks the permission; or the operation is unsafe and was not asked for."""

    code = "not_allowed"
    exit_code = 7


class Unauthenticated(NotAllowed):
    """The caller is not known."""

    code = "unauthenticated"


class Conflict(WindlassError):
    """Somebody else changed it first, or the name is taken."""

    code = "conflict"
    exit_code = 5


class GateRefused(WindlassError):
    """A check said no: parity, golden outputs, accuracy, policy. Nothing was registered."""

    code = "gate_refused"
    exit_code = 4


class CaptureFailed(GateRefused):
    """The model could not be exported."""

    code = "capture_failed"


class CorruptPackage(WindlassError):
    """The bytes are not what their digest says, or the archive breaks a rule."""

    code = "corrupt_package"


class Unsupported(WindlassError):
    """Understood, but this server, machine or format does not do it."""

    code = "unsupported"


class Unavailable(WindlassError):
    """Not now: loading, draining, or a store that does not answer."""

    code = "unavailable"
    exit_code = 6

    def __init__(self, message: str, *, hint: str = "", retry_after_s: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """The queue is full; the request never reached the model."""

    code = "overloaded"


class RateLimited(Unavailable):
    """The key's rate, concurrency or daily quota is used up; the request never reached the model."""

    code = "rate_limited"


class DeadlineExceeded(Unavailable):
    """The deadline passed before there was an answer."""

    code = "deadline_exceeded"


class StoreReadOnly(Unavailable):
    """A write could not be made durable; the store takes no more writes until it is restarted."""

    code = "store_read_only"


class Cancelled(WindlassError):
    """The caller left, or whoever called cancelled."""

    code = "cancelled"
    exit_code = 130


class InternalError(WindlassError):
    """A fault of ours, or of the model's run; the details are in the log under the request id."""

    code = "internal"
