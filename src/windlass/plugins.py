"""Finds plugins: the built-in ones in `catalog.toml`, others by entry points (`windlass.<kind>`).

Called wherever a kind is looked up by name. Must never import a plugin that was not asked for, so that a server holds
only the libraries its models need.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.resources
import tomllib
from typing import Any, NamedTuple

from windlass import errors


class Entry(NamedTuple):
    """One line of the catalogue."""

    kind: str
    name: str
    object: str
    extra: str
    formats: tuple[str, ...]


@functools.cache
def catalog() -> dict[str, dict[str, Entry]]:
    """Every plugin by kind and name. A third party cannot replace a built-in: its name is taken."""
    text = importlib.resources.files("windlass").joinpath("catalog.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Entry]] = {}
    for kind, entries in tomllib.loads(text).items():
        found[kind] = {
            name: Entry(kind, name, line["object"], line.get("extra", ""), tuple(line.get("formats", ())))
            for name, line in entries.items()
        }
        for point in importlib.metadata.entry_points(group=f"windlass.{kind}"):
            found[kind].setdefault(point.name, Entry(kind, point.name, point.value, "", ()))
    return found


def entry(kind: str, name: str) -> Entry:
    """The catalogue's line; `NotFound` names the nearest one."""
    known = catalog()[kind]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise errors.NotFound(
            f"there is no '{name[:64]}' among the {kind}: {', '.join(sorted(known))}.",
            hint=f"Did you mean '{close[0]}'?" if close else "",
        )
    return known[name]


@functools.cache
def load(kind: str, name: str) -> Any:
    """Import a plugin. If the library it needs is absent, `Unsupported` names the extra to install."""
    line = entry(kind, name)
    module, _, attribute = line.object.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as e:
        if e.name is not None and e.name.split(".")[0] == module.split(".")[0]:
            raise
        extra = line.extra or "all"
        raise errors.Unsupported(
            f"{kind} '{name}' needs the library '{e.name}', which is not installed.",
            hint=f"Install it: pip install 'windlass[{extra}]'",
        ) from None
