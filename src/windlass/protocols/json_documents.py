"""JSON bodies read once, strictly: typed, without repeated keys, with sentences a caller can act on.

Called by the protocols for their request documents; tensors inside stay raw for `json_tensors`.
Must never nest deeper than the types given: depth is bounded by them, and unknown fields are errors.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from windlass import errors
from windlass.protocols import json_tensors

T = TypeVar("T")
_SHORT = 2048


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The document, or `InvalidInput` with the place and the reason."""
    try:
        return decoder.decode(body)
    except json_tensors.MALFORMED as e:
        raise refused(body, e) from None


def refused(body: bytes, error: Exception) -> errors.InvalidInput:
    """The sentence for a document that could not be read."""
    if isinstance(error, RecursionError):
        return errors.InvalidInput("the request nests too deep")
    if isinstance(error, UnicodeDecodeError):
        return errors.InvalidInput("the request is not UTF-8")
    if not body:
        return errors.InvalidInput("the request has no body: a JSON document is expected")
    return errors.InvalidInput(f"the request is not as expected: {str(error)[:512]}")


def colons(body: bytes) -> int:
    """How many colons the document has: its keys, and those inside strings."""
    if len(body) < _SHORT:
        return body.count(b":")
    # For long bodies with few colons `find`, which uses memchr, is many times faster than `count`.
    found = 0
    position = body.find(b":")
    while position >= 0:
        found += 1
        if found == 1024:
            return body.count(b":")
        position = body.find(b":", position + 1)
    return found


def refuse_repeated(body: bytes, keys: int) -> None:
    """`InvalidInput` if any object in the document has a key twice: which one counts is not ours to guess.

    `keys` is how many were read. Every key has its colon, so that a document with no more colons has no key twice;
    only where there are more (in strings, usually) is it read again, slowly.
    """
    if colons(body) == keys:
        return
    try:
        json.loads(body, object_pairs_hook=_unique)
    except RecursionError:
        raise errors.InvalidInput("the request nests too deep") from None
    except ValueError as e:
        raise errors.InvalidInput(f"the request is not valid JSON: {e}") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise errors.InvalidInput(f"the request has the key '{key[:64]}' twice in one object")
        seen.add(key)
