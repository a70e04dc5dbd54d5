"""Deployments as people change them: a wish is checked, resolved once and stored, with who asked and why.

Called by the API and the CLI; the controller carries out what is stored. Must never load a model or ask a target: what
runs is known from what the controller wrote down.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from windlass import errors
from windlass.desired import admission, history, previews, wishes
from windlass.records import answers
from windlass.records import deployments as stored
from windlass.records import feedback as feedback_rows
from windlass.records import rollouts as rollout_rows
from windlass.registry import registry as registries
from windlass.registry import versions
from windlass.rollout import plan as plans
from windlass.serving.routing import sticky
from windlass.storage import database
from windlass.types import deployment as types

Order = Literal["pause", "resume", "promote", "abort"]
_MOST_ROLLOUTS = 10_000


class _Asked(NamedTuple):
    """Who wants a change, why, at which generation (None: whatever it is), and under which idempotency key."""

    actor: str
    reason: str
    expected: int | None
    request: tuple[object, ...] = ()
    idempotency_key: str = ""


class Deployments:
    """The deployments of one database. `policy` are the kinds of evidence that a release needs, passed."""

    def __init__(
        self,
        rows: database.Database,
        registry: registries.Registry,
        policy: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rows = rows
        self._registry = registry
        self._policy = policy
        self._clock = clock

    def deploy(
        self,
        wish: wishes.Wish,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        again: bool = False,
        idempotency_key: str = "",
    ) -> stored.Deployment:
        """Store a wish; the one in force, wished again, changes nothing.

        Its releases must be READY, carry the evidence that the policy asks for, and take what callers of the live
        release send, else `GateRefused`; `force`, with a reason, passes over these, and over nothing else.
        What is in quarantine is always refused. `Conflict` if somebody else changed it first (`expected_generation` 0:
        there is none yet). `again` has a release tried anew whose rollout ended elsewhere.
        """
        _check_forced(force, reason)
        request = ("deploy", msgspec.to_builtins(wish), expected_generation, again)
        asked = _Asked(actor, reason, expected_generation, request, idempotency_key)
        known = self._known(asked)
        if known is not None:
            return known
        with self._rows.read() as connection:
            old = stored.get(connection, wish.name)
        desired = self._desired(wish, old)
        if old is not None and not _changes(old, desired, again=again):
            _check_seen(old, expected_generation)
            return old
        live = None if old is None else old.status.live
        plans.make(desired, live)
        self._admit(desired, live, force=force)
        return self._write(desired, old, asked)

    def rollback(
        self,
        name: str,
        *,
        ref: str = "",
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        idempotency_key: str = "",
    ) -> stored.Deployment:
        """Go back: while a rollout is under way to what is live, else to what was live before it, or to `ref`.

        What was live before is asked neither for new evidence nor for a contract: it served these callers.
        `Conflict` if there is nothing to go back to, `GateRefused` if that is in quarantine.
        """
        _check_forced(force, reason)
        request = ("rollback", name, ref, expected_generation)
        asked = _Asked(actor, reason or "rollback", expected_generation, request, idempotency_key)
        known = self._known(asked)
        if known is not None:
            return known
        old = self.get(name)
        if not ref and _under_way(old):
            return self._say(old, "abort", asked)
        release = self._before(old) if not ref else admission.resolve(self._registry, ref)
        back = msgspec.structs.replace(
            old.desired, release=release, strategy=types.Strategy(), against=(), paused=False, order=""
        )
        if not _changes(old, back, again=False):
            _check_seen(old, expected_generation)
            return old
        if ref:
            self._admit(back, old.status.live, force=force)
        return self._write(back, old, asked)

    def been(self, name: str) -> tuple[types.Release, ...]:
        """All that became live under a name, the oldest first: where a rollback can go."""
        with self._rows.read() as connection:
            past = rollout_rows.of(connection, name, limit=_MOST_ROLLOUTS)
        return tuple(one.new for one in reversed(past) if one.outcome == "new")

    def order(
        self,
        name: str,
        what: Order,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        idempotency_key: str = "",
    ) -> stored.Deployment:
        """A person's word about the rollout under way; `Conflict` if there is none. Said again, it changes nothing."""
        asked = _Asked(actor, reason or what, expected_generation, ("order", name, what), idempotency_key)
        known = self._known(asked)
        if known is not None:
            return known
        old = self.get(name)
        if not _under_way(old):
            raise errors.Conflict(
                f"no rollout of '{name}' is under way: there is nothing to {what}.",
                hint=f"See: windlass rollout status {name}",
            )
        return self._say(old, what, asked)

    def remove(
        self,
        name: str,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        idempotency_key: str = "",
    ) -> stored.Deployment:
        """Want it no more; returns what it was. The controller takes it off its target."""
        now, request = self._clock(), ("remove", name, expected_generation)
        with self._rows.write() as connection:
            known = answers.recall(connection, idempotency_key, request, stored.Deployment)
            if known is not None:
                return known
            gone = stored.remove(connection, name, expected=expected_generation, actor=actor, reason=reason, now=now)
            answers.keep(connection, idempotency_key, request, gone, now=now)
            return gone

    def get(self, name: str) -> stored.Deployment:
        """A deployment; `NotFound` names the nearest."""
        with self._rows.read() as connection:
            found = stored.get(connection, name)
            if found is None:
                raise stored.missing(connection, name)
            return found

    def every(self, *, search: str = "", after: str = "", limit: int = 100) -> tuple[stored.Deployment, ...]:
        """Deployments by name, whose name contains `search`, from the first behind `after` on."""
        with self._rows.read() as connection:
            return stored.every(connection, search=search, after=after, limit=limit)

    def rollouts(self, name: str) -> tuple[rollout_rows.Rollout, ...]:
        """The last rollouts of a deployment, the newest first."""
        self.get(name)
        with self._rows.read() as connection:
            return rollout_rows.of(connection, name)

    def rollout(self, identity: int) -> rollout_rows.Rollout:
        """A rollout by its id; `NotFound` if there is none."""
        with self._rows.read() as connection:
            return rollout_rows.get(connection, identity)

    def steps(self, identity: int) -> tuple[rollout_rows.Step, ...]:
        """Every step of a rollout, with its counts and evidence, the oldest first."""
        with self._rows.read() as connection:
            rollout_rows.get(connection, identity)
            return rollout_rows.steps(connection, identity)

    def preview(self, wish: wishes.Wish, *, rate: float = 0.0, bad: float | None = None) -> previews.Preview:
        """What a wish would do; changes nothing.

        `rate` is in requests a second, `bad` the share of bad events; where they are not given, those of the last
        rollout are taken.
        """
        with self._rows.read() as connection:
            old = stored.get(connection, wish.name)
            past = rollout_rows.of(connection, wish.name, limit=1)
            steps = rollout_rows.steps(connection, past[0].id) if past else ()
        desired = self._desired(wish, old)
        live = None if old is None else old.status.live
        refused: errors.WindlassError | None = None
        try:
            self._admit(desired, live, force=False)
        except (errors.GateRefused, errors.CorruptPackage) as e:
            refused = e
        plan = plans.make(desired, live)
        seen = previews.traffic(steps)
        rate, bad = rate or seen.rate, seen.bad if bad is None else bad
        return previews.Preview(
            name=wish.name,
            release=desired.release,
            live=live,
            generation=0 if old is None else old.generation,
            changes=previews.changes(None if old is None else old.desired, desired),
            steps=plans.explain(plan),
            expected=previews.expected(plan, rate=rate, bad=bad),
            rate=rate,
            bad=bad,
            refused="" if refused is None else refused.message,
            hint="" if refused is None else refused.hint,
        )

    def live_at(self, name: str, moment: float) -> history.Live:
        """What was live at a moment (seconds since the epoch), who moved it there, and why."""
        with self._rows.read() as connection:
            if stored.get(connection, name, removed=True) is None:
                raise stored.missing(connection, name)
            past = rollout_rows.of(connection, name, limit=_MOST_ROLLOUTS)
            then = rollout_rows.at(connection, name, moment)
            steps = rollout_rows.steps(connection, then.id) if then is not None else ()
        return history.live_at(name, moment, past[::-1], steps)

    def take_feedback(self, name: str, given: Sequence[feedback_rows.Given]) -> feedback_rows.Added:
        """Put scores on record, of requests or of sticky keys; keys are kept as the hash that the log of exposures has.

        Given again they change nothing; another score for the same is a revision. `UsageError` names the item.
        """
        feedback_rows.check(given)
        places = sticky.Sticky(self.get(name).desired.salt)
        hashed = [
            msgspec.structs.replace(one, key=places.place(one.key.encode())[1]) if one.key else one for one in given
        ]
        with self._rows.write() as connection:
            return feedback_rows.add(connection, name, hashed, now=self._clock())

    def feedback(self, name: str) -> feedback_rows.Standing:
        """What is known of a deployment's feedback: how much, how much was joined, and the mean by arm."""
        self.get(name)
        with self._rows.read() as connection:
            return feedback_rows.standing(connection, name)

    def _desired(self, wish: wishes.Wish, old: stored.Deployment | None) -> types.Desired:
        """The wish with its references resolved, and its strategy's parameters checked."""
        wishes.check(wish)
        plans.strategy_of(wish.strategy)
        before = None if old is None else old.desired
        return types.Desired(
            name=wish.name,
            release=admission.resolve(self._registry, wish.ref),
            strategy=wish.strategy,
            target=wish.target,
            serving=wish.serving,
            against=tuple(admission.resolve(self._registry, text) for text in wish.against),
            alias=wish.alias,
            salt=before.salt if before is not None and before.salt else secrets.token_hex(8),
        )

    def _admit(self, desired: types.Desired, live: types.Release | None, *, force: bool) -> None:
        for release in (desired.release, *desired.against):
            admission.admit(self._registry, release, live, self._policy, force=force)

    def _before(self, old: stored.Deployment) -> types.Release:
        """What was live before what is live now; what is live, if the last rollout did not end where it should."""
        live = old.status.live
        if live is not None and not previews.same(live, old.desired.release):
            return admission.usable(self._registry, live)
        release = history.previous(self.been(old.name))
        if release is None:
            raise errors.Conflict(
                f"'{old.name}' has nothing to go back to: nothing was live before.",
                hint=f"Name it: windlass rollback {old.name} --to REF",
            )
        return admission.usable(self._registry, release)

    def _say(self, old: stored.Deployment, what: Order, asked: _Asked) -> stored.Deployment:
        """A word about the rollout under way, as the next generation."""
        if what in ("pause", "resume"):
            said = msgspec.structs.replace(old.desired, paused=what == "pause")
        else:
            said = msgspec.structs.replace(old.desired, paused=False, order=what)
        if said == old.desired:
            _check_seen(old, asked.expected)
            return old
        return self._write(said, old, asked)

    def _known(self, asked: _Asked) -> stored.Deployment | None:
        """What was answered to the same request before."""
        with self._rows.read() as connection:
            return answers.recall(connection, asked.idempotency_key, asked.request, stored.Deployment)

    def _write(self, desired: types.Desired, old: stored.Deployment | None, asked: _Asked) -> stored.Deployment:
        """Store it, if nobody changed the deployment, or quarantined a release, since it was looked at."""
        now = self._clock()
        expected = asked.expected if asked.expected is not None else (0 if old is None else old.generation)
        with self._rows.write() as connection:
            known = answers.recall(connection, asked.idempotency_key, asked.request, stored.Deployment)
            if known is not None:
                return known
            for release in (desired.release, *desired.against):
                version = versions.numbered(connection, release.name, release.version)
                if version.status in ("QUARANTINED", "DELETED"):
                    raise errors.GateRefused(
                        f"{previews.named(release)} is {version.status}: {version.reason or 'by a person'}.",
                        hint="Choose another version.",
                    )
            new = stored.put(connection, desired, expected=expected, actor=asked.actor, reason=asked.reason, now=now)
            answers.keep(connection, asked.idempotency_key, asked.request, new, now=now)
            return new


def _under_way(found: stored.Deployment) -> bool:
    """Whether a rollout is under way, or a wish for one was not taken up yet."""
    status = found.status
    if status.phase in ("PREPARING", "RUNNING", "PAUSED", "PROMOTING", "RETURNING"):
        return True
    return status.generation < found.generation and not previews.same(status.live, found.desired.release)


def _changes(old: stored.Deployment, desired: types.Desired, *, again: bool) -> bool:
    """Whether a wish is another than the one in force, or is to be tried anew."""
    if previews.changes(old.desired, desired):
        return True
    return again and not _under_way(old) and not previews.same(old.status.live, desired.release)


def _check_forced(force: bool, reason: str) -> None:
    if force and not reason:
        raise errors.UsageError("to force a deployment, give the reason.", hint='Add --reason "..."')


def _check_seen(old: stored.Deployment, expected: int | None) -> None:
    """What changes nothing is still refused to whoever has not seen what is in force."""
    if expected not in (None, old.generation):
        raise errors.Conflict(
            f"'{old.name}' is at generation {old.generation}, written by {old.actor}"
            f"{f' ({old.reason})' if old.reason else ''}; generation {expected} was expected.",
            hint="Look at what it is now, and try again.",
        )
