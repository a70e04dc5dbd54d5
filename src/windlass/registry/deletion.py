"""Deletion: a version goes, its bytes go with it unless another version needs them, and that is proved.

Called by the registry. The number stays taken and the history stays readable. Must never delete what an alias shows.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from windlass import errors
from windlass.records import audit, outbox
from windlass.registry import aliases, records, retention, versions
from windlass.storage import blobs, database


class Deleted(msgspec.Struct, frozen=True):
    """A version that was deleted: blobs that are gone for good, their bytes, and blobs that are still needed."""

    name: str
    version: int
    digest: str
    freed: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...]


class Deletion:
    """Deletes versions."""

    def __init__(
        self, rows: database.Database, store: blobs.BlobStore, kept: records.Records, clock: Callable[[], float]
    ) -> None:
        self._rows = rows
        self._store = store
        self._records = kept
        self._clock = clock
        self._collector = retention.Collector(rows, store)

    def delete(self, name: str, number: int, *, actor: str, reason: str) -> Deleted:
        """See `Registry.delete`."""
        self._records.check_writable()
        now = self._clock()
        with self._rows.write() as connection:
            versions.lock_model(connection, name)
            old = versions.numbered(connection, name, number)
            held = aliases.to_version(connection, name, number)
            if held:
                raise errors.Conflict(
                    f"{name}@{number} is what {', '.join(f'{name}:{alias}' for alias in held)} points to.",
                    hint=f"Move the alias first: windlass models alias {name} {held[0]} VERSION",
                )
            if old.status == "DELETED":
                # Whoever deleted it may have died before the record was written: a rebuild must not bring it back.
                self._records.write(old)
                return Deleted(name, number, old.digest, (), 0, ())
            new = versions.set_status(connection, old, "DELETED", reason)
            digests = retention.release(connection, old.id)
            payload = {"name": name, "version": number, "digest": old.digest, "actor": actor, "reason": reason}
            outbox.add(connection, "version.deleted", payload, now=now)
            audit.append(
                connection,
                actor=actor,
                action="version.deleted",
                subject=f"model/{name}@{number}",
                reason=reason,
                detail={"digest": old.digest},
                now=now,
            )
        sizes = {digest: self._store.size(digest) or 0 for digest in digests}
        freed = self._collector.free(digests, now=now)
        self._records.replace(old, new)
        kept = tuple(digest for digest in digests if digest not in freed)
        return Deleted(name, number, old.digest, freed, sum(sizes[digest] for digest in freed), kept)
