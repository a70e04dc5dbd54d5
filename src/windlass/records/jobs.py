"""Jobs: long work that is done in child processes, each piece by one process at a time.

Queued by the API, taken by the controller. Must never lose a job whose process died: when its time is over it is taken
again, up to `TRIES` times.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import tables
from windlass.types import strict_json

State = Literal["QUEUED", "RUNNING", "DONE", "FAILED"]
TRIES = 3


class Job(msgspec.Struct, frozen=True):
    """A piece of work. `attempts` counts how often it was taken, and tells one taking from another.

    `result` is whatever the work gave; of a FAILED one its `error`.
    """

    id: int
    kind: str
    arguments: dict[str, Any]
    state: State
    result: dict[str, Any]
    attempts: int
    holder: str
    expires_at: float
    actor: str
    created_at: float
    ended_at: float | None


def enqueue(connection: sa.Connection, kind: str, arguments: dict[str, Any], *, actor: str, now: float) -> Job:
    """A new job."""
    values = {
        "kind": kind,
        "arguments": strict_json.canonical(arguments).decode(),
        "state": "QUEUED",
        "result": "{}",
        "attempts": 0,
        "holder": "",
        "expires_at": 0.0,
        "actor": actor,
        "created_at": now,
    }
    inserted = connection.execute(sa.insert(tables.job).values(**values).returning(tables.job.c.id))
    return get(connection, inserted.scalar_one())


def claim(connection: sa.Connection, holder: str, *, ttl_s: float, now: float, kinds: Sequence[str] = ()) -> Job | None:
    """The oldest job that nobody works at, taken for `ttl_s` seconds; None if there is none.

    One that was taken `TRIES` times and never ended is FAILED instead.
    """
    j = tables.job
    free = sa.or_(j.c.state == "QUEUED", sa.and_(j.c.state == "RUNNING", j.c.expires_at <= now))
    query = sa.select(j).where(free).order_by(j.c.id).limit(1).with_for_update(skip_locked=True)
    if kinds:
        query = query.where(j.c.kind.in_(kinds))
    while (row := connection.execute(query).one_or_none()) is not None:
        if row.attempts < TRIES:
            values = {"state": "RUNNING", "attempts": row.attempts + 1, "holder": holder, "expires_at": now + ttl_s}
            connection.execute(sa.update(j).where(j.c.id == row.id).values(**values))
            return get(connection, row.id)
        _end(connection, row.id, "FAILED", {"error": f"its process died {TRIES} times"}, now)
    return None


def renew(connection: sa.Connection, job: Job, *, ttl_s: float, now: float) -> bool:
    """Keep a job for `ttl_s` more seconds; False if it ended or was taken again."""
    return _change(connection, job, expires_at=now + ttl_s)


def finish(
    connection: sa.Connection, job: Job, *, state: Literal["DONE", "FAILED"], result: dict[str, Any], now: float
) -> bool:
    """End a job that was claimed; False, with nothing changed, if it was taken again meanwhile."""
    text = strict_json.canonical(result).decode()
    return _change(connection, job, state=state, result=text, ended_at=now, expires_at=0.0)


def get(connection: sa.Connection, identity: int) -> Job:
    """A job; `NotFound` if there is none."""
    row = connection.execute(sa.select(tables.job).where(tables.job.c.id == identity)).one_or_none()
    if row is None:
        raise errors.NotFound(f"there is no job {identity}.")
    return _job(row)


def every(
    connection: sa.Connection, *, state: str = "", kind: str = "", before: int = 0, limit: int = 100
) -> tuple[Job, ...]:
    """Jobs, the newest first; those below the id `before`, if it is given."""
    j = tables.job
    query = sa.select(j).order_by(j.c.id.desc()).limit(limit)
    if state:
        query = query.where(j.c.state == state)
    if kind:
        query = query.where(j.c.kind == kind)
    if before:
        query = query.where(j.c.id < before)
    return tuple(_job(row) for row in connection.execute(query))


def _change(connection: sa.Connection, job: Job, **values: Any) -> bool:
    j = tables.job
    mine = (j.c.id == job.id, j.c.state == "RUNNING", j.c.attempts == job.attempts)
    return connection.execute(sa.update(j).where(*mine).values(**values)).rowcount == 1


def _end(connection: sa.Connection, identity: int, state: str, result: dict[str, Any], now: float) -> None:
    j = tables.job
    text = strict_json.canonical(result).decode()
    connection.execute(sa.update(j).where(j.c.id == identity).values(state=state, result=text, ended_at=now))


def _job(row: sa.Row[Any]) -> Job:
    fields = {name: getattr(row, name) for name in Job.__struct_fields__}
    return Job(**{**fields, "arguments": json.loads(row.arguments), "result": json.loads(row.result)})
