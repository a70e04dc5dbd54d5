"""The outbox: what the world is to be told, written in the transaction that made it true.

Called by whoever changes rows, inside the same transaction; read by whoever delivers webhooks, and by the API's stream
of events. Must never send anything itself, nor forget what is still to be delivered.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass.records import audit
from windlass.storage import tables
from windlass.types import strict_json

KEPT_S = 7 * 24 * 3600.0


class Event(msgspec.Struct, frozen=True):
    """One thing that happened. `missing`: where it is still to be delivered; None: nobody has tried yet."""

    id: int
    event: str
    payload: dict[str, Any]
    attempts: int
    created_at: float
    missing: tuple[str, ...] | None = None


def add(connection: sa.Connection, event: str, payload: dict[str, Any], *, now: float) -> None:
    """Note an event (`version.created`, `alias.moved`, ...), due at once.

    Written when the transaction commits, under the lock of the audit log: whoever has seen an event has seen all with
    a lower id.
    """
    fields = {"event": event, "payload": strict_json.canonical(payload).decode(), "next_at": now, "created_at": now}
    sa.event.listen(connection, "commit", functools.partial(_write, fields), once=True)


def after(connection: sa.Connection, last: int, *, limit: int = 100) -> tuple[Event, ...]:
    """Events above an id, delivered or not, the oldest first."""
    o = tables.outbox
    return _events(connection, sa.select(o).where(o.c.id > last).order_by(o.c.id).limit(limit))


def newest(connection: sa.Connection) -> int:
    """The id of the last event; 0 if there was none."""
    return connection.execute(sa.select(sa.func.max(tables.outbox.c.id))).scalar() or 0


def due(connection: sa.Connection, *, limit: int = 100, now: float) -> tuple[Event, ...]:
    """What is to be delivered now, the oldest first; held until the transaction ends, and passed over by others."""
    o = tables.outbox
    query = sa.select(o).where(o.c.done_at.is_(None), o.c.next_at <= now).order_by(o.c.id).limit(limit)
    return _events(connection, query.with_for_update(skip_locked=True))


def done(connection: sa.Connection, identity: int, *, now: float) -> None:
    """An event was delivered everywhere, or there is nobody to tell. It stays for readers, for a week."""
    o = tables.outbox
    connection.execute(sa.update(o).where(o.c.id == identity).values(done_at=now, missing="[]"))


def postpone(connection: sa.Connection, identity: int, *, next_at: float, missing: Sequence[str] | None = None) -> None:
    """An event could not be delivered: once more at `next_at`, to those that miss it (None: as before)."""
    o = tables.outbox
    values: dict[str, Any] = {"next_at": next_at, "attempts": o.c.attempts + 1}
    if missing is not None:
        values["missing"] = strict_json.canonical(tuple(missing)).decode()
    connection.execute(sa.update(o).where(o.c.id == identity).values(**values))


def forget(connection: sa.Connection, *, now: float) -> None:
    """Drop what was delivered long ago; never the newest, so that no id is given twice."""
    o = tables.outbox
    last = sa.select(sa.func.max(o.c.id)).scalar_subquery()
    connection.execute(sa.delete(o).where(o.c.done_at < now - KEPT_S, o.c.id < last))


def _write(fields: dict[str, Any], connection: sa.Connection) -> None:
    audit.hold(connection)
    connection.execute(sa.insert(tables.outbox).values(attempts=0, **fields))


def _events(connection: sa.Connection, query: sa.Select[Any]) -> tuple[Event, ...]:
    return tuple(
        Event(
            id=row.id,
            event=row.event,
            payload=json.loads(row.payload),
            attempts=row.attempts,
            created_at=row.created_at,
            missing=None if row.missing is None else tuple(json.loads(row.missing)),
        )
        for row in connection.execute(query)
    )
