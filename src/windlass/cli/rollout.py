"""`windlass rollout`: what a rollout does now, what it did, and a person's word about it.

Loaded by `cli/main.py`. Each command reads rows or writes one word; the controller does the rest. Must never decide
what the evidence decides.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import click

from windlass import errors, references
from windlass.cli import lazy, output, planes, watching
from windlass.records import deployments, rollouts
from windlass.rollout import ledger, plan

_EVERY_S = 1.0
_PART = 500


@click.group(cls=lazy.Group, late={})
def rollout() -> None:
    """Watch a rollout; pause, resume, promote or abort it."""


@rollout.command()
@click.argument("name", required=False)
@click.pass_obj
def status(context: output.Context, name: str | None) -> None:
    """What is wanted and what is live under NAME, and how far its rollout is; without NAME, of every deployment."""
    with planes.deployments(context) as found:
        if name is None:
            every = _all(found)
            context.result(every, lambda: _table(every))
            return
        seen = watching.view(found, name)
    context.result(seen, lambda: "\n".join(watching.picture(seen)))


@rollout.command()
@click.argument("name")
@click.pass_obj
def watch(context: output.Context, name: str) -> None:
    """Show the rollout of NAME until it ends: arms, shares, counts, risks, the verdict in words."""
    with planes.deployments(context) as found, watching.screen(context) as show:
        seen = watching.view(found, name)
        show(seen)
        while not seen.ended:
            if context.json:
                context.result(seen, "")
            time.sleep(_EVERY_S)
            seen = watching.view(found, name)
            show(seen)
    live = seen.deployment.status.live
    context.result(seen, f"{name}: {f'{live.name}@{live.version}' if live else 'nothing'} is live")


@rollout.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@click.pass_obj
def pause(context: output.Context, name: str, reason: str) -> None:
    """Keep the shares as they are until `resume`; evidence of harm still goes back."""
    _order(context, name, "pause", reason)


@rollout.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@click.pass_obj
def resume(context: output.Context, name: str, reason: str) -> None:
    """Go on after `pause`."""
    _order(context, name, "resume", reason)


@rollout.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@click.pass_obj
def promote(context: output.Context, name: str, reason: str) -> None:
    """Give the new version everything now, without waiting for evidence."""
    _order(context, name, "promote", reason)


@rollout.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@click.pass_obj
def abort(context: output.Context, name: str, reason: str) -> None:
    """Give the old version everything back now."""
    _order(context, name, "abort", reason)


@rollout.command()
@click.argument("name")
@click.argument("number", type=click.IntRange(1), required=False)
@click.pass_obj
def history(context: output.Context, name: str, number: int | None) -> None:
    """Every rollout of NAME; with a NUMBER, each step of that one."""
    with planes.deployments(context) as found:
        every = sorted(found.rollouts(name), key=lambda one: one.number)
        if number is None:
            context.result(every, lambda: _rollouts(every))
            return
        one = next((one for one in every if one.number == number), None)
        if one is None:
            raise errors.NotFound(f"'{name}' has no rollout {number}.", hint=f"See: windlass rollout history {name}")
        steps = found.steps(one.id)
    context.result(steps, lambda: _steps(steps))


def _order(context: output.Context, name: str, what: str, reason: str) -> None:
    with planes.deployments(context) as found:
        stored = found.order(name, what, actor=references.actor(), reason=reason)
    context.result(stored, f"{name}: {what} is on record, generation {stored.generation}")
    if not planes.controlled(context):
        context.say("No controller is running: it is carried out when one does. Start it: windlass up")


def _all(found: Any) -> tuple[deployments.Deployment, ...]:
    every: list[deployments.Deployment] = []
    while True:
        part = found.every(after=every[-1].name if every else "", limit=_PART)
        every += part
        if len(part) < _PART:
            return tuple(every)


def _table(every: tuple[deployments.Deployment, ...]) -> str:
    if not every:
        return "nothing is deployed; begin with: windlass deploy NAME REF"
    rows = [
        (
            d.name,
            f"@{d.desired.release.version}",
            f"@{d.status.live.version}" if d.status.live else "-",
            d.status.phase,
            d.desired.strategy.kind,
            ", ".join(f"@{arm} {share:g} %" for arm, share in d.status.shares.items()) or "-",
            when(d.updated_at),
            d.actor,
        )
        for d in every
    ]
    return output.table(("NAME", "WANTED", "LIVE", "PHASE", "STRATEGY", "SHARES", "CHANGED", "BY"), rows)


def _rollouts(every: list[rollouts.Rollout]) -> str:
    rows = [
        (
            r.number,
            when(r.started_at),
            f"{r.ended_at - r.started_at:.0f} s" if r.ended_at else "under way",
            f"@{r.old.version}" if r.old else "-",
            f"@{r.new.version}",
            r.strategy.kind,
            r.outcome or r.phase,
            r.verdict or "-",
            r.actor,
            r.words,
        )
        for r in every
    ]
    spent = [ledger.entry(plan.strategy_of(r.strategy), r.outcome, compared=r.old is not None) for r in every]
    table = output.table(("", "BEGAN", "TOOK", "FROM", "TO", "STRATEGY", "END", "VERDICT", "BY", "WHY"), rows)
    return f"{table}\n\n{ledger.words(spent)}"


def _steps(steps: tuple[rollouts.Step, ...]) -> str:
    rows = [
        (
            s.number,
            when(s.at),
            s.phase,
            ", ".join(f"@{arm.release.arm} {arm.share:g} %" for arm in s.wanted.arms) if s.wanted else "-",
            s.verdict or "-",
            s.words,
        )
        for s in steps
    ]
    return output.table(("", "AT", "PHASE", "SHARES", "VERDICT", "WHY"), rows)


def when(moment: float) -> str:
    """A time as people read it, on their clock."""
    return dt.datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
