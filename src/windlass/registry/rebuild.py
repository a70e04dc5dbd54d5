"""Rebuild: the rows of a lost database, made again from the records and the manifests beside the blobs.

Called by the registry when an operator asks. Aliases and evidence were in the database alone: they are not made up.
Must never change a version that is there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from windlass import errors
from windlass.records import audit
from windlass.registry import promotion, records, retention, versions
from windlass.storage import blobs, database
from windlass.types import manifest, strict_json


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild brought back, as `name@version`: whole versions, broken ones, and those deleted before."""

    restored: tuple[str, ...]
    quarantined: tuple[str, ...]
    deleted: tuple[str, ...]


def rebuild(
    rows: database.Database, store: blobs.BlobStore, kept: records.Records, *, actor: str, now: float
) -> Rebuilt:
    """Make the row of every version that is on record and not in the database; all its bytes are verified."""
    found: dict[str, list[str]] = {"READY": [], "QUARANTINED": [], "DELETED": []}
    # The newest first: of two live versions with the same bytes, the older one's deletion was not yet on record.
    for record in sorted(kept.latest(), key=lambda r: (r.name, -r.version)):
        value, needed, fault = _contents(store, record)
        with rows.write() as connection:
            model_id = versions.make_model(connection, record.name, now=now)
            if versions.exists(connection, model_id, record.version):
                continue
            status, reason = record.status, record.reason
            if versions.alive(connection, record.name, record.digest):
                status, needed = "DELETED", {}
            elif fault and status != "DELETED":
                status, reason = "QUARANTINED", fault
            row = _row(record, value, needed) | {"status": status, "reason": reason}
            versions.insert(connection, model_id, row, number=record.version)
            version = versions.numbered(connection, record.name, record.version)
            retention.announce(connection, needed, now=now)
            retention.need(connection, version.id, needed)
            audit.append(
                connection,
                actor=actor,
                action="version.rebuilt",
                subject=f"model/{record.name}@{record.version}",
                reason=reason,
                detail={"digest": record.digest, "status": status},
                now=now,
            )
        found["READY" if status in ("NEW", "VERIFIED") else status].append(f"{record.name}@{record.version}")
    return Rebuilt(*(tuple(sorted(found[status])) for status in ("READY", "QUARANTINED", "DELETED")))


def _contents(
    store: blobs.BlobStore, record: records.Record
) -> tuple[manifest.Manifest | None, dict[str, manifest.BlobRef], str]:
    """The manifest of a record, the blobs of it that are whole, and what is wrong with the others."""
    whole: dict[str, manifest.BlobRef] = {}
    if record.status == "DELETED":
        return None, whole, ""
    try:
        value = promotion.manifest_of(store, record.digest)
        whole[record.digest] = manifest.BlobRef(record.digest, store.size(record.digest) or 0)
    except (errors.NotFound, errors.CorruptPackage, errors.InvalidInput) as e:
        return None, whole, e.message
    fault = ""
    for ref in value.blobs().values():
        try:
            store.read(ref)
            whole[ref.digest] = ref
        except (errors.NotFound, errors.CorruptPackage) as e:
            fault = e.message
    return value, whole, fault


def _row(
    record: records.Record, value: manifest.Manifest | None, needed: dict[str, manifest.BlobRef]
) -> dict[str, Any]:
    lineage = manifest.Lineage() if value is None else value.lineage
    return {
        "digest": record.digest,
        "generation": record.generation,
        "size": sum(ref.size for ref in needed.values()),
        "parent": lineage.parent,
        "lineage": strict_json.canonical(lineage).decode(),
        "actor": record.actor,
        "description": record.description,
        "created_at": record.created_at,
    }
