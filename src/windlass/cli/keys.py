"""`windlass keys`: makes, lists, rotates and revokes the home's API keys, and tells its running servers.

A server that `windlass serve` started with the home's keys has the home's pepper in its spec: those are told. Must
never show a secret but once, nor end before every server that can be reached has confirmed.
"""

from __future__ import annotations

import contextlib
import re
import time

import click
import msgspec

from windlass import errors, references
from windlass.cli import lazy, output, planes
from windlass.client import control
from windlass.records import keys as key_rows
from windlass.security import pepper
from windlass.serving import launch

_UNITS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_SCOPES = f"What it may; again for more: {', '.join(key_rows.SCOPES)}.  [model:read, model:predict]"
_TRIES = 20
# A server that does not confirm within this time counts as one that could not be reached.
_CONFIRMED_BY_THEN_S = 30.0


@click.group(cls=lazy.Group, late={})
def keys() -> None:
    """Make, list, rotate and revoke API keys."""


@keys.command()
@click.argument("name")
@click.option("--model", "models", multiple=True, help="A model it may ask, or a glob; again for more.  [*]")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(key_rows.SCOPES), metavar="SCOPE", help=_SCOPES)
@click.option("--expires", help="After which time it ends: 90m, 12h, 30d, 8w.  [never]")
@click.option("--rate", type=float, default=0.0, help="Requests a second to models.  [no limit]")
@click.option("--burst", type=int, default=0, help="Requests at once, after a pause.  [one second's]")
@click.option("--concurrency", type=int, default=0, help="Requests under way.  [no limit]")
@click.option("--quota", type=int, default=0, help="Requests a day (UTC).  [no limit]")
@click.pass_obj
def create(
    context: output.Context,
    name: str,
    models: tuple[str, ...],
    scopes: tuple[str, ...],
    expires: str | None,
    rate: float,
    burst: int,
    concurrency: int,
    quota: int,
) -> None:
    """Make a key for NAME. It is printed once, on stdout, and kept nowhere."""
    wish = key_rows.Wish(
        name=name,
        scopes=scopes or key_rows.Wish(name).scopes,
        models=models or key_rows.Wish(name).models,
        expires_at=None if expires is None else time.time() + _seconds(expires),
        rate=rate,
        burst=burst,
        concurrency=concurrency,
        quota=quota,
    )
    with planes.keys(context) as found:
        made = found.create(wish, actor=references.actor())
    context.result(made, made.key)
    context.say(f"The key {made.id} is shown only now. Callers send it as: Authorization: Bearer {made.key[:6]}...")
    tell(context)


@keys.command("list")
@click.pass_obj
def list_(context: output.Context) -> None:
    """Every key of this home: what it may, and whether it is live. No secrets."""
    with planes.keys(context) as found:
        every = found.every()
    now = time.time()
    header = ("id", "name", "scopes", "models", "limits", "state")
    context.result(
        every,
        lambda: output.table(
            header, [(k.id, k.name, _scopes(k), ",".join(k.models), _limits(k), _state(k, now)) for k in every]
        ),
    )


@keys.command()
@click.argument("key", metavar="ID")
@click.option("--end-old", is_flag=True, help="No new secret: the old one ends, the new one stays.")
@click.pass_obj
def rotate(context: output.Context, key: str, end_old: bool) -> None:
    """Give the key ID a second secret, printed once; the old one stays good until --end-old."""
    with planes.keys(context) as found:
        if end_old:
            found.end_old(key, actor=references.actor())
            context.result({"id": key, "rotating": False}, f"{key}: only its newest secret is good now")
        else:
            made = found.rotate(key, actor=references.actor())
            context.result(made, made.key)
            context.say(f"When every caller has it: windlass keys rotate {key} --end-old")
    tell(context)


@keys.command()
@click.argument("key", metavar="ID")
@click.option("--reason", default="", help="Why, for the record.")
@click.pass_obj
def revoke(context: output.Context, key: str, reason: str) -> None:
    """End the key ID on every running server of this home; returns when they have confirmed."""
    with planes.keys(context) as found:
        found.revoke(key, actor=references.actor(), reason=reason)
    tell(context)
    context.result({"id": key, "revoked": True}, f"{key} is revoked")


def tell(context: output.Context) -> None:
    """Give every running server that uses this home's keys the keys as they are now.

    `Unavailable` names the servers that did not confirm, after all others were told. A control plane tells its own.
    """
    if planes.far(context):
        return
    secret = pepper.of_home(context.settings.home)
    missed: list[str] = []
    for wanted in launch.running(context.settings.home):
        if wanted.key_pepper != secret:
            continue
        talk = control.Control(wanted.control, timeout_s=_CONFIRMED_BY_THEN_S)
        try:
            _renew(context, talk)
            context.say(f"the server on {wanted.listen} has the keys")
        except errors.WindlassError as e:
            missed.append(f"{wanted.listen} ({e.message})")
        finally:
            talk.close()
    if missed:
        raise errors.Unavailable(
            f"These servers did not confirm the keys: {'; '.join(missed)}.",
            hint="Stop them, or run the command again; what it changed is kept.",
        )


def _renew(context: output.Context, talk: control.Control) -> None:
    """Put the keys in force; asked again where somebody else's spec came between."""
    for _ in range(_TRIES):
        current = talk.current()
        with planes.keys(context) as found:
            live = found.live()
        with contextlib.suppress(errors.Conflict):
            talk.apply(msgspec.structs.replace(current, keys=live, generation=current.generation + 1))
            return
    raise errors.Unavailable("many change its spec at once")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise errors.UsageError(f"'{text[:40]}' is no time.", hint="Write 90m, 12h, 30d or 8w.")
    return int(found[1]) * _UNITS[found[2]]


def _scopes(key: key_rows.Listed) -> str:
    return "all" if set(key_rows.SCOPES) <= set(key.scopes) else ",".join(key.scopes)


def _limits(key: key_rows.Listed) -> str:
    parts = []
    if key.rate:
        parts.append(f"{key.rate:g}/s" + (f" burst {key.burst}" if key.burst else ""))
    if key.concurrency:
        parts.append(f"{key.concurrency} at once")
    if key.quota:
        parts.append(f"{key.quota} a day")
    return ", ".join(parts) or "-"


def _state(key: key_rows.Listed, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "rotating" if key.rotating else "live"
