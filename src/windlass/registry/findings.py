"""Findings: the evidence on record for a package, keyed by its digest.

Called by the registry, and by the controller for what rollouts found, inside their transactions. Must never change or
drop a finding: a new one is a new row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from windlass.records import audit
from windlass.storage import tables
from windlass.types import evidence, strict_json

# What shows that a package does what its model did.
_CHECKS = ("parity", "verify")


class Finding(msgspec.Struct, frozen=True):
    """A piece of evidence, who brought it and when."""

    id: int
    evidence: evidence.Evidence
    actor: str
    at: float


def checked(found: Iterable[evidence.Evidence]) -> bool:
    """Whether the capture checks are among these, and none of them failed."""
    verdicts = [e.verdict for e in found if e.kind in _CHECKS]
    return bool(verdicts) and "failed" not in verdicts


def add(connection: sa.Connection, found: Iterable[evidence.Evidence], *, actor: str, now: float) -> None:
    """Put evidence on record, and into the audit log of each version that holds the package."""
    found = tuple(found)
    rows = [
        {
            "digest": e.digest,
            "kind": e.kind,
            "verdict": e.verdict,
            "statistics": strict_json.canonical(e.statistics).decode(),
            "window": e.window,
            "actor": actor,
            "at": now,
        }
        for e in found
    ]
    if rows:
        connection.execute(sa.insert(tables.evidence), rows)
    m, v = tables.model, tables.version
    for one in found:
        holders = (
            sa.select(m.c.name, v.c.number).join_from(v, m, v.c.model_id == m.c.id).where(v.c.digest == one.digest)
        )
        said = {"digest": one.digest, "kind": one.kind, "verdict": one.verdict, "window": one.window}
        for name, number in connection.execute(holders.order_by(v.c.id)):
            subject = f"model/{name}@{number}"
            audit.append(connection, actor=actor, action="evidence.added", subject=subject, detail=said, now=now)


def of(connection: sa.Connection, digest: str) -> tuple[Finding, ...]:
    """All evidence for a package, the oldest first."""
    e = tables.evidence
    return tuple(
        Finding(
            id=row.id,
            evidence=evidence.Evidence(
                digest=row.digest,
                kind=row.kind,
                verdict=row.verdict,
                statistics=json.loads(row.statistics),
                window=row.window,
            ),
            actor=row.actor,
            at=row.at,
        )
        for row in connection.execute(sa.select(e).where(e.c.digest == digest).order_by(e.c.id))
    )
