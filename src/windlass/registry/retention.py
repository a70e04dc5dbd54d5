"""Retention: which blobs are needed, and how the others go: marked from the rows, a grace, the trash, another grace.

Called by the registry. Two rules make it safe against pushes at any moment: bytes leave their place only inside a
transaction that holds the blob's row and sees no version needing it; and a version is written only inside one that
holds the rows of all its blobs and sees the bytes in place. Must never take a listing of the store for the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.storage import blobs, database, tables
from windlass.types import manifest


class Collected(msgspec.Struct, frozen=True):
    """What one collection did: blobs put into the trash, blobs removed for good, and their bytes."""

    trashed: int
    deleted: int
    freed_bytes: int


def announce(connection: sa.Connection, refs: Mapping[str, manifest.BlobRef], *, now: float) -> None:
    """Note blobs that are about to be stored, so that the grace begins anew and a crash leaves no stray."""
    table = tables.blob
    # In one order everywhere, so that two pushes of the same blobs cannot wait for each other.
    for digest in sorted(refs):
        touch = sa.update(table).where(table.c.digest == digest).values(touched_at=now, trashed_at=None)
        row = {"digest": digest, "size": refs[digest].size, "touched_at": now}
        # Between the two the collector may drop the row, or a rival may insert it.
        while connection.execute(touch).rowcount == 0 and not database.insert_absent(connection, table, row):
            pass


def hold(connection: sa.Connection, store: blobs.BlobStore, digests: Iterable[str]) -> bool:
    """Whether every blob is in place and none in the trash; if so none can leave before this transaction ends."""
    wanted = sorted(digests)
    table = tables.blob
    query = sa.select(table).where(table.c.digest.in_(wanted)).order_by(table.c.digest).with_for_update()
    held = {row.digest for row in connection.execute(query) if row.trashed_at is None}
    return held == set(wanted) and all(map(store.exists, wanted))


def need(connection: sa.Connection, version_id: int, digests: Iterable[str]) -> None:
    """Record that a version needs these blobs."""
    rows = [{"version_id": version_id, "digest": digest} for digest in sorted(digests)]
    if rows:
        connection.execute(sa.insert(tables.version_blob), rows)


def release(connection: sa.Connection, version_id: int) -> tuple[str, ...]:
    """Record that a version needs its blobs no more; returns their digests."""
    table = tables.version_blob
    query = sa.select(table.c.digest).where(table.c.version_id == version_id).order_by(table.c.digest)
    digests = tuple(connection.execute(query).scalars())
    connection.execute(sa.delete(table).where(table.c.version_id == version_id))
    return digests


class Collector:
    """Removes what nothing needs. Any number may run at once, beside pushes, loads and rollbacks."""

    def __init__(self, rows: database.Database, store: blobs.BlobStore) -> None:
        self._rows = rows
        self._store = store

    def collect(self, *, now: float, grace_s: float) -> Collected:
        """Trash what nothing has needed for `grace_s` seconds; delete what has lain in the trash as long."""
        self._adopt_strays(now)
        cutoff = now - grace_s
        table = tables.blob
        with self._rows.read() as connection:
            idle = list(connection.execute(_unneeded(table.c.trashed_at.is_(None), table.c.touched_at <= cutoff)))
        trashed = sum(self.trash(row.digest, now=now, cutoff=cutoff) for row in idle)
        with self._rows.read() as connection:
            doomed = list(connection.execute(_unneeded(table.c.trashed_at <= cutoff)))
        gone = [row.size for row in doomed if self.delete(row.digest, cutoff=cutoff)]
        return Collected(trashed=trashed, deleted=len(gone), freed_bytes=sum(gone))

    def trash(self, digest: str, *, now: float, cutoff: float) -> bool:
        """Move one blob to the trash, unless it is needed or was touched after `cutoff`."""
        table = tables.blob
        with self._rows.write() as connection:
            if not self._hold_unneeded(connection, digest, table.c.touched_at <= cutoff, table.c.trashed_at.is_(None)):
                return False
            self._store.trash(digest)
            connection.execute(sa.update(table).where(table.c.digest == digest).values(trashed_at=now))
        return True

    def delete(self, digest: str, *, cutoff: float) -> bool:
        """Remove one blob for good, unless a push wanted it again or it was trashed after `cutoff`."""
        table = tables.blob
        with self._rows.write() as connection:
            if not self._hold_unneeded(connection, digest, table.c.trashed_at <= cutoff):
                return False
            self._store.delete(digest)
            connection.execute(sa.delete(table).where(table.c.digest == digest))
        return True

    def free(self, digests: Iterable[str], *, now: float) -> tuple[str, ...]:
        """Remove blobs at once, without a grace, and prove it; returns those that are gone (the rest is needed)."""
        forever = math.inf
        gone = [d for d in digests if self.trash(d, now=now, cutoff=forever) and self.delete(d, cutoff=forever)]
        for digest in gone:
            # Only a push that began since may have brought the bytes back, and then it has announced them.
            if self._store.exists(digest) and not self._announced(digest):
                raise errors.InternalError(f"the blob {digest} was deleted, and is still there.")
        return tuple(gone)

    def _announced(self, digest: str) -> bool:
        with self._rows.read() as connection:
            return bool(connection.execute(sa.select(tables.blob).where(tables.blob.c.digest == digest)).first())

    def _hold_unneeded(self, connection: sa.Connection, digest: str, *still: sa.ColumnElement[bool]) -> bool:
        table = tables.blob
        if connection.execute(sa.select(table).where(table.c.digest == digest).with_for_update()).first() is None:
            return False
        # A second statement sees what was committed while the first one waited for the lock.
        return connection.execute(_unneeded(table.c.digest == digest, *still)).first() is not None

    def _adopt_strays(self, now: float) -> None:
        """Note blobs that no push announced (another program's, or from before a rebuild): their grace begins."""
        with self._rows.read() as connection:
            known = set(connection.execute(sa.select(tables.blob.c.digest)).scalars())
        for digest in self._store.digests():
            if digest not in known:
                row = {"digest": digest, "size": self._store.size(digest) or 0, "touched_at": now}
                with self._rows.write() as connection:
                    database.insert_absent(connection, tables.blob, row)


def _unneeded(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    table, needed = tables.blob, tables.version_blob
    unneeded = ~sa.exists().where(needed.c.digest == table.c.digest)
    return sa.select(table.c.digest, table.c.size).where(unneeded, *conditions).order_by(table.c.digest)
