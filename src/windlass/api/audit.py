"""Routes of the audit log: its entries, where it ends, and whether it is whole.

Joined by `app.py`. Must never change an entry, nor show one about a model that the caller may not see.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from windlass.api import access, routes
from windlass.api import plane as planes
from windlass.records import audit

Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class Listing(msgspec.Struct, frozen=True):
    """Entries about a subject, by an actor, of an action (a subject or action may end in `*`), between two moments."""

    subject: str = ""
    actor: str = ""
    action: str = ""
    since: Time | None = None
    until: Time | None = None
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: routes.Limit = 100


class Heads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Heads that were kept elsewhere, and that the log must still hold."""

    heads: tuple[audit.Head, ...] = ()


def every(plane: planes.Plane, call: routes.Call) -> routes.Page[audit.Entry]:
    """Entries, the oldest first."""
    q = call.query

    def read(last: audit.Entry | None) -> tuple[audit.Entry, ...]:
        wanted = {name: getattr(q, name) for name in ("subject", "actor", "action", "since", "until", "limit")}
        with plane.rows.read() as connection:
            return audit.entries(connection, after=q.after if last is None else last.number, **wanted)

    return routes.page(read, lambda entry: _sees(call.caller, entry), lambda entry: str(entry.number), q.limit)


def head(plane: planes.Plane, call: routes.Call) -> audit.Head:
    """Where the log ends now. Kept elsewhere, it shows later whether entries are gone or others."""
    del call
    with plane.rows.read() as connection:
        return audit.head(connection)


def verify(plane: planes.Plane, call: routes.Call) -> audit.Verified:
    """Whether every entry follows from the one before, and the log holds these heads."""
    with plane.rows.read() as connection:
        return audit.verify(connection, call.body.heads)


def _sees(caller: access.Caller, entry: audit.Entry) -> bool:
    """Whether all that an entry is about is the caller's to see; what is about no model is for those who see all."""
    if not caller.restricted:
        return True
    kind, _, named = entry.subject.partition("/")
    if kind not in ("model", "alias", "deployment"):
        return False
    name = named.partition("@")[0].partition(":")[0]
    return caller.sees(name, *access.names_in(entry.detail))


ROUTES = (
    routes.Route("GET", "/audit", "audit:read", every, routes.Page[audit.Entry], query=Listing),
    routes.Route("GET", "/audit/head", "audit:read", head, audit.Head),
    routes.Route("POST", "/audit/verify", "audit:read", verify, audit.Verified, body=Heads),
)
