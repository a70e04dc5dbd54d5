"""Registration: how a package becomes a version, and how evidence and faults change a version's status.

Called by the registry. The order is: announce the blobs, store them, then the row in a transaction that sees them in
place, then the record, and only then is the caller told. Must never acknowledge before all of it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import answers, audit, outbox
from windlass.registry import findings, records, retention, revocations, versions
from windlass.storage import blobs, database
from windlass.types import evidence as evidences
from windlass.types import manifest, strict_json

Buffer: TypeAlias = bytes | memoryview
_TRIES = 20


class Package(Protocol):
    """What the registry needs of a package; `packaging/archive.py` has the real one."""

    manifest: manifest.Manifest
    digest: str

    def entries(self) -> Iterator[tuple[str, Buffer]]:
        """Every file by its name: first the canonical manifest, whose SHA-256 is `digest`, then each blob."""
        ...


class Pushed(msgspec.Struct, frozen=True):
    """The version that holds a package; `created` is False when the same bytes were there already."""

    name: str
    version: int
    digest: str
    status: versions.Status
    created: bool


class Push(msgspec.Struct, frozen=True):
    """What is to be registered, apart from the bytes."""

    name: str
    actor: str
    evidence: tuple[evidences.Evidence, ...] = ()
    description: str = ""
    tags: Mapping[str, str] = {}
    idempotency_key: str = ""


class Registration:
    """Writes versions."""

    def __init__(
        self, rows: database.Database, store: blobs.BlobStore, kept: records.Records, clock: Callable[[], float]
    ) -> None:
        self._rows = rows
        self._store = store
        self._records = kept
        self._clock = clock

    def push(self, package: Package, push: Push) -> Pushed:
        """See `Registry.push`."""
        self._records.check_writable()
        _check_evidence(package.digest, push.evidence)
        needed = _needed(package)
        for _ in range(_TRIES):
            with self._rows.write() as connection:
                retention.announce(connection, needed, now=self._clock())
            self._put(package, needed)
            with self._rows.write() as connection:
                done = self._register(connection, package, push, needed)
            if done is not None:
                pushed, version = done
                self._records.write(version)
                return pushed
        raise errors.Unavailable("the store loses blobs as fast as they are pushed.", hint="Try again.")

    def add_evidence(self, found: evidences.Evidence, *, actor: str) -> None:
        """See `Registry.add_evidence`."""
        with self._rows.write() as connection:
            holders = [v for v in versions.holding(connection, found.digest) if v.digest == found.digest]
            if not holders:
                raise errors.NotFound(f"no version has the digest {found.digest}.")
            findings.add(connection, [found], actor=actor, now=self._clock())
            changed = [(old, self._settle(connection, old, (found,), actor)) for old in holders]
        self._record(changed)

    def quarantine(self, digest: str, reason: str, *, actor: str) -> tuple[versions.Version, ...]:
        """See `Registry.quarantine`."""
        with self._rows.write() as connection:
            changed = self._withdraw(connection, digest, reason, actor)
        self._record(changed)
        return tuple(new for old, new in changed if new != old)

    def revoke(self, digest: str, reason: str, *, actor: str) -> revocations.Revoked:
        """See `Registry.revoke`."""
        now = self._clock()
        with self._rows.write() as connection:
            changed = self._withdraw(connection, digest, reason, actor)
            if not changed:
                raise errors.NotFound(f"no version needs {digest}.", hint="See: windlass models show NAME@VERSION")
            revocations.add(connection, digest, reason=reason, actor=actor, now=now)
            held = tuple(new for _, new in changed)
            running = revocations.running(connection, held)
            named = [f"{v.name}@{v.version}" for v in held]
            said = {"versions": named, "deployments": running}
            outbox.add(
                connection, "digest.revoked", {"digest": digest, "reason": reason, "actor": actor, **said}, now=now
            )
            _append(connection, "digest.revoked", f"digest/{digest}", actor, reason, said, now)
        self._record(changed)
        return revocations.Revoked(digest, held, running)

    def reinstate(self, digest: str, reason: str, *, actor: str) -> None:
        """See `Registry.reinstate`."""
        with self._rows.write() as connection:
            revocations.drop(connection, digest)
            _append(connection, "digest.reinstated", f"digest/{digest}", actor, reason, {}, self._clock())

    def _put(self, package: Package, needed: Mapping[str, manifest.BlobRef]) -> None:
        for digest in needed:
            self._store.restore(digest)
        stored = {self._store.put(data) for _, data in package.entries()}
        if stored != set(needed.values()):
            raise errors.CorruptPackage("the package's files are not those that its manifest lists.")

    def _register(
        self, connection: sa.Connection, package: Package, push: Push, needed: Mapping[str, manifest.BlobRef]
    ) -> tuple[Pushed, versions.Version] | None:
        """The version's row and all that goes with it; None if the collector has taken a blob meanwhile."""
        now = self._clock()
        model_id = versions.make_model(connection, push.name, now=now)
        request = ("push", push.name, package.digest)
        known = answers.recall(connection, push.idempotency_key, request, Pushed)
        if known is not None:
            return known, versions.numbered(connection, push.name, known.version)
        if not retention.hold(connection, self._store, needed):
            return None
        why = revocations.reason(connection, needed)
        if why:
            raise errors.NotAllowed(f"{why}. Nothing was registered.", hint="Push other bytes.")
        version = versions.alive(connection, push.name, package.digest)
        created = version is None
        if version is None:
            number = versions.insert(connection, model_id, self._row(package, push, needed))
            version = versions.numbered(connection, push.name, number)
            retention.need(connection, version.id, needed)
            versions.tag(connection, version, push.tags)
            payload = {"name": push.name, "version": number, "digest": package.digest, "actor": push.actor}
            outbox.add(connection, "version.created", payload, now=now)
            self._note(connection, version, "version.created", push.actor, push.description, {})
        on_record = [found.evidence for found in findings.of(connection, package.digest)]
        fresh = [found for found in push.evidence if found not in on_record]
        findings.add(connection, fresh, actor=push.actor, now=now)
        version = self._settle(connection, version, push.evidence, push.actor)
        pushed = Pushed(push.name, version.version, version.digest, version.status, created)
        answers.keep(connection, push.idempotency_key, request, pushed, now=now)
        return pushed, version

    def _row(self, package: Package, push: Push, needed: Mapping[str, manifest.BlobRef]) -> dict[str, Any]:
        return {
            "digest": package.digest,
            "status": "NEW",
            "reason": "",
            "generation": 1,
            "size": sum(ref.size for ref in needed.values()),
            "parent": package.manifest.lineage.parent,
            "lineage": strict_json.canonical(package.manifest.lineage).decode(),
            "actor": push.actor,
            "description": push.description,
            "created_at": self._clock(),
        }

    def _settle(
        self, connection: sa.Connection, version: versions.Version, found: Iterable[evidences.Evidence], actor: str
    ) -> versions.Version:
        """The status after new evidence: passed checks make a version READY, and bring it back from quarantine."""
        if version.status in ("READY", "DELETED") or not findings.checked(found):
            return version
        if revocations.of_version(connection, version):
            return version
        if version.status != "VERIFIED":
            version = versions.set_status(connection, version, "VERIFIED", "")
        # READY says that it does what its model did; what a policy asks for is asked when an alias is to lead to it.
        return self._step(connection, version, "READY", "", actor)

    def _step(
        self, connection: sa.Connection, version: versions.Version, status: versions.Status, reason: str, actor: str
    ) -> versions.Version:
        version = versions.set_status(connection, version, status, reason)
        payload = {"name": version.name, "version": version.version, "status": status, "reason": reason}
        outbox.add(connection, "version.status", payload, now=self._clock())
        self._note(connection, version, "version.status", actor, reason, {"status": status})
        return version

    def _withdraw(
        self, connection: sa.Connection, digest: str, reason: str, actor: str
    ) -> list[tuple[versions.Version, versions.Version]]:
        """Every version that needs a blob, before and after it went into quarantine."""
        return [
            (old, old if old.status == "QUARANTINED" else self._step(connection, old, "QUARANTINED", reason, actor))
            for old in versions.holding(connection, digest)
        ]

    def _note(
        self,
        connection: sa.Connection,
        version: versions.Version,
        action: str,
        actor: str,
        reason: str,
        detail: dict[str, Any],
    ) -> None:
        subject = f"model/{version.name}@{version.version}"
        _append(connection, action, subject, actor, reason, {"digest": version.digest, **detail}, self._clock())

    def _record(self, changed: Iterable[tuple[versions.Version, versions.Version]]) -> None:
        """Write the records; also of what was so before, as whoever changed it may have died before its record."""
        for old, new in changed:
            if new != old:
                self._records.replace(old, new)
            else:
                self._records.write(new)


def _append(
    connection: sa.Connection,
    action: str,
    subject: str,
    actor: str,
    reason: str,
    detail: dict[str, Any],
    now: float,
) -> None:
    audit.append(connection, actor=actor, action=action, subject=subject, reason=reason, detail=detail, now=now)


def _check_evidence(digest: str, found: Iterable[evidences.Evidence]) -> None:
    for one in found:
        if one.digest != digest:
            raise errors.InvalidInput(f"the evidence is for {one.digest}, and the package is {digest}.")
        if one.verdict == "failed":
            raise errors.GateRefused(f"the {one.kind} check failed: nothing was registered.")


def _needed(package: Package) -> dict[str, manifest.BlobRef]:
    """Every blob of a package by digest, the manifest among them."""
    _, data = next(package.entries())
    own = manifest.BlobRef(blobs.digest_of(data), len(data))
    if own.digest != package.digest:
        raise errors.CorruptPackage("the package's manifest is not the one that its digest names.")
    return {own.digest: own, **package.manifest.blobs()}
