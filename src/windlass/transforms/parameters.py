"""Reads a transform's parameters strictly: a known key, the right type, in range, or an error that names it.

Used by every transform's `load`. Must never guess: an unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from windlass import errors

T = TypeVar("T")
_UNKNOWN = re.compile(r"unknown field `(.*)`")


def decode(kind: type[T], parameters: Mapping[str, Any], *, transform: str, parts: tuple[type, ...] = ()) -> T:
    """The parameters as the struct `kind`; `parts` are the structs nested in it, whose keys may be suggested too.

    Raises `InvalidInput` on a key that is unknown (naming the nearest) or missing, a wrong type, a value out of range.
    """
    try:
        return msgspec.convert(dict(parameters), kind)
    except msgspec.ValidationError as e:
        unknown = _UNKNOWN.search(str(e))
        names = [field.encode_name for part in (kind, *parts) for field in msgspec.structs.fields(part)]
        close = difflib.get_close_matches(unknown.group(1), names, n=1, cutoff=0.4) if unknown else []
        raise errors.InvalidInput(
            f"the parameters of transform '{transform}' are wrong: {e}.",
            hint=f"Did you mean '{close[0]}'?" if close else f"Known parameters: {', '.join(names)}.",
        ) from None


def require_files(files: Mapping[str, bytes], expected: tuple[str, ...], *, transform: str) -> None:
    """`InvalidInput` unless the files are exactly the `expected` ones."""
    if set(files) != set(expected):
        wanted = ", ".join(f"'{name}'" for name in expected) or "no file"
        found = ", ".join(f"'{name}'" for name in sorted(files)) or "none"
        raise errors.InvalidInput(f"transform '{transform}' takes {wanted}: it was given {found}")
