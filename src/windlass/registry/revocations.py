"""Revocations: bytes that are to run nowhere any more, and the versions, aliases and deployments that hold some bytes.

Called by the registry inside its transactions. Must never let a push or a passed check undo a revocation.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import deployments
from windlass.registry import aliases, versions
from windlass.storage import database, tables
from windlass.types import refs


class Users(msgspec.Struct, frozen=True):
    """Who has some bytes: versions that need them, aliases (`name:alias`) that point there, deployments."""

    digest: str
    versions: tuple[versions.Version, ...]
    aliases: tuple[str, ...]
    deployments: tuple[str, ...]


class Revoked(msgspec.Struct, frozen=True):
    """What a revocation met: every version that needs the bytes, and the deployments that run one of them."""

    digest: str
    versions: tuple[versions.Version, ...]
    deployments: tuple[str, ...]


def check_digest(digest: str) -> str:
    """The digest, if it is one; else `UsageError`."""
    if not refs.DIGEST.fullmatch(digest):
        raise errors.UsageError(f"'{digest[:80]}' is no digest.", hint="Write sha256:<64 hex digits>.")
    return digest


def users(connection: sa.Connection, digest: str) -> Users:
    """Who has the package, or any other blob, with this digest. Nobody is no error."""
    held = versions.holding(connection, digest)
    named = aliases.to_versions(connection, (v.id for v in held))
    return Users(digest, held, tuple(f"{name}:{alias}" for name, alias, _ in named), running(connection, held))


def running(connection: sa.Connection, held: Iterable[versions.Version]) -> tuple[str, ...]:
    """The deployments that run, or are to run, one of these versions."""
    packages = dict.fromkeys(v.digest for v in held)
    return tuple(sorted({d.name for package in packages for d in deployments.holding(connection, package)}))


def add(connection: sa.Connection, digest: str, *, reason: str, actor: str, now: float) -> None:
    """Put a revocation on record; one that is there stays as it is."""
    values = {"digest": digest, "reason": reason, "actor": actor, "at": now}
    database.insert_absent(connection, tables.revocation, values)


def drop(connection: sa.Connection, digest: str) -> None:
    """Take a revocation back; `NotFound` if there is none."""
    table = tables.revocation
    if connection.execute(sa.delete(table).where(table.c.digest == digest)).rowcount == 0:
        raise errors.NotFound(f"{digest} is not revoked.")


def reason(connection: sa.Connection, digests: Iterable[str]) -> str:
    """Why these bytes may run nowhere; empty if none of them is revoked."""
    table = tables.revocation
    query = sa.select(table).where(table.c.digest.in_(list(digests))).order_by(table.c.digest).limit(1)
    row = connection.execute(query).one_or_none()
    return "" if row is None else f"{row.digest} was revoked: {row.reason}"


def of_version(connection: sa.Connection, version: versions.Version) -> str:
    """Why a version may not run, if bytes that it needs are revoked; else empty."""
    held = tables.version_blob
    return reason(
        connection, connection.execute(sa.select(held.c.digest).where(held.c.version_id == version.id)).scalars()
    )
