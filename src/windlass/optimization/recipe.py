"""A recipe: the steps from a version to its optimized form, as TOML that a person can read and replay.

Written by `study`, read again for `--replay`. Must never take a key that it does not know, nor run anything.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from windlass import errors
from windlass.optimization import form as forms

FORMAT = 1
MAX_BYTES = 1 << 20
MAX_STEPS = 32
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_UNPRINTED = re.compile('["\\\\\x00-\x1f\x7f]')
_DEPTH = 8
_WHERE = re.compile(r" - at `\$\.?(.*)`")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What leads from `parent` (a package's digest) to a form. `seed` is that of every step and of the data's split.

    `result` is the digest of the form that came of it (`Form.digest`), `data` the digests of the parts of the data set
    by name, `software` and `isa` what it was made with. `trains`: a step trains, so that other software or another
    machine may give other bytes.
    """

    parent: str
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    steps: tuple[forms.Step, ...]
    result: str = ""
    data: dict[str, str] = {}
    software: str = ""
    isa: str = ""
    trains: bool = False


def write(value: Recipe) -> str:
    """The TOML text; `read` gives the same value again. `UsageError` for a parameter that is no TOML value."""
    lines = [f"format = {FORMAT}"]
    lines += [f"{name} = {_value(getattr(value, name))}" for name in ("parent", "seed", "trains")]
    lines += [f"{name} = {_value(getattr(value, name))}" for name in ("result", "software", "isa")]
    lines += ["", "[data]", *(f"{_key(name)} = {_value(digest)}" for name, digest in value.data.items())]
    for step in value.steps:
        lines += ["", "[[steps]]", f"technique = {_value(step.technique)}"]
        if step.parameters:
            lines.append("[steps.parameters]")
        lines += [f"{_key(name)} = {_value(given)}" for name, given in step.parameters.items()]
    return "\n".join(lines) + "\n"


def read(text: str) -> Recipe:
    """The recipe in a TOML text; `UsageError` names the line or key that is wrong."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise errors.UsageError(f"the recipe is larger than {MAX_BYTES >> 10} KiB.")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as e:
        raise errors.UsageError(f"the recipe is not valid TOML: {e}.") from None
    version = found.pop("format", None)
    if type(version) is not int or version != FORMAT:
        raise errors.UsageError(
            f"the recipe is of format {str(version)[:20]}: {FORMAT} is read here.",
            hint=f"A recipe begins with: format = {FORMAT}",
        )
    try:
        value = msgspec.convert(found, Recipe)
    except msgspec.ValidationError as e:
        where = _WHERE.search(str(e))
        words = _WHERE.sub("", str(e))
        raise errors.UsageError(f"the recipe's '{where[1] if where else ''}' is wrong: {words}.") from None
    if not value.steps or len(value.steps) > MAX_STEPS:
        raise errors.UsageError(f"the recipe has {len(value.steps)} steps: 1 to {MAX_STEPS} are taken.")
    for number, step in enumerate(value.steps):
        if not _plain(step.parameters, _DEPTH):
            raise errors.UsageError(f"the parameters of the recipe's step {number + 1} hold what is no JSON value.")
    return value


def _plain(value: Any, depth: int) -> bool:
    if depth < 0:
        return False
    if isinstance(value, dict):
        return all(_plain(each, depth - 1) for each in value.values())
    if isinstance(value, list):
        return all(_plain(each, depth - 1) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(name))} = {_value(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    raise errors.UsageError(f"a recipe cannot hold the value {str(value)[:40]!r}.")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise errors.UsageError("a recipe cannot hold half of a character.")
    return '"' + _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", value) + '"'
