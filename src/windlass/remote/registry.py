"""The registry behind a control plane, with the methods and values of `registry.Registry` that the command line uses.

Opened by the CLI where a server is given. `actor` is taken as the local one does and not sent: the plane knows whose
key it is. Must never trust bytes that it is given: a package's are hashed before they are handed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from windlass import errors
from windlass.client import plane
from windlass.packaging import archive
from windlass.packaging import manifest as manifests
from windlass.records import jobs
from windlass.registry import aliases, deletion, registration, revocations
from windlass.registry import registry as registries
from windlass.registry import versions as version_rows
from windlass.storage import blobs
from windlass.types import evidence as evidences
from windlass.types import manifest, refs

_ASK_EVERY_S = 0.5
_CHECKED_BY_THEN_S = 1_800.0


class Registered(msgspec.Struct, frozen=True):
    """What the plane says of a package that was uploaded: its version, and the job that checks it."""

    name: str
    version: int
    digest: str
    created: bool
    job: int = 0


class Registry:
    """The registry of one control plane."""

    def __init__(
        self,
        to: plane.Plane,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plane = to
        self._clock = clock
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._plane.close()

    def models(
        self, *, search: str = "", after: str = "", limit: int | None = None, only: tuple[str, ...] = ("*",)
    ) -> tuple[version_rows.Model, ...]:
        """Models that the caller may see, by name; `only` is the plane's to say."""
        return self._plane.every("/models", version_rows.Model, search=search, after=after, limit=limit or plane.ALL)

    def versions(self, name: str, *, after: int = 0, limit: int | None = None) -> tuple[version_rows.Version, ...]:
        """The versions of a model, the newest first, deleted ones too; those below the number `after`, if given."""
        return self._plane.every(
            f"{_model(name)}/versions", version_rows.Version, after=after or None, limit=limit or plane.ALL
        )

    def resolve(self, ref: refs.Ref) -> registries.Resolved:
        """The version that a reference means now."""
        return self._plane.get(f"{_named(ref)}/resolve", registries.Resolved, ref=text_of(ref))

    def show(self, ref: refs.Ref) -> registries.Shown:
        """All that is known of a version."""
        return self._plane.get(f"{_named(ref)}/show", registries.Shown, ref=text_of(ref))

    def history(self, name: str, alias: str = "") -> tuple[aliases.Event, ...]:
        """Every move of a model's alias (of all, if empty), the oldest first."""
        return self._plane.every(f"{_model(name)}/history", aliases.Event, alias=alias)

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
        """Point an alias to a version (None: nowhere), by the rules of the plane's registry."""
        return self._plane.send(
            "PUT",
            f"{_model(name)}/aliases/{plane.quoted(refs.check_alias(alias))}",
            aliases.Event,
            {"version": version, "reason": reason, "force": force},
            expected=expected_generation,
            idempotency_key=idempotency_key,
        )

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
        """Point an alias to what it pointed to before."""
        return self._plane.send(
            "POST",
            f"{_model(name)}/aliases/{plane.quoted(refs.check_alias(alias))}/rollback",
            aliases.Event,
            {"reason": reason, "force": force},
            expected=expected_generation,
            idempotency_key=idempotency_key,
        )

    def delete(self, name: str, version: int, *, actor: str, reason: str = "") -> deletion.Deleted:
        """Delete a version and free the bytes that nothing else needs."""
        return self._plane.send("DELETE", f"{_model(name)}/versions/{version}", deletion.Deleted, reason=reason)

    def users(self, digest: str) -> revocations.Users:
        """Who has the package, or any other blob, with this digest, as far as the caller may see."""
        return self._plane.get(f"{_digest(digest)}/users", revocations.Users)

    def revoke(self, digest: str, reason: str, *, actor: str) -> revocations.Revoked:
        """Let bytes run nowhere any more."""
        return self._plane.send("POST", f"{_digest(digest)}/revoke", revocations.Revoked, {"reason": reason})

    def reinstate(self, digest: str, reason: str, *, actor: str) -> None:
        """Take a revocation back."""
        self._plane.send("POST", f"{_digest(digest)}/reinstate", object, {"reason": reason})

    def push(
        self,
        package: registration.Package,
        *,
        name: str,
        actor: str,
        evidence: tuple[evidences.Evidence, ...] = (),
        description: str = "",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        told: Callable[[str], None] = lambda _: None,
    ) -> registration.Pushed:
        """Upload what the plane lacks, register it, and wait until the plane has checked it itself.

        Of the evidence only a signature and the report of a study are sent: what else was measured here is no proof
        there. `GateRefused` if the plane's own check fails.
        """
        for entry, data in package.entries():
            digest = package.digest if entry == archive.MANIFEST else f"sha256:{entry.rpartition('/')[2]}"
            if not self._plane.has_blob(digest):
                told(f"uploading {digest[:19]} ({memoryview(data).nbytes} bytes)")
                self._plane.put_blob(digest, data)
        envelopes = [str(e.statistics.get("envelope", "")) for e in evidence if e.kind == "signature"]
        registered = self._plane.send(
            "POST",
            f"{_model(name)}/versions",
            Registered,
            {
                "digest": package.digest,
                "description": description,
                "tags": dict(tags or {}),
                "signature": envelopes[-1] if envelopes else "",
            },
            idempotency_key=idempotency_key,
        )
        if registered.job:
            told(f"the control plane checks {registered.name}@{registered.version}")
            self._checked(registered)
        for one in evidence:
            if one.kind == "optimization":
                self.add_evidence(one, actor=actor)
        found = self.show(refs.Ref(kind="version", name=registered.name, version=registered.version)).version
        return registration.Pushed(found.name, found.version, found.digest, found.status, registered.created)

    def add_evidence(self, found: evidences.Evidence, *, actor: str) -> None:
        """Put evidence on record for the version with its digest; what the plane checks itself it takes from nobody."""
        held = self.users(found.digest).versions
        if not held:
            raise errors.NotFound(f"no version has the digest {found.digest}.", hint="See: windlass models list")
        body = {name: getattr(found, name) for name in ("kind", "verdict", "statistics", "window")}
        self._plane.send("POST", f"{_model(held[0].name)}/versions/{held[0].version}/evidence", object, body)

    def package(self, digest: str) -> archive.Package:
        """A version's package, its bytes fetched as they are asked for, and hashed."""
        value = manifests.decode(_whole(digest, self._plane.blob(digest)))
        manifests.check(value)
        return archive.Package(value, self._bytes)

    def verify(self, ref: refs.Ref) -> evidences.Evidence:
        """Have the plane check a version again, and wait for what it finds."""
        named = self.resolve(ref)
        job = self._plane.send("POST", f"{_model(named.name)}/versions/{named.version}/verify", jobs.Job)
        ended = self._ended(job.id)
        if ended.state == "DONE":
            return evidences.Evidence(named.digest, "verify", "passed")
        return evidences.Evidence(named.digest, "verify", "failed", {"reason": _why(ended.result)})

    def _bytes(self, ref: manifest.BlobRef) -> bytes:
        return _whole(ref.digest, self._plane.blob(ref.digest, ref.size))

    def _checked(self, registered: Registered) -> None:
        job = self._ended(registered.job)
        if job.state == "FAILED":
            raise errors.GateRefused(
                f"the control plane's check of {registered.name}@{registered.version} failed: {_why(job.result)}",
                hint=f"See: windlass models show {registered.name}@{registered.version}",
            )

    def _ended(self, identity: int) -> jobs.Job:
        deadline = self._clock() + _CHECKED_BY_THEN_S
        while True:
            job = self._plane.get(f"/jobs/{identity}", jobs.Job)
            if job.state in ("DONE", "FAILED"):
                return job
            if self._clock() > deadline:
                raise errors.DeadlineExceeded(
                    f"the control plane's job {identity} is still {job.state}.", hint="See whether its controller runs."
                )
            self._sleep(_ASK_EVERY_S)


def text_of(ref: refs.Ref) -> str:
    """A reference as people write it; `UsageError` for a path, which means nothing on another machine."""
    if ref.kind == "path":
        raise errors.UsageError(
            "the registry knows models by name, not by path.", hint="Register it: windlass models import"
        )
    tails = {"version": f"@{ref.version}", "alias": f":{ref.alias}", "digest": f"@{ref.digest}"}
    return ref.name + tails.get(ref.kind, "")


def _named(ref: refs.Ref) -> str:
    text_of(ref)
    return _model(ref.name)


def _model(name: str) -> str:
    return f"/models/{plane.quoted(refs.check_name(name))}"


def _digest(digest: str) -> str:
    return f"/digests/{plane.quoted(revocations.check_digest(digest))}"


def _whole(digest: str, data: bytes) -> bytes:
    if blobs.digest_of(data) != digest:
        raise errors.CorruptPackage(f"The control plane gave other bytes than {digest}.", hint="Ask again.")
    return data


def _why(result: dict[str, Any]) -> str:
    return str(result.get("error") or result.get("reason") or result)
