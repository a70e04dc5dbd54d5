"""How commands speak: results on stdout, progress and log on stderr, tables on a terminal, JSON when asked.

Used by every command. Must never print a result to stderr, or colour a pipe.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from windlass import settings

# Control characters but line ends and tabs, and those that turn the direction of writing or are not seen; colours and
# weights (`ESC [ 1 m`), which our own words have, do no harm.
_CONTROLS = "\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_STEERS = re.compile(rf"[{_CONTROLS}]|\x1b(?!\[[0-9;]{{0,16}}m)")
_STEERS_AT_ALL = re.compile(rf"[{_CONTROLS}\x1b]")


class Context:
    """What every command gets (`click.pass_obj`): settings, and where to say things."""

    def __init__(self, configuration: settings.Settings, *, json: bool = False, quiet: bool = False) -> None:
        self.settings = configuration
        self.json = json
        self.quiet = quiet

    @property
    def lively(self) -> bool:
        """Whether bars and colours are shown: on a terminal only, never with `--quiet`."""
        return sys.stderr.isatty() and not self.quiet

    def say(self, text: str) -> None:
        """A line of progress or explanation, on stderr."""
        if not self.quiet:
            click.echo(shown(text), err=True, color=None if settings.colours_wanted() else False)

    def result(self, value: Any, text: str | Callable[[], str]) -> None:
        """The result on stdout: `value` as one line of JSON with `--json`, else the text."""
        if self.json:
            # JSON escapes what lies below a blank, and not the control characters above.
            click.echo(shown(msgspec.json.encode(value).decode(), styles=False))
        else:
            click.echo(shown(text() if callable(text) else text))


def shown(text: str, *, styles: bool = True) -> str:
    """A text in which others had words, as a terminal may get it: but for our own styles, nothing that steers it."""
    return (_STEERS if styles else _STEERS_AT_ALL).sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"


def keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Lay an option where `kept` finds it: for commands that take more than one function should."""
    context.meta[f"windlass.{option.name}"] = value


def kept(name: str) -> Any:
    """What an option of the command under way was given."""
    return click.get_current_context().meta.get(f"windlass.{name}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns that line up, the header first; numbers to the right."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *text]) for i in range(len(header))]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = []
    for row in [list(header), *text]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
