"""A group of commands some of which are imported only when they are used, because their libraries take long to load.

Used by `main.py` for every verb, and by groups whose other commands must answer at once. Must never import a late
command to run an early one, or to list them.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import click

from windlass import errors


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
        command: click.Command | None
        if cmd_name not in self._late:
            command = super().get_command(ctx, cmd_name)
        else:
            module, _, attribute = self._late[cmd_name].where.partition(":")
            command = getattr(importlib.import_module(f"windlass.cli.{module}"), attribute)
        return command if command is None or isinstance(command, click.Group) else _with_switches(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; `UsageError` names the nearest command."""
        known = self.list_commands(ctx)
        if args[0] in known or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(args[0], known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"See: {ctx.command_path} --help"
        raise errors.UsageError(f"There is no command '{args[0][:80]}'.", hint=hint)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's list, without importing anything."""
        early = [(name, self.commands[name].get_short_help_str(80)) for name in super().list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([*early, *((name, late.line) for name, late in self._late.items())])


def _with_switches(command: click.Command) -> click.Command:
    """The command, which takes `--json` and `--quiet` too: people write them at either end of the line."""
    known = {option.name for option in command.params}
    for name, told in (("json", "Results as JSON on stdout."), ("quiet", "No progress.")):
        if name not in known:
            option = click.Option([f"--{name}"], is_flag=True, expose_value=False, callback=_switch, help=told)
            command.params.append(option)
    return command


def _switch(context: click.Context, option: click.Parameter, value: Any) -> None:
    # `obj` is None while only the help is asked for.
    if value and context.obj is not None:
        setattr(context.obj, str(option.name), True)
