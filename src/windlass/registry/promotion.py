"""Promotion: whether an alias may move, and the move; back again by the same rules.

Called by the registry. The costly checks run before the transaction, on what was read then; the transaction starts
them over if that has changed. Must never move to bytes that it has not verified.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import answers
from windlass.registry import aliases, compatibility, findings, versions
from windlass.storage import blobs, database
from windlass.types import deployment, evidence, manifest, strict_json

_TRIES = 100
# The command that brings each kind of evidence, where it is not `check`.
_CHECK = "check {} --data FILE --labels COLUMN --min 0.9"
_MAKES = {"parity": "verify {}", "verify": "verify {}", "bench": "bench {}"}


class Wish(msgspec.Struct, frozen=True):
    """Who wants an alias moved, and how. `force` passes over status and signature; bytes are always verified.

    `expected` is the generation that the caller has seen (None: whatever it is).
    """

    name: str
    alias: str
    actor: str
    reason: str
    expected: int | None = None
    force: bool = False
    idempotency_key: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What is to happen, on the state that was read: from a version to another."""

    kind: aliases.Kind
    current: versions.Version | None
    target: versions.Version | None
    generation: int
    # The kinds of evidence that the policy asks for and the target lacks.
    wanting: tuple[str, ...] = ()


class Promotion:
    """Moves aliases. `require` are kinds of evidence: a version must have passed each before one may lead to it."""

    def __init__(
        self, rows: database.Database, store: blobs.BlobStore, clock: Callable[[], float], require: tuple[str, ...] = ()
    ) -> None:
        self._rows = rows
        self._store = store
        self._clock = clock
        self._require = require

    def move(self, wish: Wish, number: int | None) -> aliases.Event:
        """Point an alias to a version, or nowhere; see `Registry.move_alias`."""

        def plan(connection: sa.Connection) -> Plan:
            current, generation = _current(connection, wish)
            target = None if number is None else versions.numbered(connection, wish.name, number)
            return Plan(kind="move", current=current, target=target, generation=generation)

        return self._carry_out(wish, ("move", number), plan)

    def rollback(self, wish: Wish) -> aliases.Event:
        """Point an alias to what it pointed to before; see `Registry.rollback_alias`."""

        def plan(connection: sa.Connection) -> Plan:
            current, generation = _current(connection, wish)
            number = aliases.previous(aliases.history(connection, wish.name, wish.alias))
            if number is None:
                raise errors.Conflict(
                    f"{wish.name}:{wish.alias} has nothing to go back to.",
                    hint=f"See: windlass models history {wish.name}",
                )
            target = versions.numbered(connection, wish.name, number)
            return Plan(kind="rollback", current=current, target=target, generation=generation)

        return self._carry_out(wish, ("rollback",), plan)

    def admit(self, release: deployment.Release, over: deployment.Release | None, *, force: bool) -> versions.Version:
        """See `Registry.admit`."""
        with self._rows.read() as connection:
            target = versions.numbered(connection, release.name, release.version)
            current = None if over is None else versions.numbered(connection, over.name, over.version)
            wanting = self._wanting(connection, target)
        self._check(target, current, wanting, force=force)
        return target

    def carry(
        self, connection: sa.Connection, name: str, alias: str, number: int, *, actor: str, reason: str
    ) -> aliases.Event | None:
        """See `Registry.move_alias_in`."""
        model_id = versions.lock_model(connection, name)
        current, generation = aliases.pointing(connection, name, alias)
        if current == number:
            return None
        target = versions.numbered(connection, name, number)
        if target.status != "READY":
            raise errors.NotAllowed(f"{name}@{number} is {target.status}.", hint=f"See: windlass models show {name}")
        event = aliases.Event(
            name=name,
            alias=alias,
            generation=generation + 1,
            kind="move",
            from_version=current,
            to_version=number,
            actor=actor,
            reason=reason,
            evidence=tuple(found.id for found in findings.of(connection, target.digest)),
            at=self._clock(),
        )
        return aliases.move(connection, model_id, event)

    def _carry_out(self, wish: Wish, what: tuple[object, ...], make: Callable[[sa.Connection], Plan]) -> aliases.Event:
        request = (*what, wish.name, wish.alias, wish.expected)
        if wish.force and not wish.reason:
            raise errors.UsageError("to force a move, give the reason.", hint='Add --reason "..."')
        for _ in range(_TRIES):
            with self._rows.read() as connection:
                known = answers.recall(connection, wish.idempotency_key, request, aliases.Event)
                if known is not None:
                    return known
                plan = make(connection)
                if wish.expected not in (None, plan.generation):
                    raise _moved(wish, plan.generation)
                if plan.kind == "move" and plan.generation and plan.target == plan.current:
                    return aliases.history(connection, wish.name, wish.alias)[-1]
                # What ran before may run again: a policy that came later must not bar the way back.
                if plan.kind == "move":
                    plan = msgspec.structs.replace(plan, wanting=self._wanting(connection, plan.target))
            if plan.target is not None:
                self._check(plan.target, plan.current, plan.wanting, force=wish.force)
            event = self._commit(wish, request, plan)
            if event is not None:
                return event
        raise errors.Unavailable(f"{wish.name}:{wish.alias} is being moved by many at once.", hint="Try again.")

    def _commit(self, wish: Wish, request: tuple[object, ...], plan: Plan) -> aliases.Event | None:
        """The move, in one transaction; None if the alias was moved since the plan was made."""
        with self._rows.write() as connection:
            model_id = versions.lock_model(connection, wish.name)
            known = answers.recall(connection, wish.idempotency_key, request, aliases.Event)
            if known is not None:
                return known
            _, generation = aliases.pointing(connection, wish.name, wish.alias)
            if generation != plan.generation:
                return None
            grounds: tuple[int, ...] = ()
            if plan.target is not None:
                # Since it was checked, somebody may have quarantined or deleted it.
                if versions.numbered(connection, wish.name, plan.target.version) != plan.target:
                    return None
                if plan.kind == "move" and self._wanting(connection, plan.target) != plan.wanting:
                    return None
                grounds = tuple(found.id for found in findings.of(connection, plan.target.digest))
            event = aliases.Event(
                name=wish.name,
                alias=wish.alias,
                generation=generation + 1,
                kind=plan.kind,
                from_version=None if plan.current is None else plan.current.version,
                to_version=None if plan.target is None else plan.target.version,
                actor=wish.actor,
                reason=wish.reason,
                evidence=grounds,
                at=self._clock(),
            )
            event = aliases.move(connection, model_id, event)
            answers.keep(connection, wish.idempotency_key, request, event, now=event.at)
            return event

    def _wanting(self, connection: sa.Connection, target: versions.Version | None) -> tuple[str, ...]:
        """The kinds of evidence that the policy asks for and that a version has not passed, or failed since."""
        if target is None or not self._require:
            return ()
        last: dict[str, str] = {
            found.evidence.kind: found.evidence.verdict for found in findings.of(connection, target.digest)
        }
        return tuple(kind for kind in self._require if last.get(kind) != "passed")

    def _check(
        self, target: versions.Version, current: versions.Version | None, wanting: tuple[str, ...], *, force: bool
    ) -> None:
        ref = f"{target.name}@{target.version}"
        if target.status in ("DELETED", "QUARANTINED"):
            why = f": {target.reason}" if target.reason else ""
            raise errors.NotAllowed(f"{ref} is {target.status}{why}.", hint="Choose another version.")
        if target.status != "READY" and not force:
            raise errors.GateRefused(
                f"{ref} is {target.status}, not READY.",
                hint=f'Run: windlass verify {ref} (or repeat with --force --reason "...")',
            )
        if wanting and not force:
            way = _MAKES.get(wanting[0], _CHECK).format(ref)
            raise errors.GateRefused(
                f"{ref} has not passed what the policy asks for: {', '.join(wanting)}.",
                hint=f'Run: windlass {way} (or repeat with --force --reason "...")',
            )
        try:
            new = verified(self._store, target.digest)
        except (errors.NotFound, errors.CorruptPackage) as e:
            raise errors.CorruptPackage(
                f"{ref} cannot be used, its bytes are not whole: {e.message}", hint="Run: windlass models scrub"
            ) from e
        if current is None or force:
            return
        old = manifest_of(self._store, current.digest)
        found = compatibility.breaks(new, old)
        if found:
            raise errors.GateRefused(
                f"{ref} does not take what callers of {current.name}@{current.version} send: {'; '.join(found)}.",
                hint='Repeat with --force --reason "..." if the callers are ready for it.',
            )


def check_policy(require: tuple[str, ...]) -> None:
    """`UsageError`, naming the nearest, if a policy asks for a kind of evidence that there is not."""
    known = typing.get_args(evidence.Kind)
    for kind in require:
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
            raise errors.UsageError(f"policy.require: '{kind[:64]}' is no kind of evidence.", hint=hint)


def manifest_of(store: blobs.BlobStore, digest: str) -> manifest.Manifest:
    """A package's manifest from the store; `NotFound` or `CorruptPackage` if it is not there or broken."""
    return strict_json.decode(bytes(store.read(digest)), manifest.Manifest, what="the manifest")


def verified(store: blobs.BlobStore, digest: str) -> manifest.Manifest:
    """A package's manifest, after all its bytes were read and hashed."""
    value = manifest_of(store, digest)
    for ref in value.blobs().values():
        store.read(ref)
    return value


def _current(connection: sa.Connection, wish: Wish) -> tuple[versions.Version | None, int]:
    number, generation = aliases.pointing(connection, wish.name, wish.alias)
    return None if number is None else versions.numbered(connection, wish.name, number), generation


def _moved(wish: Wish, generation: int) -> errors.Conflict:
    return errors.Conflict(
        f"{wish.name}:{wish.alias} is at generation {generation}, and {wish.expected} was expected: somebody moved it.",
        hint=f"See: windlass models history {wish.name}",
    )
