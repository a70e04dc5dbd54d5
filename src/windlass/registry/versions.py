"""Versions of models: their rows, their numbers, and the way of a status from NEW to DELETED.

Called by the registry inside its transactions. Must never commit, and never give a number twice.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import database, tables
from windlass.types import refs

Status = Literal["NEW", "VERIFIED", "READY", "QUARANTINED", "DELETED"]
_NEXT: Mapping[str, tuple[str, ...]] = {
    "NEW": ("VERIFIED", "QUARANTINED", "DELETED"),
    "VERIFIED": ("READY", "QUARANTINED", "DELETED"),
    "READY": ("QUARANTINED", "DELETED"),
    "QUARANTINED": ("VERIFIED", "DELETED"),
    "DELETED": (),
}

_NEIGHBOURS = 200


class Version(msgspec.Struct, frozen=True):
    """One version of a model. `digest` is its package's; `size` counts the bytes of all its blobs.

    `generation` grows with each change of status; `reason` says why the status is what it is.
    `id` is the row's, for this room alone.
    """

    name: str
    version: int
    digest: str
    status: Status
    size: int
    parent: str
    actor: str
    description: str
    created_at: float
    reason: str
    generation: int
    id: int


class Model(msgspec.Struct, frozen=True):
    """A model: how many versions it has (deleted ones not counted), the newest, and where its aliases point."""

    name: str
    versions: int
    newest: int
    aliases: dict[str, int]
    created_at: float


def check_step(current: str, target: str) -> None:
    """`Conflict` unless a version may go from one status to the other."""
    if target not in _NEXT[current]:
        raise errors.Conflict(f"a version that is {current} cannot become {target}.")


def check_model(connection: sa.Connection, name: str) -> None:
    """`NotFound`, naming the nearest, if there is no such model."""
    if connection.execute(sa.select(tables.model.c.id).where(tables.model.c.name == name)).first() is None:
        raise _no_model(connection, name)


def lock_model(connection: sa.Connection, name: str) -> int:
    """The model's row, held until the transaction ends; `NotFound` names the nearest model."""
    found = connection.execute(
        sa.select(tables.model.c.id).where(tables.model.c.name == name).with_for_update()
    ).scalar()
    if found is None:
        raise _no_model(connection, name)
    return int(found)


def make_model(connection: sa.Connection, name: str, *, now: float) -> int:
    """The model's row, made if need be, held until the transaction ends."""
    database.insert_absent(connection, tables.model, {"name": name, "created_at": now})
    return lock_model(connection, name)


def models(
    connection: sa.Connection,
    *,
    search: str = "",
    after: str = "",
    limit: int | None = None,
    only: tuple[str, ...] = ("*",),
) -> tuple[Model, ...]:
    """Models by name: those whose name holds `search` and is like one of the globs, above the name `after`."""
    m = tables.model
    where = [m.c.name > after] if after else []
    if search:
        where.append(m.c.name.contains(search.lower(), autoescape=True))
    if "*" not in only:
        # The database sorts out by what globs begin with; what they mean is what they mean at a server's door.
        begins = (m.c.name.startswith(re.split(r"[*?[]", glob)[0], autoescape=True) for glob in only)
        names = connection.execute(sa.select(m.c.name).where(*where, sa.or_(sa.false(), *begins)).order_by(m.c.name))
        like = (name for name in names.scalars() if any(fnmatch.fnmatchcase(name, glob) for glob in only))
        where = [m.c.name.in_(list(itertools.islice(like, limit)))]
    rows = connection.execute(_counted().where(*where).order_by(m.c.name).limit(limit)).all()
    pointing = _pointing(connection, *where, m.c.name.between(rows[0].name, rows[-1].name)) if rows else {}
    return tuple(
        Model(row.name, row.versions, row.newest or 0, pointing.get(row.id, {}), created_at=row.created_at)
        for row in rows
    )


def every(connection: sa.Connection, name: str, *, after: int = 0, limit: int | None = None) -> tuple[Version, ...]:
    """The versions of a model, the newest first, deleted ones too; `NotFound` if there is no such model.

    `after` is the number of the last one that was seen, 0 if none was.
    """
    v = tables.version
    query = _select().where(tables.model.c.name == name).order_by(v.c.number.desc()).limit(limit)
    rows = connection.execute(query.where(v.c.number < after) if after else query).all()
    if not rows:
        check_model(connection, name)
    return tuple(map(_version, rows))


def numbered(connection: sa.Connection, name: str, number: int) -> Version:
    """A version by its number; `NotFound` says which there are."""
    row = connection.execute(
        _select().where(tables.model.c.name == name, tables.version.c.number == number)
    ).one_or_none()
    if row is None:
        check_model(connection, name)
        newest = every(connection, name, limit=1)[0].version
        raise errors.NotFound(
            f"'{name}' has no version {number}: its newest is {newest}.", hint=f"See: windlass models list {name}"
        )
    return _version(row)


def exists(connection: sa.Connection, model_id: int, number: int) -> bool:
    """Whether a model has a version of this number, deleted or not."""
    v = tables.version
    return (
        connection.execute(sa.select(v.c.id).where(v.c.model_id == model_id, v.c.number == number)).first() is not None
    )


def alive(connection: sa.Connection, name: str, digest: str) -> Version | None:
    """The version of a model that holds these bytes and was not deleted."""
    v = tables.version
    row = connection.execute(
        _select().where(tables.model.c.name == name, v.c.digest == digest, v.c.status != "DELETED")
    ).one_or_none()
    return None if row is None else _version(row)


def holding(connection: sa.Connection, digest: str) -> tuple[Version, ...]:
    """Every version, of any model, that needs a blob (a manifest's or another) and was not deleted."""
    held = tables.version_blob
    query = _select().join(held, held.c.version_id == tables.version.c.id).where(held.c.digest == digest)
    return tuple(_version(row) for row in connection.execute(query.order_by(tables.model.c.name, "number")))


def statuses(connection: sa.Connection, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[str, str]]:
    """The status of each of these versions (model, number) that there is, and why it is that."""
    v, m = tables.version, tables.model
    query = sa.select(m.c.name, v.c.number, v.c.status, v.c.reason).join_from(v, m, v.c.model_id == m.c.id)
    rows = connection.execute(query.where(sa.tuple_(m.c.name, v.c.number).in_(list(wanted))))
    return {(row.name, row.number): (row.status, row.reason) for row in rows}


def newest_ready(connection: sa.Connection, name: str) -> Version | None:
    """The newest version of a model that is READY."""
    v = tables.version
    query = _select().where(tables.model.c.name == name, v.c.status == "READY").order_by(v.c.number.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _version(row)


def insert(connection: sa.Connection, model_id: int, values: Mapping[str, Any], *, number: int = 0) -> int:
    """A new version's number: the next one, counting deleted ones, unless `number` says which (a rebuild does)."""
    v = tables.version
    if not number:
        last = connection.execute(sa.select(sa.func.max(v.c.number)).where(v.c.model_id == model_id)).scalar()
        number = (last or 0) + 1
    connection.execute(sa.insert(v).values(model_id=model_id, number=number, **values))
    return number


def set_status(connection: sa.Connection, version: Version, status: Status, reason: str) -> Version:
    """Move a version to a status; `Conflict` if there is no such step, or if it was changed meanwhile."""
    check_step(version.status, status)
    v = tables.version
    done = connection.execute(
        sa.update(v)
        .where(v.c.id == version.id, v.c.generation == version.generation)
        .values(status=status, reason=reason, generation=version.generation + 1)
    )
    if done.rowcount != 1:
        raise errors.Conflict(f"{version.name}@{version.version} was changed meanwhile.", hint="Look, and try again.")
    return msgspec.structs.replace(version, status=status, reason=reason, generation=version.generation + 1)


def tag(connection: sa.Connection, version: Version, values: Mapping[str, str]) -> None:
    """Put tags on a version."""
    for key, value in values.items():
        connection.execute(sa.insert(tables.tag).values(version_id=version.id, key=key, value=value))


def tags(connection: sa.Connection, version: Version) -> dict[str, str]:
    """The tags of a version."""
    t = tables.tag
    rows = connection.execute(sa.select(t.c.key, t.c.value).where(t.c.version_id == version.id).order_by(t.c.key))
    return {row.key: row.value for row in rows}


def _counted() -> sa.Select[Any]:
    """Models with how many live versions each has, and the newest's number."""
    m, v = tables.model, tables.version
    # In the index's own words: of a parameter, the database could not know that the index has all it asks for.
    live = (v.c.model_id == m.c.id, v.c.status != sa.literal_column("'DELETED'"))
    count = sa.select(sa.func.count()).where(*live).scalar_subquery().label("versions")
    return sa.select(m, count, sa.select(sa.func.max(v.c.number)).where(*live).scalar_subquery().label("newest"))


def _pointing(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> dict[int, dict[str, int]]:
    """Where the aliases of these models point, by the model's row."""
    a, m = tables.alias, tables.model
    query = sa.select(a).join_from(a, m, a.c.model_id == m.c.id).where(*where)
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(query.where(a.c.version.is_not(None)).order_by(a.c.name)):
        found.setdefault(row.model_id, {})[row.name] = row.version
    return found


def _select() -> sa.Select[Any]:
    v = tables.version
    return sa.select(tables.model.c.name, v).join_from(v, tables.model, v.c.model_id == tables.model.c.id)


def _version(row: sa.Row[Any]) -> Version:
    return Version(
        name=row.name,
        version=row.number,
        digest=row.digest,
        status=row.status,
        size=row.size,
        parent=row.parent,
        actor=row.actor,
        description=row.description,
        created_at=row.created_at,
        reason=row.reason,
        generation=row.generation,
        id=row.id,
    )


def _no_model(connection: sa.Connection, name: str) -> errors.NotFound:
    # Of very many models, those beside it in the alphabet: comparing with all of them would take too long.
    column = tables.model.c.name
    below = sa.select(column).where(column < name).order_by(column.desc()).limit(_NEIGHBOURS)
    above = sa.select(column).where(column >= name).order_by(column).limit(_NEIGHBOURS)
    known = [*connection.execute(below).scalars(), *connection.execute(above).scalars()]
    return errors.NotFound(
        f"there is no model '{name}'.", hint=refs.nearest(name, known) or "See: windlass models list"
    )
