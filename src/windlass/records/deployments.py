"""Deployments on record: what is wanted of each, who wanted it, and what the controller saw last.

Called inside a transaction by `desired/` (the wish) and by the controller (the status). Must never let two people
change one generation, nor give a generation twice.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit, outbox
from windlass.storage import database, tables
from windlass.types import deployment as deployments
from windlass.types import refs, strict_json


class Deployment(msgspec.Struct, frozen=True):
    """One deployment. `generation` grows with each wish; `actor`, `reason` and `updated_at` are the last wish's.

    `removed_at`: since when it is to be run no more. A removed one that is asked for again goes on counting.
    """

    desired: deployments.Desired
    generation: int
    status: deployments.Status
    actor: str
    reason: str
    created_at: float
    updated_at: float
    removed_at: float | None = None

    @property
    def name(self) -> str:
        """The deployment's name, which is its endpoint's."""
        return self.desired.name


def get(connection: sa.Connection, name: str, *, removed: bool = False) -> Deployment | None:
    """A deployment, None if there is none; with `removed` also one that was removed."""
    row = connection.execute(_named(name)).one_or_none()
    return None if row is None or (row.removed_at is not None and not removed) else _deployment(row)


def every(
    connection: sa.Connection, *, search: str = "", after: str = "", limit: int = 100, removed: bool = False
) -> tuple[Deployment, ...]:
    """Deployments by name: those whose name holds `search`, above the name `after`."""
    d = tables.deployment
    query = sa.select(d).where(d.c.name > after).order_by(d.c.name).limit(limit)
    if search:
        query = query.where(d.c.name.contains(search, autoescape=True))
    if not removed:
        query = query.where(d.c.removed_at.is_(None))
    return tuple(_deployment(row) for row in connection.execute(query))


def put(
    connection: sa.Connection,
    desired: deployments.Desired,
    *,
    expected: int | None,
    actor: str,
    reason: str = "",
    now: float,
) -> Deployment:
    """Write a wish as the next generation; noted in the audit log and the outbox.

    `expected` is the generation that the caller has seen (0: there is none; None: whatever it is). `Conflict` names
    both generations and who wrote last.
    """
    d = tables.deployment
    values = {"desired": _text(desired), "actor": actor, "reason": reason, "updated_at": now, "removed_at": None}
    fresh = {**values, "name": desired.name, "generation": 1, "created_at": now, "status": "{}"}
    old = _locked(connection, desired.name)
    if old is None:
        if expected:
            raise errors.Conflict(f"there is no deployment '{desired.name}' (expected: generation {expected}).")
        # Whoever inserted it since has committed by the time that this fails.
        if not database.insert_absent(connection, d, fresh):
            old = _locked(connection, desired.name)
    if old is not None:
        current = _deployment(old)
        _check_expected(current, expected)
        _update(connection, desired.name, generation=old.generation + 1, **values)
    new = _deployment(connection.execute(_named(desired.name)).one())
    _tell(connection, "deployment.changed", new, now=now)
    return new


def remove(
    connection: sa.Connection, name: str, *, expected: int | None, actor: str, reason: str = "", now: float
) -> Deployment:
    """Have a deployment run no more, as its next generation; `NotFound` if there is none, `Conflict` as in `put`."""
    old = _locked(connection, name)
    if old is None or old.removed_at is not None:
        raise missing(connection, name)
    _check_expected(_deployment(old), expected)
    values = {"generation": old.generation + 1, "actor": actor, "reason": reason, "updated_at": now, "removed_at": now}
    _update(connection, name, **values)
    new = _deployment(connection.execute(_named(name)).one())
    _tell(connection, "deployment.removed", new, now=now)
    return new


def observe(connection: sa.Connection, name: str, status: deployments.Status) -> None:
    """Write what the controller saw. The wish stays as it is."""
    _update(connection, name, status=_text(status))


def holding(connection: sa.Connection, digest: str) -> tuple[Deployment, ...]:
    """The deployments that run, or are to run, the package with this digest."""
    d, r = tables.deployment, tables.rollout
    under_way = sa.select(r.c.deployment).where(
        r.c.ended_at.is_(None), sa.or_(*(column.contains(digest) for column in (r.c.old, r.c.new, r.c.against)))
    )
    holds = sa.or_(d.c.status.contains(digest), d.c.desired.contains(digest), d.c.name.in_(under_way))
    query = sa.select(d).where(d.c.removed_at.is_(None), holds).order_by(d.c.name)
    return tuple(_deployment(row) for row in connection.execute(query))


def missing(connection: sa.Connection, name: str) -> errors.NotFound:
    """The error for a deployment that is not there; it names the nearest."""
    d = tables.deployment
    known = connection.execute(sa.select(d.c.name).where(d.c.removed_at.is_(None))).scalars()
    return errors.NotFound(
        f"there is no deployment '{name}'.", hint=refs.nearest(name, known) or "See: windlass rollout status"
    )


def _check_expected(current: Deployment, expected: int | None) -> None:
    seen = 0 if current.removed_at is not None and not expected else current.generation
    if expected is not None and expected != seen:
        raise errors.Conflict(
            f"'{current.name}' is at generation {current.generation}, written by {current.actor}"
            f"{f' ({current.reason})' if current.reason else ''}; generation {expected} was expected.",
            hint="Look at what it is now, and try again.",
        )


def _tell(connection: sa.Connection, action: str, new: Deployment, *, now: float) -> None:
    said = {"generation": new.generation, "desired": strict_json.plain(new.desired)}
    outbox.add(connection, action, {"name": new.name, "actor": new.actor, "reason": new.reason, **said}, now=now)
    subject = f"deployment/{new.name}"
    audit.append(connection, actor=new.actor, action=action, subject=subject, reason=new.reason, detail=said, now=now)


def _named(name: str) -> sa.Select[Any]:
    return sa.select(tables.deployment).where(tables.deployment.c.name == name)


def _locked(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(_named(name).with_for_update()).one_or_none()


def _update(connection: sa.Connection, name: str, **values: Any) -> None:
    connection.execute(sa.update(tables.deployment).where(tables.deployment.c.name == name).values(**values))


def _text(value: msgspec.Struct) -> str:
    return strict_json.canonical(value).decode()


def _deployment(row: sa.Row[Any]) -> Deployment:
    return Deployment(
        desired=msgspec.json.decode(row.desired, type=deployments.Desired),
        generation=row.generation,
        status=msgspec.json.decode(row.status, type=deployments.Status),
        actor=row.actor,
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        removed_at=row.removed_at,
    )
