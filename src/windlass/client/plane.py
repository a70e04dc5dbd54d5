"""A control plane over HTTP: JSON in and out, its errors as our own, retries that repeat nothing.

Used by the rooms of `remote/`, one for each noun. Must never send a key in the clear beyond this machine, nor repeat a
change without the key under which the plane knows it again.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import msgspec

from windlass import errors

T = TypeVar("T")
PREFIX = "/api/v1"
# A reply that did not come is asked for again after these times, in seconds.
_AGAIN_S = (0.2, 1.0)
# What a control plane gives at once, at most.
_PAGE = 1_000
_SECONDS = re.compile(r"[0-9]{1,6}")
# More than there is of anything: a list to its end, in the largest parts.
ALL = 1 << 31
_CHUNK = 1 << 20
# An answer that is no blob. A plane that is another's must not fill this machine's memory.
_MOST = 64 << 20


class Page(msgspec.Struct, frozen=True):
    """A part of a list; `next` is where the following part begins, empty at the end."""

    items: list[msgspec.Raw]
    next: str = ""


class Plane:
    """One control plane. Threads may share it. `transport` and `sleep` are given by tests."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`NotAllowed` for a key that would travel in the clear, `UsageError` for what is no URL."""
        self.url = url.rstrip("/")
        self._sleep = sleep
        near = _check(self.url, key)
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        # A proxy of the environment has no business between a machine and itself.
        self._http = httpx.Client(
            base_url=self.url + PREFIX, headers=headers, timeout=timeout_s, transport=transport, trust_env=not near
        )

    def get(self, path: str, kind: type[T], **query: Any) -> T:
        """What lies at a path, decoded."""
        return _decoded(self._ask("GET", path, query=query), kind)

    def every(self, path: str, kind: type[T], **query: Any) -> tuple[T, ...]:
        """A list from its first part to its last; with `limit`, no more than that many."""
        found: list[T] = []
        most = query.pop("limit", None)
        while True:
            size = None if most is None else min(most - len(found), _PAGE)
            page = self.get(path, Page, **query, limit=size)
            found += [_decoded(item, kind) for item in page.items]
            if page.next and page.next == query.get("after"):
                raise errors.Unavailable(f"the list that the control plane at {self.url} gives does not go on.")
            query["after"] = page.next
            if not page.next or (most is not None and len(found) >= most):
                return tuple(found)

    def send(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Any = None,
        *,
        expected: int | None = None,
        idempotency_key: str = "",
        **query: Any,
    ) -> T:
        """Change something; `expected` is the generation that it must still have, 0 that there must be none.

        It is repeated when no reply came, under one key, so that it is done once.
        """
        headers = {"idempotency-key": idempotency_key or secrets.token_hex(16)}
        if expected == 0:
            headers["if-none-match"] = "*"
        elif expected is not None:
            headers["if-match"] = f'"{expected}"'
        content = b"" if body is None else msgspec.json.encode(body)
        return _decoded(self._ask(method, path, content=content, headers=headers, query=query), kind)

    def once(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """Change something whose answer cannot be told twice, such as a secret: never repeated."""
        content = b"" if body is None else msgspec.json.encode(body)
        return _decoded(self._ask(method, path, content=content, again=()), kind)

    def has_blob(self, digest: str) -> bool:
        """Whether the plane holds these bytes, as far as the caller may see."""
        try:
            self._ask("HEAD", _blob(digest))
        except errors.NotFound:
            return False
        return True

    def put_blob(self, digest: str, data: bytes | memoryview) -> None:
        """Give the plane bytes, which it hashes; putting them again changes nothing."""
        self._ask(
            "PUT", _blob(digest), content=data, headers={"content-type": "application/octet-stream"}, streamed=True
        )

    def blob(self, digest: str, most: int = _MOST) -> bytes:
        """Bytes as the plane gives them, at most so many: whoever asks must hash them."""
        return self._ask("GET", _blob(digest), most=most)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | memoryview = b"",
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        streamed: bool = False,
        again: tuple[float, ...] = _AGAIN_S,
        most: int = _MOST,
    ) -> bytes:
        sent = {"content-type": "application/json"} if content and not streamed else {}
        sent |= headers or {}
        if streamed:
            sent["content-length"] = str(len(content))
        parameters = {name: _text(value) for name, value in (query or {}).items() if value not in ("", None)}
        for pause in (*again, None):
            try:
                body = _chunks(content) if streamed else bytes(content)
                with self._http.stream(method, path, content=body, headers=sent, params=parameters) as answer:
                    said = _read(answer, most)
            except httpx.TransportError as e:
                if pause is None:
                    raise errors.Unavailable(
                        f"no answer from the control plane at {self.url}: {_reason(e)}.",
                        hint="Is it running? Start it: windlass up. Or leave out --server to act on this home.",
                    ) from None
                self._sleep(pause)
                continue
            if answer.is_success:
                return said
            told = _error(answer, said)
            if pause is None or not isinstance(told, errors.Unavailable):
                raise told
            self._sleep(max(pause, min(told.retry_after_s, 5.0)))
        raise errors.Unavailable(f"no answer from the control plane at {self.url}.")


def quoted(part: str) -> str:
    """A name as one part of a path."""
    return urllib.parse.quote(part, safe="")


def _check(url: str, key: str) -> bool:
    """Whether the plane is on this machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.UsageError(f"'{url[:80]}' is no control plane's URL.", hint="Write http://127.0.0.1:8080")
    if parts.username or parts.password or parts.query or parts.fragment or parts.path:
        raise errors.UsageError(
            "a control plane's URL is a scheme, a host and a port.", hint="Give the key by WINDLASS_CLIENT__KEY."
        )
    near = _loopback(parts.hostname)
    if key and parts.scheme == "http" and not near:
        raise errors.NotAllowed(
            f"the key would travel to {parts.hostname} in the clear.", hint="Use https:// for another machine."
        )
    return near


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _blob(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    return f"/blobs/{quoted(algorithm)}/{quoted(hexadecimal)}"


def _chunks(content: bytes | memoryview) -> Iterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), _CHUNK):
        yield bytes(view[start : start + _CHUNK])


def _reason(error: httpx.TransportError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _decoded(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw or b"null", type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        raise errors.Unavailable(
            f"the control plane's answer is not understood: {e}.", hint="Are both of the same version of Windlass?"
        ) from None


class _Told(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: _Told


def _read(answer: httpx.Response, most: int) -> bytes:
    """The body. It was asked for without compression: small bytes must not become large ones."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise errors.Unavailable("the control plane's answer is compressed, and was not asked to be.")
    said = bytearray()
    for part in answer.iter_bytes():
        said += part
        if len(said) > most:
            raise errors.Unavailable(f"the control plane's answer is larger than the {most} bytes that are read.")
    return bytes(said)


def _error(answer: httpx.Response, said: bytes) -> errors.WindlassError:
    """The error that an answer stands for, in the plane's words. One that leads elsewhere is not followed."""
    try:
        told = msgspec.json.decode(said, type=_Answer).error
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        told = _Told("", f"the control plane answered {answer.status_code} {answer.reason_phrase}")
    kind = _KINDS.get(told.code)
    if kind is None:
        # An answer to HEAD has no body; other answers without one come from something before the plane.
        absent = answer.status_code == httpx.codes.NOT_FOUND
        kind = errors.NotFound if absent else errors.Unavailable if answer.is_server_error else errors.WindlassError
    made = kind(told.message, hint=told.hint)
    after = answer.headers.get("retry-after", "")
    if isinstance(made, errors.Unavailable) and _SECONDS.fullmatch(after):
        made.retry_after_s = int(after)
    return made


def _kinds(kind: type[errors.WindlassError]) -> Iterator[type[errors.WindlassError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _kinds(inner)


# The kind that a code stands for is the one that gave it, none of those made from it.
_KINDS = {kind.code: kind for kind in _kinds(errors.WindlassError) if "code" in vars(kind)}
