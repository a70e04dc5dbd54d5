"""JSON read strictly: no duplicate key, no NaN, bounded size and depth.

For manifests, specs, signatures and files that people write; the hot path has its own typed decoders.
Must never repair: what is ambiguous is an error.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from typing import Any, NoReturn, TypeVar

import msgspec

from windlass import errors

MAX_DEPTH = 32
# A string, or what begins as one and never ends. Possessive, so that no input makes it try twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
T = TypeVar("T")


def depth_within(data: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest no deeper than `limit`; runs before any parser sees the bytes."""
    brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) <= limit


def loads(data: bytes, *, what: str, max_bytes: int = 4_194_304, max_depth: int = MAX_DEPTH) -> Any:
    """Parse UTF-8 JSON; `InvalidInput` (naming `what`) on anything but one plain, unambiguous document."""
    if len(data) > max_bytes:
        raise errors.InvalidInput(f"{what} has {len(data)} bytes: at most {max_bytes} are read")
    if not depth_within(data, max_depth):
        raise errors.InvalidInput(f"{what} nests deeper than {max_depth} levels")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        if _SURROGATE.search(data):
            # Half of a surrogate pair is no character: such a text could not be written again.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError:
        raise errors.InvalidInput(f"{what} is not UTF-8") from None
    except ValueError as e:
        raise errors.InvalidInput(f"{what} is not valid JSON: {e}") from None


def decode(data: bytes, kind: type[T], *, what: str, max_bytes: int = 4_194_304) -> T:
    """Parse strictly, then convert to a struct; an unknown field, a missing one or a wrong type is `InvalidInput`."""
    return convert(loads(data, what=what, max_bytes=max_bytes), kind, what=what)


def convert(value: Any, kind: type[T], *, what: str) -> T:
    """What `loads` gave, as a struct; an unknown field, a missing one or a wrong type is `InvalidInput`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        # The message holds names from the document: escaped, for they may end up on a terminal.
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(e))
        raise errors.InvalidInput(f"{what} is not as expected: {text[:300]}") from None


def canonical(value: Any) -> bytes:
    """The one spelling of a value: sorted keys, no spaces, UTF-8, defaults left out where the struct says so.

    `InvalidInput` if it holds NaN, an infinity, or a text that is not Unicode.
    """
    try:
        return json.dumps(
            plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except UnicodeError:
        raise errors.InvalidInput("a text holds half a surrogate pair, which no encoding can write") from None
    except ValueError as e:
        raise errors.InvalidInput(f"a value cannot be written as JSON: {e}") from None


def plain(value: Any) -> Any:
    """A value as what JSON has, without the fields that equal their default where the struct says so.

    msgspec leaves out only a default that is the very same object: equal structs could then be spelled differently.
    """
    if isinstance(value, msgspec.Struct):
        named = [(field, getattr(value, field.name)) for field in _fields(type(value))]
        omit = value.__struct_config__.omit_defaults
        return {f.encode_name: plain(item) for f, item in named if not (omit and _is_default(f, item))}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return msgspec.to_builtins(value)


# The fields of a type, looked up once: msgspec reads its annotations anew each time.
_fields = functools.cache(msgspec.structs.fields)


def _is_default(field: msgspec.structs.FieldInfo, item: Any) -> bool:
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return type(item) is type(default) and bool(item == default)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:32]} is larger than any number here")
    return value
