"""Lineage: which version came from which.

Called by the registry. Must never follow a parent twice: a chain that a forged manifest bends into a circle ends.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from windlass.registry import versions
from windlass.storage import tables


class Relative(msgspec.Struct, frozen=True):
    """A version in a family. A parent that was never registered here has a digest only."""

    digest: str
    name: str = ""
    version: int = 0


class Family(msgspec.Struct, frozen=True):
    """The ancestors of a version, the nearest first, and the versions made from it."""

    ancestors: tuple[Relative, ...]
    children: tuple[Relative, ...]


def family(connection: sa.Connection, of: versions.Version) -> Family:
    """Where a version came from, and what came from it."""
    ancestors: list[Relative] = []
    seen = {of.digest}
    parent = of.parent
    while parent and parent not in seen:
        seen.add(parent)
        found = _named(connection, tables.version.c.digest == parent)
        ancestors.append(_relative(found[0]) if found else Relative(parent))
        parent = found[0].parent if found else ""
    children = _named(connection, tables.version.c.parent == of.digest)
    return Family(tuple(ancestors), tuple(map(_relative, children)))


def _named(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[sa.Row[tuple[str, int, str, str]]]:
    v, m = tables.version, tables.model
    query = sa.select(m.c.name, v.c.number, v.c.digest, v.c.parent).join_from(v, m, v.c.model_id == m.c.id)
    return list(connection.execute(query.where(condition).order_by(v.c.id)))


def _relative(row: sa.Row[tuple[str, int, str, str]]) -> Relative:
    return Relative(digest=row.digest, name=row.name, version=row.number)
