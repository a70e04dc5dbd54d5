"""The registry of one home: names, versions, aliases, evidence, and what they point to.

Opened by the CLI and the Python face; each noun has its file beside this one. Must never load a model, nor read a
package file: it is handed packages that were opened and checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

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
)
from windlass.registry import rebuild as rebuilding
from windlass.registry import versions as version_rows
from windlass.storage import blobs, database
from windlass.types import evidence as evidences
from windlass.types import manifest, refs

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
    """One registry. Threads and other processes may use it at once; a forked child opens its own."""

    def __init__(
        self,
        rows: database.Database,
        store: blobs.BlobStore,
        kept: records.Records,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._rows = rows
        self._records = kept
        self._clock = clock
        self._registration = registration.Registration(rows, store, kept, clock)
        self._promotion = promotion.Promotion(rows, store, clock)
        self._deletion = deletion.Deletion(rows, store, kept, clock)
        self._collector = retention.Collector(rows, store)

    @classmethod
    def open(cls, home: Path) -> Registry:
        """The registry of a home folder: `registry.db` and `blobs/`, made if need be."""
        return cls.open_at(f"sqlite:///{home.absolute() / 'registry.db'}", str(home.absolute() / "blobs"))

    @classmethod
    def open_at(cls, database_url: str, store_root: str) -> Registry:
        """The registry with its rows at an SQLAlchemy URL and its bytes below a path or an object store's URL."""
        return cls(database.open_database(database_url), blobs.BlobStore(store_root), records.Records.below(store_root))

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

    def models(self) -> tuple[version_rows.Model, ...]:
        """Every model, by name."""
        with self._rows.read() as connection:
            return version_rows.models(connection)

    def versions(self, name: str) -> tuple[version_rows.Version, ...]:
        """Every version of a model, the newest first, deleted ones too."""
        with self._rows.read() as connection:
            return version_rows.every(connection, name)

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

    def quarantine(self, digest: str, reason: str) -> tuple[version_rows.Version, ...]:
        """Put every version that needs this blob (or is this package) into quarantine; returns those that changed."""
        return self._registration.quarantine(digest, reason)

    def scrub(self) -> tuple[blobs.Finding, ...]:
        """Hash every blob; versions that need a broken one go into quarantine."""
        found = []
        for finding in self.store.scrub():
            self.quarantine(finding.digest, finding.reason)
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

    def rebuild(self) -> rebuilding.Rebuilt:
        """Make the rows of a lost database again, from the records and manifests beside the blobs."""
        return rebuilding.rebuild(self._rows, self.store, self._records, now=self._clock())

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
