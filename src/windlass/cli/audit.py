"""`windlass audit`: who changed what, when and why; what was live at a moment; who holds a digest; is the log whole.

Loaded by `cli/main.py`. Must never write an entry, nor call a log whole that was not read to its end.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from windlass import errors
from windlass.cli import lazy, models, output, planes, rollout
from windlass.records import audit as entries
from windlass.registry import revocations
from windlass.types import strict_json


@click.group(cls=lazy.Group, late={})
def audit() -> None:
    """Who changed what, when and why; what was live when."""


@audit.command("list")
@click.option("--subject", default="", help="Only of this, such as deployment/fraud; model/* means all beginning so.")
@click.option("--actor", default="", help="Only by this user or key.")
@click.option("--action", default="", help="Only this, such as alias.moved; rollout.* means all beginning so.")
@click.option("--since", help="From this time on, such as 14:03 or 2026-03-01T14:03 (local).")
@click.option("--until", help="Up to this time.")
@click.option("--limit", type=click.IntRange(0), default=0, help="No more than so many, the oldest first.  [all]")
@click.pass_obj
def list_(
    context: output.Context,
    subject: str,
    actor: str,
    action: str,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """Every change on record, the oldest first."""
    now = time.time()
    with planes.audit(context) as log:
        found = log.entries(
            subject=subject,
            actor=actor,
            action=action,
            since=None if since is None else models.parse_time(since, now=now),
            until=None if until is None else models.parse_time(until, now=now),
            limit=limit,
        )
    rows = [(e.number, rollout.when(e.at), e.actor, e.action, e.subject, e.reason) for e in found]
    context.result(found, lambda: output.table(("", "AT", "BY", "WHAT", "OF", "WHY"), rows))


@audit.command()
@click.option(
    "--head", "files", multiple=True, type=click.Path(path_type=Path), help="A head kept before; again for more."
)
@click.pass_obj
def verify(context: output.Context, files: tuple[Path, ...]) -> None:
    """Check that no entry was changed, dropped or put in; with --head, that the log still holds what it held then."""
    heads = [_head(file) for file in files]
    with planes.audit(context) as log:
        found = log.verify(heads)
    if found.bad or found.why:
        context.result(found, "")
        raise errors.CorruptPackage(
            f"the audit log is not whole: entry {found.bad}: {found.why}.",
            hint=f"The first {found.entries} entries are good. Keep the database as it is, and ask who could write it.",
        )
    kept = f", and holds the {len(heads)} head{'s' if len(heads) > 1 else ''} kept before" if heads else ""
    context.result(found, f"{found.entries} entries: each follows from the one before{kept}")
    if not heads:
        context.say(
            "That the newest entries are all there, only a head shows that was kept elsewhere (windlass audit head)."
        )


@audit.command()
@click.pass_obj
def head(context: output.Context) -> None:
    """Where the log ends now: keep it elsewhere, for `audit verify --head FILE`."""
    with planes.audit(context) as log:
        found = log.head()
    context.result(found, msgspec.json.encode(found).decode())


@audit.command()
@click.argument("name")
@click.option("--at", "moment", help="At this time, such as 14:03 or 2026-03-01T14:03 (local).  [now]")
@click.pass_obj
def live(context: output.Context, name: str, moment: str | None) -> None:
    """What answered under NAME, who moved it there, when and why."""
    now = time.time()
    at = now if moment is None else models.parse_time(moment, now=now)
    with planes.deployments(context) as found:
        seen = found.live_at(name, at)
    if seen.release is None:
        text = f"{rollout.when(at)}: nothing answered under '{name}'"
    else:
        text = f"{rollout.when(at)}: {seen.release.name}@{seen.release.version}  {seen.release.digest}"
        text += f"\n  since {rollout.when(seen.since)}" + (f" until {rollout.when(seen.until)}" if seen.until else "")
        text += f", rollout {seen.rollout}, by {seen.actor or 'nobody on record'}"
        text += "".join(f"\n  {words}" for words in (seen.reason, seen.words) if words)
    if seen.under_way is not None:
        shares = ", ".join(f"@{arm} {share:g} %" for arm, share in seen.shares.items())
        text += f"\n  under way: {seen.under_way.name}@{seen.under_way.version} ({shares})"
    context.result(seen, text)


@audit.command()
@click.argument("digest")
@click.pass_obj
def who(context: output.Context, digest: str) -> None:
    """Which versions, aliases and deployments hold the package or blob with this DIGEST."""
    with planes.registry(context) as registry:
        found = registry.users(digest)
    context.result(found, lambda: holders(found))


def holders(found: revocations.Users) -> str:
    """Who has some bytes, a line for each kind."""
    versions = ", ".join(f"{v.name}@{v.version} ({v.status})" for v in found.versions)
    lines = {"versions": versions, "aliases": ", ".join(found.aliases), "deployments": ", ".join(found.deployments)}
    return "\n".join(f"{kind:<13}{text or 'none'}" for kind, text in lines.items())


def _head(file: Path) -> entries.Head:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise errors.NotFound(
            f"{file} cannot be read: {e.strerror}.", hint="Check the path given with --head."
        ) from None
    return strict_json.decode(data, entries.Head, what=str(file))
