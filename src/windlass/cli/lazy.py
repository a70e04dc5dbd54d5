"""A group of commands some of which are imported only when they are used, because their libraries take long to load.

Used by groups whose other commands must answer at once. Must never import a late command to run an early one.
"""

from __future__ import annotations

import importlib
from typing import Any

import click


class Group(click.Group):
    """A group whose `late` commands (`{"import": "transfer:import_"}`) lie in other files of this folder."""

    def __init__(self, *args: Any, late: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, early and late."""
        return sorted([*super().list_commands(ctx), *self._late])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now if it is a late one."""
        if cmd_name not in self._late:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._late[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"windlass.cli.{module}"), attribute)
        return command
