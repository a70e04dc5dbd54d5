"""`windlass rollback`: back to what was live before, and how long that took.

Loaded by `cli/main.py`. Must never say that it is done before all traffic is on the old version.
"""

from __future__ import annotations

import time

import click

from windlass import references
from windlass.cli import output, planes, watching

_WAIT_S = 900.0
_EVERY_S = 0.1


@click.command()
@click.argument("name")
@click.option("--to", "ref", default="", metavar="REF", help="Another version that was live, such as fraud@2.")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--force", is_flag=True, help="Pass over gates; needs --reason.")
@click.option("--no-wait", is_flag=True, help="Only put it on record.")
@click.pass_obj
def rollback(context: output.Context, name: str, ref: str, reason: str, force: bool, no_wait: bool) -> None:
    """Go back under NAME to what was live before; returns when all requests are answered by it."""
    began = time.monotonic()
    with planes.deployments(context) as found:
        stored = found.rollback(name, ref=ref, actor=references.actor(), reason=reason, force=force)
        if no_wait or not planes.controlled(context):
            if not no_wait:
                context.say("No controller is running: it is carried out when one does. Start it: windlass up")
            context.result(stored, f"{name}: going back is on record, generation {stored.generation}")
            return
        seen = watching.settle(context, found, name, until_s=_WAIT_S, every_s=_EVERY_S)
    live = seen.deployment.status.live
    what = f"{live.name}@{live.version}" if live else "nothing"
    took = time.monotonic() - began
    context.result(
        {"name": name, "live": live, "generation": stored.generation, "took_s": took},
        f"{name}: all requests are answered by {what}, after {took:.1f} s",
    )
