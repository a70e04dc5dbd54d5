"""The parameters of a technique as a caller gives them: checked, and completed from its dimensions.

Called by every technique first thing in `apply`. Must never know what a parameter means.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization.techniques import base

EXCLUDE = "exclude"


def complete(technique: type[base.Technique], form: forms.Form, given: Mapping[str, Any]) -> dict[str, Any]:
    """Each dimension's value: the one given, or its first choice; `UsageError` for what is no dimension or no choice.

    A dimension without choices is free: it takes any value that is given, and is left out otherwise. What it gives is
    what the step says, so that a recipe means the same when defaults change.
    """
    dimensions = {dimension.name: dimension.choices for dimension in technique.dimensions(form)}
    found = {name: choices[0] for name, choices in dimensions.items() if choices}
    for name, value in given.items():
        if name not in dimensions:
            raise errors.UsageError(
                f"'{technique.name}' has no parameter '{name[:64]}': it has {', '.join(dimensions) or 'none'}.",
                hint=_nearest(name, list(dimensions)),
            )
        choices = dimensions[name]
        # 1 and True, or 8 and 8.0, are equal in Python and are different values here.
        if choices and not any(type(value) is type(choice) and value == choice for choice in choices):
            told = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
            raise errors.UsageError(
                f"'{name}' of '{technique.name}' is one of {', '.join(told)}, not {str(value)[:64]!r}.",
                hint=_nearest(str(value), told),
            )
        found[name] = value
    return found


def excluded(given: Mapping[str, Any], nodes: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes to leave out, in the graph's order; `UsageError` for one that the technique would not touch."""
    names = given.get(EXCLUDE, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise errors.UsageError("'exclude' is a list of the names of nodes.")
    for name in names:
        if name not in nodes:
            raise errors.UsageError(
                f"'exclude' names '{name[:64]}', which is no node that would be quantized.",
                hint=_nearest(name, list(nodes)),
            )
    return tuple(name for name in nodes if name in set(names))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else ""
