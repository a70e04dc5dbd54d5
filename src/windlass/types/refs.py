"""References and names: `name@3`, `name:alias`, `name@sha256:..`, or a path to a package.

Used by the CLI, the registry and serving. Must never turn a name into a path: names are matched, never joined.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from windlass import errors

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
ALIAS = re.compile(r"[a-z](?:[a-z0-9._-]{0,62}[a-z0-9])?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
PRODUCTION = "production"


class Ref(msgspec.Struct, frozen=True):
    """A parsed reference. `kind` says which of the other fields is set; a `default` one names only the model."""

    kind: Literal["version", "alias", "digest", "path", "default"]
    name: str = ""
    version: int = 0
    alias: str = ""
    digest: str = ""
    path: str = ""


def check_name(name: str) -> str:
    """The name, if it is one: lower-case letters, digits, `.`, `_`, `-`; 1 to 128; no `..`; else `UsageError`."""
    if not NAME.fullmatch(name) or ".." in name:
        raise errors.UsageError(
            f"'{name[:140]!s}' is no model name.",
            hint="Use 1 to 128 lower-case letters, digits, '.', '_' or '-', beginning and ending with a letter or "
            "digit, without '..'.",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias, if it is one; else `UsageError`."""
    if not ALIAS.fullmatch(alias) or ".." in alias:
        raise errors.UsageError(
            f"'{alias[:80]!s}' is no alias.",
            hint="Use 1 to 64 lower-case letters, digits, '.', '_' or '-', beginning with a letter, without '..'.",
        )
    return alias


def parse(text: str) -> Ref:
    """Parse a reference; anything with a `/` or that begins with `.` or ends in `.windlass` is a path."""
    if "/" in text or text.startswith(".") or text.endswith(".windlass"):
        return Ref(kind="path", path=text)
    if "@" in text:
        name, _, tail = text.partition("@")
        check_name(name)
        if DIGEST.fullmatch(tail):
            return Ref(kind="digest", name=name, digest=tail)
        if _VERSION.fullmatch(tail):
            return Ref(kind="version", name=name, version=int(tail))
        raise errors.UsageError(
            f"'{tail[:80]}' is no version.", hint=f"Write {name}@3 or {name}@sha256:<64 hex digits>."
        )
    if ":" in text:
        name, _, alias = text.partition(":")
        return Ref(kind="alias", name=check_name(name), alias=check_alias(alias))
    return Ref(kind="default", name=check_name(text))


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else ""
