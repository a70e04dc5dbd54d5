"""Routes: what each declares, what a call holds, and how a call is read and answered.

Each noun's file makes its routes of this; `app.py` joins them. Must never let a route exist that declares no
permission, nor hand on a body or a query that was not read strictly.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from starlette import concurrency, requests, responses

from windlass import errors
from windlass.api import access
from windlass.api import plane as planes
from windlass.types import refs, strict_json

PREFIX = "/api/v1"
MAX_BODY = 1 << 20
MAX_LIMIT = 1000
# How often a page is filled up before it is given as it is.
_READS = 20
T = TypeVar("T")
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
Reason = Annotated[str, msgspec.Meta(max_length=2000)]
# What a part of a path may be; names get their own rule, which says what is wrong with them.
PARTS: dict[str, re.Pattern[str]] = {
    "name": refs.NAME,
    "alias": refs.ALIAS,
    "version": re.compile(r"[1-9][0-9]{0,8}"),
    "id": re.compile(r"[1-9][0-9]{0,17}"),
    "key": re.compile(r"[0-9a-z]{12}"),
    "digest": refs.DIGEST,
    "hex": re.compile(r"[0-9a-f]{64}"),
}
_GENERATION = re.compile(r'(?:W/)?"?([0-9]{1,18})"?')
# What only some databases can hold: a text with NUL, a number beyond 64 bits. Looked for before it is searched for.
_SUSPECT = re.compile(rb"\\u0000|[0-9]{19}")
_LARGEST = (1 << 63) - 1
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")
_JSON = "application/json"


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list; `next` is what to ask for as `after`, empty at the end."""

    items: tuple[T, ...]
    next: str = ""


def page(
    read: Callable[[T | None], Sequence[T]],
    seen: Callable[[T], bool],
    place: Callable[[T], str],
    limit: int,
    *,
    size: int = 0,
    hides: bool = False,
) -> Page[T]:
    """A page of what the caller may see. `read` gives at most `size` rows (0: `limit`), those behind a row (None: all).

    Among very many hidden rows it ends early, and `next` goes on from there: an empty page need not be the last. Not so
    where a place `hides`, because it is a name.
    """
    found: list[T] = []
    last: T | None = None
    for _ in itertools.count() if hides else range(_READS):
        rows = read(last)
        for row in rows:
            last = row
            if seen(row):
                found.append(row)
                if len(found) == limit:
                    return Page(tuple(found), place(row))
        if len(rows) < (size or limit):
            return Page(tuple(found))
    return Page(tuple(found), "" if last is None else place(last))


class Tagged(msgspec.Struct, frozen=True):
    """An answer and its generation, which goes out as its ETag."""

    value: Any
    generation: int


class Call(msgspec.Struct, frozen=True):
    """One request that may run: who asks, the parts of its path, its query and body, decoded.

    `expected` is the generation of If-Match (None: none was given; 0, by `If-None-Match: *`: it must not exist).
    `idempotency_key` is the caller's own: another caller's same text is another key. `after` is Last-Event-ID.
    """

    caller: access.Caller
    path: Mapping[str, str]
    query: Any = None
    body: Any = None
    expected: int | None = None
    idempotency_key: str = ""
    last_event: str = ""


Run: TypeAlias = Callable[..., Any]


class Route(msgspec.Struct, frozen=True):
    """One route. `run(plane, call)` is called in a thread; an `async` one, `run(plane, call, request)`, on the loop.

    `body`, `query` and `answer` are the types that are read and written (None: nothing; `bytes`: bytes as they are).
    """

    method: str
    path: str
    permission: access.Permission
    run: Run
    answer: Any = None
    body: Any = None
    query: Any = None
    status: int = 200
    tagged: bool = False
    max_body: int = MAX_BODY
    media: str = _JSON

    @property
    def name(self) -> str:
        """What the route is called in the document: the noun's file and the function."""
        return f"{self.run.__module__.rpartition('.')[2]}_{self.run.__name__}"

    @property
    def full_path(self) -> str:
        """Its path from the root."""
        return self.path if self.permission == access.OPEN else PREFIX + self.path


def endpoint(route: Route, plane: planes.Plane) -> Callable[[requests.Request], Any]:
    """What the framework calls for a route; `declared` is how the door finds what the route asks."""

    async def run(request: requests.Request) -> responses.Response:
        call = await _read(route, request)
        if inspect.iscoroutinefunction(route.run):
            answer = await route.run(plane, call, request)
        else:
            answer = await concurrency.run_in_threadpool(route.run, plane, call)
        return answer if isinstance(answer, responses.Response) else _written(route, answer)

    run.declared = route  # type: ignore[attr-defined]
    return run


def declared_by(one: object) -> Route | None:
    """What a route of an application declares; None if it declares nothing."""
    declared = getattr(getattr(one, "endpoint", None), "declared", None)
    return declared if isinstance(declared, Route) else None


def check_parts(parts: Mapping[str, str]) -> None:
    """`InvalidInput` if a part of a path is not what its name says."""
    for part, text in parts.items():
        if part == "name":
            refs.check_name(text)
        elif part == "alias":
            refs.check_alias(text)
        elif PARTS[part].fullmatch(text) is None:
            raise errors.InvalidInput(f"'{_plain(text)}' is no {part}.", hint=f"It is {PARTS[part].pattern}")


def mismatch(part: str, said: str, path: str) -> errors.InvalidInput:
    """The error for a body that names something else than the path."""
    return errors.InvalidInput(f"the body's {part} is '{_plain(said)}', and the path's is '{_plain(path)}'.")


async def _read(route: Route, request: requests.Request) -> Call:
    headers = request.headers
    caller = request.scope["caller"]
    key = headers.get("idempotency-key", "")
    if key and _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise errors.InvalidInput("an idempotency key has 1 to 128 visible characters of ASCII.")
    return Call(
        caller=caller,
        path=request.path_params,
        query=_query(route.query, request.query_params.multi_items()),
        body=await _body(route, request),
        expected=_expected(headers.get("if-match"), headers.get("if-none-match")),
        idempotency_key=f"{caller.id}:{key}" if key else "",
        last_event=headers.get("last-event-id", ""),
    )


async def _body(route: Route, request: requests.Request) -> Any:
    """The decoded body; a route that takes bytes reads them itself."""
    if route.body is bytes:
        return None
    data = await request.body()
    if route.body is None:
        if data:
            raise errors.InvalidInput("this route takes no body.")
        return None
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if data and media != _JSON:
        raise errors.UnsupportedMedia("the body is not sent as application/json.", hint="Set Content-Type.")
    value = strict_json.loads(data or b"{}", what="the body", max_bytes=route.max_body)
    if _SUSPECT.search(data):
        _check_kept(value, "the body")
    if isinstance(value, dict) and hasattr(route.body, "__struct_fields__"):
        _check_known(value, route.body.__struct_encode_fields__, "the body has no field")
    return strict_json.convert(value, route.body, what="the body")


def _query(kind: Any, pairs: list[tuple[str, str]]) -> Any:
    given = dict(pairs)
    if len(given) != len(pairs):
        raise errors.InvalidInput("a parameter of the query is given twice.")
    _check_known(given, () if kind is None else kind.__struct_encode_fields__, "this route has no parameter")
    if kind is None:
        return None
    try:
        found = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as e:
        raise errors.InvalidInput(f"the query is not as expected: {_plain(str(e))}") from None
    for name in kind.__struct_fields__:
        _check_kept(getattr(found, name), f"the parameter '{name}'")
    return found


def _check_kept(value: Any, what: str) -> None:
    """`InvalidInput` for what not every database can hold, however deep."""
    if isinstance(value, str) and "\0" in value:
        raise errors.InvalidInput(f"{what} holds a character of no text.")
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise errors.InvalidInput(f"{what} holds a number beyond 64 bits.")
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.InvalidInput(f"{what} holds no finite number.")
    if isinstance(value, dict):
        for name, one in value.items():
            _check_kept(name, what)
            _check_kept(one, what)
    elif isinstance(value, list):
        for one in value:
            _check_kept(one, what)


def _check_known(given: Mapping[str, Any], known: tuple[str, ...], lead: str) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known) or 'none'}."
            raise errors.InvalidInput(f"{lead} '{_plain(name)}'.", hint=hint)


def _expected(match: str | None, none_match: str | None) -> int | None:
    if none_match is not None:
        if none_match.strip() != "*" or match is not None:
            raise errors.InvalidInput("If-None-Match is '*' here, alone: what must not exist yet.")
        return 0
    if match is None:
        return None
    found = _GENERATION.fullmatch(match.strip())
    if found is None:
        raise errors.InvalidInput("If-Match is no ETag of this API.", hint='Send the ETag that you were given: "3".')
    return int(found[1])


def _written(route: Route, answer: Any) -> responses.Response:
    headers = {"cache-control": "no-store"}
    if isinstance(answer, Tagged):
        headers["etag"] = f'"{answer.generation}"'
        answer = answer.value
    return responses.Response(msgspec.json.encode(answer), route.status, headers, media_type=_JSON)


def _plain(text: str) -> str:
    """A text of the caller's, so that it can be shown anywhere."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:200]
