"""`windlass models alias`: moves an alias, then tells the servers that follow it.

Loaded by `cli/models.py` when it is used: talking to servers needs libraries that its other commands do not. Must never
move an alias that the registry refuses to move.
"""

from __future__ import annotations

import click

from windlass import errors, references
from windlass.cli import follow, models, output, planes


@click.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--rollback", is_flag=True, help="Point it to what it pointed to before.")
@click.option("--remove", is_flag=True, help="Point it nowhere.")
@click.option("--reason", default="", help="Why, for the history.")
@click.option("--if-generation", type=click.IntRange(0), help="Only if nobody has moved it since this generation.")
@click.option("--force", is_flag=True, help="Though it is not READY, or does not take what callers send.")
@click.pass_obj
def alias(
    context: output.Context,
    name: str,
    alias: str,
    version: int | None,
    rollback: bool,
    remove: bool,
    reason: str,
    if_generation: int | None,
    force: bool,
) -> None:
    """Point ALIAS of the model NAME to VERSION, and tell the running servers of this home that follow it."""
    if (version is not None) + rollback + remove != 1:
        raise errors.UsageError(
            "Nothing says where the alias goes.", hint="Give one of: a VERSION, --rollback, --remove."
        )
    with planes.registry(context) as registry:
        who = references.actor()
        if rollback:
            event = registry.rollback_alias(
                name, alias, actor=who, reason=reason, expected_generation=if_generation, force=force
            )
        else:
            event = registry.move_alias(
                name, alias, version, actor=who, reason=reason, expected_generation=if_generation, force=force
            )
    context.result(event, lambda: f"{event.name}:{event.alias} -> {models.at(event.to_version)}")
    if planes.far(context):
        context.say("Deployments keep what they have: windlass deploy moves one, and this alias with it.")
    elif remove:
        context.say("Servers that followed it keep what they have.")
    else:
        follow.alias_moved(context, name, alias)
