"""JSON read strictly: no duplicate key, no NaN, bounded size and depth.

For manifests, specs, signatures and files that people write; the hot path has its own typed decoders.
Must never repair: what is ambiguous is an error.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

import msgspec

from windlass import errors

MAX_DEPTH = 32
T = TypeVar("T")


def depth_within(data: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest no deeper than `limit`; runs before any parser sees the bytes."""
    depth = 0
    inside = False
    escaped = False
    for byte in data:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            if depth > limit:
                return False
        elif byte in b"]}":
            depth -= 1
    return True


def loads(data: bytes, *, what: str, max_bytes: int = 4_194_304, max_depth: int = MAX_DEPTH) -> Any:
    """Parse UTF-8 JSON; `InvalidInput` (naming `what`) on anything but one plain, unambiguous document."""
    if len(data) > max_bytes:
        raise errors.InvalidInput(f"{what} has {len(data)} bytes: at most {max_bytes} are read")
    if not depth_within(data, max_depth):
        raise errors.InvalidInput(f"{what} nests deeper than {max_depth} levels")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise errors.InvalidInput(f"{what} is not UTF-8") from None
    except ValueError as e:
        raise errors.InvalidInput(f"{what} is not valid JSON: {e}") from None


def decode(data: bytes, kind: type[T], *, what: str, max_bytes: int = 4_194_304) -> T:
    """Parse strictly, then convert to a struct; an unknown field, a missing one or a wrong type is `InvalidInput`."""
    try:
        return msgspec.convert(loads(data, what=what, max_bytes=max_bytes), kind)
    except msgspec.ValidationError as e:
        raise errors.InvalidInput(f"{what} is not as expected: {e}") from None


def canonical(value: Any) -> bytes:
    """The one spelling of a value: sorted keys, no spaces, UTF-8, defaults left out where the struct says so."""
    plain = msgspec.to_builtins(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
