"""Routes of the registry: models, versions, aliases, evidence, and who holds a digest.

Joined by `app.py`. Must never let a caller claim that a version passed the checks that this control plane makes itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from windlass import errors
from windlass.api import plane as planes
from windlass.api import routes
from windlass.registry import aliases, deletion, findings, lineage, registry, revocations, versions
from windlass.types import evidence, refs

# What only a job of this control plane may find.
_OWN_CHECKS = ("parity", "verify", "signature")
# The report of a study names every layer of every form that was tried.
_MAX_EVIDENCE = 1 << 23


class Listing(msgspec.Struct, frozen=True):
    """Models whose name holds `search`, after the name `after`."""

    search: str = ""
    after: str = ""
    limit: routes.Limit = 100


class Numbered(msgspec.Struct, frozen=True):
    """Versions below the number `after` (0: from the newest)."""

    after: int = 0
    limit: routes.Limit = 100


class Referred(msgspec.Struct, frozen=True):
    """`ref`: `name`, `name@3`, `name:alias` or `name@sha256:...`, of the model that the path names."""

    ref: str


class Why(msgspec.Struct, frozen=True):
    """`reason` goes on record."""

    reason: routes.Reason = ""


class History(msgspec.Struct, frozen=True):
    """`alias`: whose moves; empty: every alias's."""

    alias: str = ""


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an alias is to point (null: nowhere). `force`, with a reason, passes over status and signature."""

    version: int | None
    reason: routes.Reason = ""
    force: bool = False


class Back(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an alias is to go back."""

    reason: routes.Reason = ""
    force: bool = False


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence for a version. What `parity` and `verify` find is not taken from callers: ask for a `verify` job."""

    kind: evidence.Kind
    verdict: Literal["passed", "failed"]
    statistics: dict[str, Any] = {}
    window: str = ""


class Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a digest is to run nowhere any more, or may again."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


def every(plane: planes.Plane, call: routes.Call) -> routes.Page[versions.Model]:
    """Models by name."""
    q = call.query
    found = plane.registry.models(search=q.search, after=q.after, limit=q.limit, only=call.caller.models)
    return routes.Page(found, found[-1].name if len(found) == q.limit else "")


def versions_of(plane: planes.Plane, call: routes.Call) -> routes.Page[versions.Version]:
    """Versions of a model, the newest first, deleted ones too."""
    found = plane.registry.versions(call.path["name"], after=call.query.after, limit=call.query.limit)
    return routes.Page(found, str(found[-1].version) if len(found) == call.query.limit else "")


def resolve(plane: planes.Plane, call: routes.Call) -> registry.Resolved:
    """The version that a reference means now."""
    return plane.registry.resolve(_ref(call))


def show(plane: planes.Plane, call: routes.Call) -> registry.Shown:
    """All that is known of the version that a reference means, whatever its status."""
    return _seen(call, plane.registry.show(_ref(call)))


def show_number(plane: planes.Plane, call: routes.Call) -> registry.Shown:
    """All that is known of a version: its manifest, aliases, tags, family and evidence."""
    return _seen(call, plane.registry.show(_numbered(call)))


def delete(plane: planes.Plane, call: routes.Call) -> deletion.Deleted:
    """Delete a version, and the bytes that nothing else needs."""
    return plane.registry.delete(
        call.path["name"], int(call.path["version"]), actor=call.caller.actor, reason=call.query.reason
    )


def evidence_of(plane: planes.Plane, call: routes.Call) -> routes.Page[findings.Finding]:
    """All evidence on record for a version, the oldest first."""
    return routes.Page(plane.registry.show(_numbered(call)).evidence)


def add_evidence(plane: planes.Plane, call: routes.Call) -> routes.Page[findings.Finding]:
    """Put evidence on record for a version."""
    found: Found = call.body
    if found.kind in _OWN_CHECKS:
        raise errors.NotAllowed(
            f"evidence of the kind '{found.kind}' is found by the control plane itself.",
            hint="Ask for the check: POST .../verify",
        )
    digest = plane.registry.show(_numbered(call)).version.digest
    one = evidence.Evidence(digest, found.kind, found.verdict, found.statistics, found.window)
    plane.registry.add_evidence(one, actor=call.caller.actor)
    return evidence_of(plane, call)


def alias(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """The last move of an alias, and so where it points."""
    name, named = call.path["name"], call.path["alias"]
    found = plane.registry.history(name, named)
    if not found:
        raise errors.NotFound(f"'{name}' has no alias '{named}'.")
    return routes.Tagged(found[-1], found[-1].generation)


def move(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Point an alias to a version, if it is still at the generation of If-Match."""
    wish: Move = call.body
    done = plane.registry.move_alias(
        call.path["name"],
        call.path["alias"],
        wish.version,
        actor=call.caller.actor,
        reason=wish.reason,
        expected_generation=call.expected,
        force=wish.force,
        idempotency_key=call.idempotency_key,
    )
    return routes.Tagged(done, done.generation)


def back(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Point an alias to what it pointed to before."""
    done = plane.registry.rollback_alias(
        call.path["name"],
        call.path["alias"],
        actor=call.caller.actor,
        reason=call.body.reason,
        expected_generation=call.expected,
        force=call.body.force,
        idempotency_key=call.idempotency_key,
    )
    return routes.Tagged(done, done.generation)


def history(plane: planes.Plane, call: routes.Call) -> routes.Page[aliases.Event]:
    """Every move of a model's aliases, the oldest first."""
    named = call.query.alias and refs.check_alias(call.query.alias)
    return routes.Page(plane.registry.history(call.path["name"], named))


def users(plane: planes.Plane, call: routes.Call) -> revocations.Users:
    """Who has the package, or any other blob, with this digest: versions, aliases, deployments."""
    found: revocations.Users = plane.registry.users(call.path["digest"])
    sees = call.caller.sees
    return msgspec.structs.replace(
        found,
        versions=tuple(one for one in found.versions if sees(one.name)),
        aliases=tuple(one for one in found.aliases if sees(one.partition(":")[0])),
        deployments=tuple(name for name in found.deployments if sees(name)),
    )


def revoke(plane: planes.Plane, call: routes.Call) -> revocations.Revoked:
    """Let bytes run nowhere any more, whoever holds them."""
    _check_all(call)
    return plane.registry.revoke(call.path["digest"], call.body.reason, actor=call.caller.actor)


def reinstate(plane: planes.Plane, call: routes.Call) -> revocations.Users:
    """Take a revocation back; the versions stay in quarantine until they pass their checks again."""
    _check_all(call)
    plane.registry.reinstate(call.path["digest"], call.body.reason, actor=call.caller.actor)
    return plane.registry.users(call.path["digest"])


def _check_all(call: routes.Call) -> None:
    """`NotAllowed` unless the caller sees every model: whoever else holds the same bytes is met too."""
    if call.caller.restricted:
        raise errors.NotAllowed("to revoke bytes takes a key for all models.", hint="Delete your version instead.")


def _ref(call: routes.Call) -> refs.Ref:
    ref = refs.parse(call.query.ref)
    if ref.kind == "path" or ref.name != call.path["name"]:
        raise errors.UsageError(
            "the reference is not one of the model that the path names.", hint="Write NAME@VERSION."
        )
    return ref


def _numbered(call: routes.Call) -> refs.Ref:
    return refs.Ref(kind="version", name=call.path["name"], version=int(call.path["version"]))


def _seen(call: routes.Call, shown: registry.Shown) -> registry.Shown:
    """A version as this caller may see it: of its family no hidden member, nor what a hidden one came from."""
    if not call.caller.restricted:
        return shown
    ancestors: list[lineage.Relative] = []
    for one in shown.family.ancestors:
        hidden = bool(one.name) and not call.caller.sees(one.name)
        # Its own manifest names the parent's digest; what comes before that is the parent's to tell.
        if not hidden or not ancestors:
            ancestors.append(msgspec.structs.replace(one, name="", version=0) if hidden else one)
        if hidden:
            break
    children = tuple(one for one in shown.family.children if call.caller.sees(one.name))
    family = msgspec.structs.replace(shown.family, ancestors=tuple(ancestors), children=children)
    return msgspec.structs.replace(shown, family=family)


_MODEL = "/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_ALIAS = f"{_MODEL}/aliases/{{alias}}"
ROUTES = (
    routes.Route("GET", "/models", "model:read", every, routes.Page[versions.Model], query=Listing),
    routes.Route("GET", f"{_MODEL}/versions", "model:read", versions_of, routes.Page[versions.Version], query=Numbered),
    routes.Route("GET", f"{_MODEL}/resolve", "model:read", resolve, registry.Resolved, query=Referred),
    routes.Route("GET", f"{_MODEL}/show", "model:read", show, registry.Shown, query=Referred),
    routes.Route("GET", _VERSION, "model:read", show_number, registry.Shown),
    routes.Route("DELETE", _VERSION, "model:delete", delete, deletion.Deleted, query=Why),
    routes.Route("GET", f"{_VERSION}/evidence", "model:read", evidence_of, routes.Page[findings.Finding]),
    routes.Route(
        "POST",
        f"{_VERSION}/evidence",
        "model:push",
        add_evidence,
        routes.Page[findings.Finding],
        body=Found,
        status=201,
        max_body=_MAX_EVIDENCE,
    ),
    routes.Route("GET", _ALIAS, "model:read", alias, aliases.Event, tagged=True),
    routes.Route("PUT", _ALIAS, "model:promote", move, aliases.Event, body=Move, tagged=True),
    routes.Route("POST", f"{_ALIAS}/rollback", "model:promote", back, aliases.Event, body=Back, tagged=True),
    routes.Route("GET", f"{_MODEL}/history", "model:read", history, routes.Page[aliases.Event], query=History),
    routes.Route("GET", "/digests/{digest}/users", "model:read", users, revocations.Users),
    routes.Route("POST", "/digests/{digest}/revoke", "model:delete", revoke, revocations.Revoked, body=Revoke),
    routes.Route("POST", "/digests/{digest}/reinstate", "model:delete", reinstate, revocations.Users, body=Revoke),
)
