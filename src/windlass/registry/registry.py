"""The registry of one home: names, versions, aliases, evidence, and what they point to.

Opened by the CLI and the Python face; each noun has its file beside this one. Must never load a model, nor read a
package file: it is handed packages that were opened and checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import answers
from windlass.registry import (
    aliases,
    deletion,
    findings,
    lineage,
    promotion,
    records,
    registration,
    retention,
    revocations,
)
from windlass.registry import rebuild as rebuilding
from windlass.registry import versions as version_rows
from windlass.storage import blobs, database
from windlass.types import deployment, manifest, refs
from windlass.types import evidence as evidences

GRACE_S = 24 * 3600.0


class Resolved(msgspec.Struct, frozen=True):
    """What a reference means at this moment."""

    name: str
    version: int
    digest: str
    status: version_rows.Status


class Shown(msgspec.Struct, frozen=True):
    """All that is known of one version; without a manifest if that is gone."""

    version: version_rows.Version
    aliases: tuple[str, ...]
    tags: dict[str, str]
    manifest: manifest.Manifest | None
    family: lineage.Family
    evidence: tuple[findings.Finding, ...]


class Registry:
    """One registry. Threads and other processes may use it at once; a forked child opens its own.

    `require` are the kinds of evidence that a version must have passed before an alias or a deployment may lead to it.
    """

    def __init__(
        self,
        rows: database.Database,
        store: blobs.BlobStore,
        kept: records.Records,
        clock: Callable[[], float] = time.time,
        *,
        require: tuple[str, ...] = (),
    ) -> None:
        self.store = store
        self._rows = rows
        self._records = kept
        self._clock = clock
        self._registration = registration.Registration(rows, store, kept, clock)
        self._promotion = promotion.Promotion(rows, store, clock, require)
        self._deletion = deletion.Deletion(rows, store, kept, clock)
        self._collector = retention.Collector(rows, store)

    @classmethod
    def open(cls, home: Path) -> Registry:
        """The registry of a home folder: `registry.db` and `blobs/`, made if need be."""
        return cls.open_at(f"sqlite:///{home.absolute() / 'registry.db'}", str(home.absolute() / "blobs"))

    @classmethod
    def open_at(cls, database_url: str, store_root: str, *, require: tuple[str, ...] = ()) -> Registry:
        """The registry with its rows at an SQLAlchemy URL and its bytes below a path or an object store's URL."""
        promotion.check_policy(require)
        rows = database.open_database(database_url)
        return cls(rows, blobs.BlobStore(store_root), records.Records.below(store_root), require=require)

    def close(self) -> None:
        """Give the database's connections back."""
        self._rows.close()

    def push(
        self,
        package: registration.Package,
        *,
        name: str,
        actor: str,
        evidence: Iterable[evidences.Evidence] = (),
        description: str = "",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
    ) -> registration.Pushed:
        """Register a package as the next version of a model; the same bytes pushed again are the same version.

        With evidence that the capture checks passed it is READY, else NEW. Evidence that failed is `GateRefused`.
        A retry with the same key is answered as the first try was.
        """
        push = registration.Push(
            name=refs.check_name(name),
            actor=actor,
            evidence=tuple(evidence),
            description=description,
            tags=dict(tags or {}),
            idempotency_key=idempotency_key,
        )
        return self._registration.push(package, push)

    def resolve(self, ref: refs.Ref) -> Resolved:
        """The version that a reference means now: a bare name is its alias `production`, else the newest READY one.

        `NotFound` if there is none or it was deleted, `NotAllowed` with the reason if it is in quarantine.
        """
        version = self._find(ref)
        named = f"{version.name}@{version.version}"
        if version.status == "DELETED":
            raise errors.NotFound(f"{named} was deleted.", hint=f"See: windlass models show {version.name}")
        if version.status == "QUARANTINED":
            raise errors.NotAllowed(f"{named} is in quarantine: {version.reason}.", hint="Use another version.")
        return Resolved(version.name, version.version, version.digest, version.status)

    def models(
        self, *, search: str = "", after: str = "", limit: int | None = None, only: tuple[str, ...] = ("*",)
    ) -> tuple[version_rows.Model, ...]:
        """Models by name: whose name holds `search` and is like one of the globs `only`, above the name `after`."""
        with self._rows.read() as connection:
            return version_rows.models(connection, search=search, after=after, limit=limit, only=only)

    def versions(self, name: str, *, after: int = 0, limit: int | None = None) -> tuple[version_rows.Version, ...]:
        """The versions of a model, the newest first, deleted ones too; those below the number `after`, if given."""
        with self._rows.read() as connection:
            return version_rows.every(connection, name, after=after, limit=limit)

    def show(self, ref: refs.Ref) -> Shown:
        """All that is known of a version, whatever its status."""
        version = self._find(ref)
        with self._rows.read() as connection:
            named = aliases.to_version(connection, version.name, version.version)
            tags = version_rows.tags(connection, version)
            family = lineage.family(connection, version)
            found = findings.of(connection, version.digest)
        try:
            value = promotion.manifest_of(self.store, version.digest)
        except (errors.NotFound, errors.CorruptPackage):
            value = None
        return Shown(version, named, tags, value, family, found)

    def move_alias(
        self,
        name: str,
        alias: str,
        version: int | None,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        idempotency_key: str = "",
    ) -> aliases.Event:
        """Point an alias to a version (None: nowhere), if it is still at `expected_generation` (0: never set).

        The version must be READY, its bytes whole, and its signature must take what callers of the version before
        send, else `GateRefused`; `force`, with a reason, passes over status and signature. `Conflict` if somebody
        else moved it. Moving it to where it points changes nothing.
        """
        wish = promotion.Wish(
            name=refs.check_name(name),
            alias=refs.check_alias(alias),
            actor=actor,
            reason=reason,
            expected=expected_generation,
            force=force,
            idempotency_key=idempotency_key,
        )
        return self._promotion.move(wish, version)

    def move_alias_in(
        self,
        connection: sa.Connection,
        name: str,
        alias: str,
        version: int,
        *,
        actor: str,
        reason: str = "",
    ) -> aliases.Event | None:
        """Point an alias to a READY version as part of the caller's transaction, on this registry's database.

        For a rollout's end: what it ran was admitted and verified before, so no bytes are read. None if it points
        there already. `NotAllowed` if the version is no longer READY.
        """
        return self._promotion.carry(connection, name, refs.check_alias(alias), version, actor=actor, reason=reason)

    def admit(
        self, release: deployment.Release, *, over: deployment.Release | None = None, force: bool = False
    ) -> version_rows.Version:
        """Check that a release may be deployed over another, by the rules of `move_alias`; nothing is changed.

        `GateRefused`: not READY, without the evidence that the policy asks for, or it does not take what callers of
        `over` send; `force` passes over these. `NotAllowed` if it is in quarantine or deleted, `CorruptPackage` if its
        bytes are not whole.
        """
        return self._promotion.admit(release, over, force=force)

    def rollback_alias(
        self,
        name: str,
        alias: str,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        idempotency_key: str = "",
    ) -> aliases.Event:
        """Point an alias to what it pointed to before, by the rules of `move_alias`; again, further back."""
        wish = promotion.Wish(
            name=refs.check_name(name),
            alias=refs.check_alias(alias),
            actor=actor,
            reason=reason,
            expected=expected_generation,
            force=force,
            idempotency_key=idempotency_key,
        )
        return self._promotion.rollback(wish)

    def history(self, name: str, alias: str = "") -> tuple[aliases.Event, ...]:
        """Every move of a model's alias (of all, if empty), the oldest first."""
        with self._rows.read() as connection:
            version_rows.check_model(connection, name)
            return aliases.history(connection, name, alias)

    def add_evidence(self, found: evidences.Evidence, *, actor: str) -> None:
        """Put evidence on record; passed checks make a version READY, and bring it back from quarantine."""
        self._registration.add_evidence(found, actor=actor)

    def quarantine(self, digest: str, reason: str, *, actor: str) -> tuple[version_rows.Version, ...]:
        """Put every version that needs this blob (or is this package) into quarantine; returns those that changed."""
        return self._registration.quarantine(digest, reason, actor=actor)

    def users(self, digest: str) -> revocations.Users:
        """Who has the package, or any other blob, with this digest: versions, aliases, deployments."""
        with self._rows.read() as connection:
            return revocations.users(connection, revocations.check_digest(digest))

    def revoke(self, digest: str, reason: str, *, actor: str) -> revocations.Revoked:
        """Let bytes run nowhere any more: every version that needs them goes into quarantine and stays there.

        Deployments that run one are told by the event `digest.revoked`. The same bytes are `NotAllowed` from then on,
        pushed under whatever name. `NotFound` if no version needs them.
        """
        if not reason:
            raise errors.UsageError("to revoke bytes, give the reason.", hint='Add --reason "..."')
        return self._registration.revoke(revocations.check_digest(digest), reason, actor=actor)

    def reinstate(self, digest: str, reason: str, *, actor: str) -> None:
        """Take a revocation back. The versions stay in quarantine until they pass their checks again."""
        self._registration.reinstate(revocations.check_digest(digest), reason, actor=actor)

    def scrub(self, *, actor: str) -> tuple[blobs.Finding, ...]:
        """Hash every blob; versions that need a broken one go into quarantine."""
        found = []
        for finding in self.store.scrub():
            self.quarantine(finding.digest, finding.reason, actor=actor)
            found.append(finding)
        return tuple(found)

    def delete(self, name: str, version: int, *, actor: str, reason: str = "") -> deletion.Deleted:
        """Delete a version and free the bytes that nothing else needs; `Conflict` while an alias points to it."""
        return self._deletion.delete(refs.check_name(name), version, actor=actor, reason=reason)

    def gc(self, grace_s: float = GRACE_S) -> retention.Collected:
        """Trash what nothing has needed for `grace_s` seconds; delete what has lain in the trash as long."""
        now = self._clock()
        with self._rows.write() as connection:
            answers.forget(connection, now=now)
        return self._collector.collect(now=now, grace_s=grace_s)

    def rebuild(self, *, actor: str) -> rebuilding.Rebuilt:
        """Make the rows of a lost database again, from the records and manifests beside the blobs."""
        return rebuilding.rebuild(self._rows, self.store, self._records, actor=actor, now=self._clock())

    def _find(self, ref: refs.Ref) -> version_rows.Version:
        """The version that a reference means, whatever its status."""
        with self._rows.read() as connection:
            if ref.kind == "path":
                raise errors.UsageError("the registry knows models by name, not by path.", hint="Write NAME@VERSION.")
            version_rows.check_model(connection, ref.name)
            if ref.kind == "version":
                return version_rows.numbered(connection, ref.name, ref.version)
            found: version_rows.Version | None
            if ref.kind == "digest":
                found = version_rows.alive(connection, ref.name, ref.digest)
                if found is None:
                    raise errors.NotFound(
                        f"'{ref.name}' has no version with the digest {ref.digest}.",
                        hint=f"See: windlass models list {ref.name}",
                    )
                return found
            alias = ref.alias or refs.PRODUCTION
            number, _ = aliases.pointing(connection, ref.name, alias)
            if number is not None:
                return version_rows.numbered(connection, ref.name, number)
            if ref.kind == "alias":
                known = ", ".join(sorted({e.alias for e in aliases.history(connection, ref.name)})) or "none"
                raise errors.NotFound(
                    f"'{ref.name}' has no alias '{alias}'; its aliases: {known}.",
                    hint=f"Set it: windlass models alias {ref.name} {alias} VERSION",
                )
            found = version_rows.newest_ready(connection, ref.name)
            if found is None:
                raise errors.NotFound(
                    f"no version of '{ref.name}' is READY.", hint=f"See: windlass models show {ref.name}@1"
                )
            return found
