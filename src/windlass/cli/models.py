"""`windlass models`: what the registry holds, and the moves, deletions and repairs that a person may ask for.

Loaded by `cli/main.py`. Each command opens the registry, makes one call and shows the answer. Must never decide
anything that the registry decides.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import click

from windlass import errors, references
from windlass.cli import lazy, output, planes
from windlass.registry import aliases, versions
from windlass.registry import registry as registries
from windlass.types import refs, signature

_LATE = {
    "alias": lazy.Late("alias:alias", "Point an alias of a model to a version, or back."),
    "revoke": lazy.Late("revoke:revoke", "Let the bytes of a version run nowhere any more."),
    "reinstate": lazy.Late("revoke:reinstate", "Take a revocation back."),
    "import": lazy.Late("transfer:import_", "Register the package in a file or folder."),
    "export": lazy.Late("transfer:export", "Write a version to a file or folder."),
}


@click.group(cls=lazy.Group, late=_LATE)
def models() -> None:
    """List, show, alias, import, export and delete models."""


@models.command("list")
@click.argument("name", required=False)
@click.option("--search", default="", help="Only models whose name holds this.")
@click.option("--limit", type=click.IntRange(1), help="No more than so many.  [all]")
@click.pass_obj
def list_(context: output.Context, name: str | None, search: str, limit: int | None) -> None:
    """Every model, or every version of the model NAME."""
    with planes.registry(context) as registry:
        if name is None:
            found = registry.models(search=search, limit=limit)
            context.result(found, lambda: _models_table(found))
        else:
            every = registry.versions(refs.check_name(name), limit=limit)
            context.result(every, lambda: _versions_table(every))


@models.command()
@click.argument("ref")
@click.pass_obj
def show(context: output.Context, ref: str) -> None:
    """All that is known of a version: signature, lineage, evidence."""
    with planes.registry(context) as registry:
        shown = registry.show(refs.parse(ref))
    context.result(shown, lambda: _shown(shown))


@models.command()
@click.argument("name")
@click.argument("alias", required=False, default="")
@click.option("--at", "moment", help="Only what was in force at this time, such as 14:03 or 2026-03-01T14:03 (local).")
@click.pass_obj
def history(context: output.Context, name: str, alias: str, moment: str | None) -> None:
    """Who moved which alias of NAME where, when and why; with --at what was in force then."""
    with planes.registry(context) as registry:
        events = registry.history(name, alias)
    if moment is not None:
        at = parse_time(moment, now=time.time())
        events = aliases.in_force(events, at)
        if not events:
            raise errors.NotFound(f"'{name}' had no alias at {when(at)}.", hint=f"See: windlass models history {name}")
    context.result(events, lambda: _history_table(events))


@models.command()
@click.argument("ref")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(context: output.Context, ref: str, reason: str, yes: bool) -> None:
    """Delete the version NAME@N and free its bytes."""
    parsed = refs.parse(ref)
    if parsed.kind != "version":
        raise errors.UsageError(f"'{ref}' may mean another version tomorrow.", hint="Write NAME@NUMBER to delete.")
    if not yes:
        click.confirm(f"Delete {ref} and its bytes for good?", abort=True, err=True)
    with planes.registry(context) as registry:
        gone = registry.delete(parsed.name, parsed.version, actor=references.actor(), reason=reason)
    context.result(
        gone,
        lambda: (
            f"{ref} is deleted: {len(gone.freed)} blobs gone ({gone.freed_bytes} bytes), "
            f"{len(gone.kept)} kept for other versions"
        ),
    )


@models.command()
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=registries.GRACE_S,
    show_default=True,
    help="Seconds that a blob nothing needs stays in place, and again in the trash.",
)
@click.pass_obj
def gc(context: output.Context, grace: float) -> None:
    """Remove blobs that no version needs."""
    planes.here(context, "Collecting garbage")
    with planes.registry(context) as registry:
        done = registry.gc(grace)
    context.result(
        done,
        lambda: f"{done.trashed} blobs put into the trash, {done.deleted} deleted ({done.freed_bytes} bytes freed)",
    )


@models.command()
@click.pass_obj
def scrub(context: output.Context) -> None:
    """Hash every blob; versions that need a broken one go into quarantine."""
    planes.here(context, "Scrubbing")
    with planes.registry(context) as registry:
        found = registry.scrub(actor=references.actor())
    context.result(found, lambda: "\n".join(f"{f.digest}: {f.reason}" for f in found) or "every blob is whole")
    if found:
        raise errors.CorruptPackage(
            f"{len(found)} blobs are broken; their versions are in quarantine.", hint="See: windlass models list"
        )


@models.command()
@click.pass_obj
def rebuild(context: output.Context) -> None:
    """Make the rows of a lost database again, from the records and manifests beside the blobs."""
    planes.here(context, "Rebuilding")
    with planes.registry(context) as registry:
        done = registry.rebuild(actor=references.actor())
    context.result(
        done,
        lambda: (
            f"{len(done.restored)} versions restored, {len(done.quarantined)} in quarantine, "
            f"{len(done.deleted)} were deleted before"
        ),
    )
    context.say("Aliases and evidence are not kept beside the blobs: set the aliases again (windlass models alias).")


def parse_time(text: str, *, now: float) -> float:
    """Seconds since the epoch of `14:03` (today; yesterday if that is yet to come) or an ISO date and time, local."""
    try:
        if "-" not in text:
            clock = dt.time.fromisoformat(text)
            today = dt.datetime.fromtimestamp(now).astimezone()
            moment = dt.datetime.combine(today.date(), clock).astimezone()
            return (moment if moment <= today else moment - dt.timedelta(days=1)).timestamp()
        return dt.datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise errors.UsageError(f"'{text[:40]}' is no time.", hint="Write 14:03 or 2026-03-01T14:03.") from None


def when(moment: float) -> str:
    """A time as people here read it."""
    return dt.datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def at(version: int | None) -> str:
    """A version as the tables and `alias` show it."""
    return "-" if version is None else f"@{version}"


def _models_table(found: tuple[versions.Model, ...]) -> str:
    rows = [
        (m.name, m.versions, m.newest, ", ".join(f"{alias}=@{number}" for alias, number in m.aliases.items()) or "-")
        for m in found
    ]
    return output.table(("NAME", "VERSIONS", "NEWEST", "ALIASES"), rows)


def _versions_table(found: tuple[versions.Version, ...]) -> str:
    rows = [
        (v.version, v.status, v.digest[:19], v.size, when(v.created_at), v.actor, v.reason or v.description)
        for v in found
    ]
    return output.table(("VERSION", "STATUS", "DIGEST", "BYTES", "CREATED", "BY", "NOTE"), rows)


def _history_table(events: tuple[aliases.Event, ...]) -> str:
    rows = [
        (when(e.at), e.alias, e.generation, e.kind, at(e.from_version), at(e.to_version), e.actor, e.reason)
        for e in events
    ]
    return output.table(("AT", "ALIAS", "GENERATION", "KIND", "FROM", "TO", "BY", "WHY"), rows)


def _tensor(spec: signature.TensorSpec) -> str:
    return f"{spec.name}: {spec.datatype} [{', '.join(map(str, spec.shape))}]"


def _shown(shown: registries.Shown) -> str:
    v = shown.version
    lines = [f"{v.name}@{v.version}  {v.status}" + (f" ({v.reason})" if v.reason else "")]
    fields = {
        "digest": v.digest,
        "aliases": ", ".join(shown.aliases),
        "created": f"{when(v.created_at)} by {v.actor}",
        "bytes": str(v.size),
        "about": v.description,
        "tags": ", ".join(f"{key}={value}" for key, value in shown.tags.items()),
    }
    if shown.manifest is not None:
        m = shown.manifest
        fields |= {
            "runtime": f"{m.model.runtime} ({m.model.precision})",
            "inputs": "; ".join(map(_tensor, m.signature.inputs)),
            "outputs": "; ".join(map(_tensor, m.signature.outputs)),
            "transforms": ", ".join(t.kind for t in m.transforms),
            "fields": ", ".join(f"{f.name} ({f.kind})" for f in m.fields),
            "framework": m.lineage.framework,
            "source": m.lineage.source,
        }
    relatives = {"from": shown.family.ancestors, "made into": shown.family.children}
    fields |= {
        label: ", ".join(f"{r.name}@{r.version}" if r.name else r.digest for r in members)
        for label, members in relatives.items()
    }
    lines += [f"  {label:<11}{value}" for label, value in fields.items() if value]
    for found in shown.evidence:
        e = found.evidence
        lines.append(f"  {'evidence':<11}{e.kind} {e.verdict}, {when(found.at)} by {found.actor}")
        # A study is too much for a line: `windlass show` has it.
        told = {key: value for key, value in e.statistics.items() if key != "report" and value not in ("", [], {})}
        lines += [f"    {key:<18}{_plain(value)}" for key, value in told.items()]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A finding's value as people read it: no brackets, quotes or more digits than count."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
