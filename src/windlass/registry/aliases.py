"""Aliases: names that move from version to version, and the history of every move.

Called by the registry inside its transactions. Must never move an alias without its event, nor change an event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit, outbox
from windlass.storage import database, tables
from windlass.types import strict_json

Kind = Literal["move", "rollback"]


class Event(msgspec.Struct, frozen=True):
    """One move of an alias. A version of None means that it pointed nowhere.

    `evidence` are the ids of the findings on record for the target then; `at` never runs backwards along an alias.
    """

    name: str
    alias: str
    generation: int
    kind: Kind
    from_version: int | None
    to_version: int | None
    actor: str
    reason: str
    evidence: tuple[int, ...]
    at: float


def pointing(connection: sa.Connection, name: str, alias: str) -> tuple[int | None, int]:
    """The version an alias points to (None: nowhere) and its generation (0: it was never set)."""
    a, m = tables.alias, tables.model
    row = connection.execute(
        sa.select(a.c.version, a.c.generation)
        .join_from(a, m, a.c.model_id == m.c.id)
        .where(m.c.name == name, a.c.name == alias)
    ).one_or_none()
    return (None, 0) if row is None else (row.version, row.generation)


def to_versions(connection: sa.Connection, ids: Iterable[int]) -> tuple[tuple[str, str, int], ...]:
    """The aliases that point to versions with these row ids: the model's name, the alias, the number."""
    a, m, v = tables.alias, tables.model, tables.version
    query = (
        sa.select(m.c.name, a.c.name.label("alias"), a.c.version)
        .join_from(a, m, a.c.model_id == m.c.id)
        .join(v, sa.and_(v.c.model_id == a.c.model_id, v.c.number == a.c.version))
        .where(v.c.id.in_(list(ids)))
        .order_by(m.c.name, a.c.name)
    )
    return tuple((name, alias, number) for name, alias, number in connection.execute(query))


def to_version(connection: sa.Connection, name: str, number: int) -> tuple[str, ...]:
    """The aliases that point to a version."""
    a, m = tables.alias, tables.model
    query = sa.select(a.c.name).join_from(a, m, a.c.model_id == m.c.id)
    return tuple(connection.execute(query.where(m.c.name == name, a.c.version == number).order_by(a.c.name)).scalars())


def move(connection: sa.Connection, model_id: int, event: Event) -> Event:
    """Write alias, event and outbox, if the alias is still at the generation before the event's; else `Conflict`."""
    a, e = tables.alias, tables.alias_event
    if event.generation == 1:
        row = {"model_id": model_id, "name": event.alias, "version": event.to_version, "generation": 1}
        done = database.insert_absent(connection, a, row)
    else:
        result = connection.execute(
            sa.update(a)
            .where(a.c.model_id == model_id, a.c.name == event.alias, a.c.generation == event.generation - 1)
            .values(version=event.to_version, generation=event.generation)
        )
        done = result.rowcount == 1
    if not done:
        raise errors.Conflict(
            f"{event.name}:{event.alias} was moved by somebody else.", hint="Look at its history, and try again."
        )
    last = connection.execute(
        sa.select(sa.func.max(e.c.at)).where(e.c.model_id == model_id, e.c.alias == event.alias)
    ).scalar()
    # A clock set back must not reorder the history.
    event = msgspec.structs.replace(event, at=max(event.at, last or 0.0))
    values = {**msgspec.structs.asdict(event), "evidence": strict_json.canonical(event.evidence).decode()}
    del values["name"]
    connection.execute(sa.insert(e).values(model_id=model_id, **values))
    outbox.add(connection, "alias.moved", msgspec.to_builtins(event), now=event.at)
    audit.append(
        connection,
        actor=event.actor,
        action="alias.moved",
        subject=f"model/{event.name}:{event.alias}",
        reason=event.reason,
        detail={
            "generation": event.generation,
            "kind": event.kind,
            "from": event.from_version,
            "to": event.to_version,
            "evidence": event.evidence,
        },
        now=event.at,
    )
    return event


def history(connection: sa.Connection, name: str, alias: str = "") -> tuple[Event, ...]:
    """Every move of one alias (of all, if it is empty), the oldest first."""
    query = _events().where(tables.model.c.name == name)
    if alias:
        query = query.where(tables.alias_event.c.alias == alias)
    return tuple(_event(row) for row in connection.execute(query))


def in_force(events: Iterable[Event], moment: float) -> tuple[Event, ...]:
    """Of a history, the move of each alias that was in force at a moment (seconds since the epoch)."""
    latest: dict[str, Event] = {}
    for event in events:
        if event.at <= moment:
            latest[event.alias] = event
    return tuple(latest.values())


def previous(events: tuple[Event, ...]) -> int | None:
    """Where a rollback goes: the target before the one in force.

    Moves stack and rollbacks take off the top, so that a second rollback goes further back, not forth again.
    """
    stack: list[int | None] = []
    for event in events:
        if event.kind == "rollback":
            stack.pop()
        else:
            stack.append(event.to_version)
    return stack[-2] if len(stack) > 1 else None


def _events() -> sa.Select[Any]:
    e, m = tables.alias_event, tables.model
    return sa.select(m.c.name, e).join_from(e, m, e.c.model_id == m.c.id).order_by(e.c.alias, e.c.generation)


def _event(row: sa.Row[Any]) -> Event:
    return Event(
        name=row.name,
        alias=row.alias,
        generation=row.generation,
        kind=row.kind,
        from_version=row.from_version,
        to_version=row.to_version,
        actor=row.actor,
        reason=row.reason,
        evidence=tuple(json.loads(row.evidence)),
        at=row.at,
    )
