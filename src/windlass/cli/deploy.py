"""`windlass deploy`: says what is to answer under a name; a controller carries it out, step by step.

Declarative: the same wish again changes nothing, so that a file in a repository may be applied as often as one likes.
Must never carry anything out itself, nor wait for what nobody is working on.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from windlass import errors, references
from windlass.cli import output, planes, watching
from windlass.desired import document, previews, wishes
from windlass.records import deployments as rows
from windlass.types import deployment

_WAIT_S = 24 * 3600.0


@click.command()
@click.argument("name", required=False)
@click.argument("ref", required=False)
@click.option(
    "-f", "--file", type=click.Path(path_type=Path, dir_okay=False), help="A deployment.toml that says it all."
)
@click.option("--strategy", default="", help="recreate, rolling, blue_green, canary, shadow, experiment.  [recreate]")
@click.option("--to", "share", default="", metavar="PERCENT", help="Canary with this share, until there is a verdict.")
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="A parameter of the strategy; again for more.")
@click.option("--against", multiple=True, metavar="REF", help="A further version to compare with; again for more.")
@click.option(
    "--remove", is_flag=True, callback=output.keep, expose_value=False, help="Have nothing answer under NAME any more."
)
@click.option("--plan", is_flag=True, help="Only show what would change, the steps, and the time to a verdict.")
@click.option("--wait", is_flag=True, help="Follow it to its end: exit 0 when REF is live, 4 when it went back.")
@click.option("--reason", default="", callback=output.keep, expose_value=False, help="Why, for the record.")
@click.option(
    "--force", is_flag=True, callback=output.keep, expose_value=False, help="Pass over gates; needs --reason."
)
@click.option(
    "--again", is_flag=True, callback=output.keep, expose_value=False, help="Try REF anew after it went back."
)
@click.option(
    "--if-generation",
    type=click.IntRange(0),
    callback=output.keep,
    expose_value=False,
    help="Only if nobody has changed it since this generation; 0: only if it is new.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0.0,
    callback=output.keep,
    expose_value=False,
    help="Requests a second, for --plan.  [the last rollout's]",
)
@click.option(
    "--bad",
    type=click.FloatRange(0, 1),
    callback=output.keep,
    expose_value=False,
    help="Which part of them is bad, for --plan.  [the last rollout's]",
)
@click.pass_obj
def deploy(
    context: output.Context,
    name: str | None,
    ref: str | None,
    file: Path | None,
    strategy: str,
    share: str,
    given: tuple[str, ...],
    against: tuple[str, ...],
    plan: bool,
    wait: bool,
) -> None:
    """Have the version REF answer under NAME, by a strategy; or what a FILE says."""
    if output.kept("remove"):
        if not name or any((ref, file, strategy, share, given, against, plan, wait)):
            raise errors.UsageError("--remove takes a NAME, and nothing but a reason and a generation beside it.")
        _remove(context, name)
        return
    if file is not None:
        if name or ref or strategy or share or given or against:
            raise errors.UsageError("The file says what is to answer, and how.", hint="Give NAME REF, or -f FILE.")
        wish = document.parse(_read(file))
    else:
        if not name or not ref:
            raise errors.UsageError(
                "Say what is to answer under which name.",
                hint="Example: windlass deploy fraud fraud@4 --strategy canary --wait",
            )
        wish = wishes.check(
            wishes.Wish(name=name, ref=ref, strategy=_strategy(strategy, share, given), against=against)
        )
    with planes.deployments(context) as found:
        if plan:
            show_plan(context, found.preview(wish, rate=output.kept("rate"), bad=output.kept("bad")))
            return
        before = _generation(found, wish.name)
        stored = found.deploy(
            wish,
            actor=references.actor(),
            reason=output.kept("reason"),
            expected_generation=output.kept("if_generation"),
            force=output.kept("force"),
            again=output.kept("again"),
        )
        changed = before is None or stored.generation != before
        if not changed:
            context.say(f"Nothing changes: {wish.name} is wanted so since generation {stored.generation}.")
        if wait:
            watching.follow(context, found, wish.name, until_s=_WAIT_S)
            stored = found.get(wish.name)
        elif changed:
            say_next(context, wish.name)
    context.result(stored, _told(stored))


def _remove(context: output.Context, name: str) -> None:
    with planes.deployments(context) as found:
        gone = found.remove(
            name,
            actor=references.actor(),
            reason=output.kept("reason"),
            expected_generation=output.kept("if_generation"),
        )
    context.result(gone, f"{name}: nothing is to answer under it any more")
    if not planes.controlled(context):
        context.say("No controller is running: it is carried out when one does. Start it: windlass up")


def _told(stored: rows.Deployment) -> str:
    """What is wanted now, and what answers."""
    wanted, live = stored.desired.release, stored.status.live
    told = f"{stored.name}: {previews.named(wanted)} by {stored.desired.strategy.kind}, generation {stored.generation}"
    if previews.same(live, wanted):
        return f"{told}, live"
    return f"{told}, wanted; {f'{previews.named(live)} is' if live else 'nothing is'} live"


def say_next(context: output.Context, name: str) -> None:
    """Who carries it out now, and how to watch."""
    if planes.controlled(context):
        context.say(f"The controller takes it up. Watch it: windlass rollout watch {name}")
    else:
        context.say("It is on record, and no controller is running: nothing moves yet. Start one: windlass up")


def show_plan(context: output.Context, preview: previews.Preview) -> None:
    """A preview on stdout; `GateRefused` if it would be refused."""
    context.result(preview, lambda: _planned(preview))
    if preview.refused:
        raise errors.GateRefused(preview.refused, hint=preview.hint)


def _planned(preview: previews.Preview) -> str:
    lines = [f"{preview.name}: {preview.release.name}@{preview.release.version}  {preview.release.digest[:19]}"]
    lines.append(f"live now: {previews.named(preview.live)}" if preview.live else "live now: nothing")
    lines += ["", "changes:", *_list(preview.changes, "none: it is wanted so already")]
    if preview.steps:
        lines += ["", "steps:", *(f"  {number}. {step}" for number, step in enumerate(preview.steps, 1))]
    if preview.expected:
        lines += ["", "until a verdict:", *_list(preview.expected, "")]
    return "\n".join(lines)


def _list(items: tuple[str, ...], empty: str) -> list[str]:
    return [f"  - {item}" for item in items] or [f"  {empty}"]


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(document.MAX_BYTES + 1)
    except OSError as e:
        raise errors.NotFound(f"{file} cannot be read: {e.strerror}.", hint="Check the path given with -f.") from None


def _generation(found: Any, name: str) -> int | None:
    try:
        return int(found.get(name).generation)
    except errors.NotFound:
        return None


def _strategy(kind: str, share: str, given: tuple[str, ...]) -> deployment.Strategy:
    """The strategy that the options say; a share alone is a canary's."""
    parameters: dict[str, Any] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise errors.UsageError(f"'{text[:80]}' sets nothing.", hint="Write --set KEY=VALUE, as in step_s=60")
        parameters[key.strip()] = _value(value)
    if share:
        if kind not in ("", "canary"):
            raise errors.UsageError("--to is a canary's share.", hint="Leave out --to, or say --strategy canary.")
        if "steps" in parameters:
            raise errors.UsageError("--to and --set steps say the same thing twice.", hint="Give one of them.")
        kind, parameters["steps"] = "canary", [_percent(share)]
    if parameters and not kind:
        raise errors.UsageError("--set needs a strategy whose parameter it is.", hint="Add --strategy canary.")
    return deployment.Strategy(kind or "recreate", parameters)


def _value(text: str) -> Any:
    """A value as TOML has it; what is none is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _percent(text: str) -> float:
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = 0.0
    if not 0 < found <= 100:
        raise errors.UsageError(f"'{text[:40]}' is no share.", hint="Write --to 10%")
    return found
