"""A group of commands some of which are imported only when they are used, because their libraries take long to load.

Used by `main.py` for every verb, and by groups whose other commands must answer at once. Must never import a late
command to run an early one, or to list them.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click


class Late(NamedTuple):
    """Where a command lies (`file:name` in this folder), and the line that its group's help shows."""

    where: str
    line: str


class Group(click.Group):
    """A group with `late` commands, shown after the early ones in the order given."""

    def __init__(self, *args: Any, late: dict[str, Late], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, early and late."""
        return [*super().list_commands(ctx), *self._late]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now if it is a late one."""
        if cmd_name not in self._late:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._late[cmd_name].where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"windlass.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's list, without importing anything."""
        early = [(name, self.commands[name].get_short_help_str(80)) for name in super().list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([*early, *((name, late.line) for name, late in self._late.items())])
