"""One deployment, looked at once: what is wanted of it, what runs, what that proves, and the next step towards it.

Called by the loop, on one thread a deployment. Each decision is stored before it is applied, and applying is
idempotent: whoever comes after a crash reads the last decision, applies it, looks, and goes on. Must never apply what
was not stored, nor write without the lead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.controller import acting, endings, lead
from windlass.desired import history, previews
from windlass.records import deployments as stored
from windlass.records import outbox, rollouts
from windlass.registry import registry as registries
from windlass.registry import versions
from windlass.rollout import decide, evidence
from windlass.rollout import plan as plans
from windlass.storage import database
from windlass.types import deployment

ACTOR = "controller"
_COUNTED = tuple(f for f in deployment.Counts.__struct_fields__ if f not in ("latency", "first_bad"))
_NOT_NOW = "not now: "


class Stale(errors.Conflict):
    """Somebody wished something else meanwhile: look again."""


class Reconciler:
    """Brings what runs to what is wanted; what was live before stays loaded for `warm_s` after a rollout."""

    def __init__(
        self,
        rows: database.Database,
        leading: lead.Lead,
        registry: registries.Registry,
        hands: acting.Hands,
        clock: Callable[[], float],
        *,
        warm_s: float = 0.0,
    ) -> None:
        self._rows = rows
        self._registry = registry
        self._warm_s = warm_s
        self._lead = leading
        self._hands = hands
        self._clock = clock

    def reconcile(self, name: str) -> bool:
        """One look, one step; True if there is more to do at once. Whatever it raises may be tried again."""
        with self._rows.read() as connection:
            found = stored.get(connection, name, removed=True)
            under_way = rollouts.current(connection, name)
        if found is None:
            return False
        if found.removed_at is not None:
            return self._remove(found, under_way)
        if found.generation != found.status.generation and self._take_up(found, under_way):
            return True
        if under_way is None:
            return self._hold(found)
        return self._step(found, under_way)

    def trouble(self, name: str, words: str) -> None:
        """Say in the status what stands in the way, as long as it does."""
        words = f"{_NOT_NOW}{words}"
        with self._lead.write() as connection:
            found = stored.get(connection, name, removed=True)
            if found is not None and found.status.words != words:
                stored.observe(connection, name, msgspec.structs.replace(found.status, words=words, at=self._clock()))

    # The wish

    def _take_up(self, found: stored.Deployment, under_way: rollouts.Rollout | None) -> bool:
        """Begin with a new generation of the wish; False if the rollout under way is already for it."""
        wish, live = found.desired, found.status.live
        why = self._unusable(wish.release)
        if under_way is not None and (why or _is_for(under_way, wish)):
            return False
        if why or (under_way is None and _already(found)):
            phase: deployment.Phase = "FAILED" if why else found.status.phase
            with self._changing(found, phase=phase, words=why or found.status.words):
                pass
            return True
        observed = self._hands.seen(wish)
        with self._lead.write() as connection:
            if under_way is not None:
                live = self._supersede(connection, found, under_way)
            self._start(connection, found, wish, live, observed, actor=found.actor, reason=found.reason)
        return True

    def _supersede(
        self, connection: sa.Connection, found: stored.Deployment, under_way: rollouts.Rollout
    ) -> deployment.Release | None:
        """End a rollout for a newer wish, where it is; what is live then."""
        state = decide_state(under_way)
        outcome = state.outcome or "old"
        words = f"{found.actor} asked for version {found.desired.release.arm} (generation {found.generation})"
        turn = rollouts.Turn(
            under_way.state, "RETURNING" if outcome == "old" else "PROMOTING", under_way.verdict, f"superseded: {words}"
        )
        if not rollouts.end(
            connection, under_way.id, turn, expected_step=under_way.step, outcome=outcome, now=self._clock()
        ):
            raise Stale("this step was taken by another")
        return under_way.new if outcome == "new" else found.status.live

    def _start(
        self,
        connection: sa.Connection,
        found: stored.Deployment,
        wish: deployment.Desired,
        live: deployment.Release | None,
        observed: deployment.Observed,
        *,
        actor: str,
        reason: str,
    ) -> None:
        """A rollout from what is live to a wish, in a transaction that the caller opened."""
        now = self._clock()
        number = 1 + max((r.number for r in rollouts.of(connection, wish.name, limit=1)), default=0)
        plan = plans.make(wish, live, number=number)
        state = decide.start(plan, observed, now)
        words = f"from {'nothing' if live is None else f'version {live.arm}'} to version {wish.release.arm}"
        turn = rollouts.Turn(msgspec.to_builtins(state), "PREPARING", "", words)
        self._note(connection, found, phase="PREPARING", words=words, rollout=number, live=live)
        rollouts.start(
            connection,
            wish=wish,
            generation=found.generation,
            old=live,
            turn=turn,
            actor=actor,
            reason=reason,
            now=now,
        )

    # A rollout

    def _step(self, found: stored.Deployment, under_way: rollouts.Rollout) -> bool:
        wish = _wish_of(found.desired, under_way)
        why = self._unusable(under_way.new, *under_way.against)
        plan = plans.make(wish, under_way.old, number=under_way.number)
        if why:
            plan = msgspec.structs.replace(plan, unusable=why)
        state = decide_state(under_way)
        try:
            observed = self._hands.measured(wish, under_way)
        except errors.Unavailable:
            # Nothing may be concluded, for it is not known what runs: what was decided is applied again, then it is
            # looked at.
            self._hands.apply(wish, decide.wanted(plan, state, deployment.Observed(self._clock(), measured=False)))
            observed = self._hands.measured(wish, under_way)
        if decide.heeds_labels(plan, state):
            observed = self._hands.labelled(wish, under_way, observed)
        judgement = decide.judge(plan, state, observed)
        step = decide.decide(plan, state, observed, judgement, self._clock())
        if step.done and step.outcome == "new" and step.wanted is not None and under_way.old is not None:
            step = msgspec.structs.replace(step, wanted=self._beside(step.wanted, under_way.old, observed))
        turn = rollouts.Turn(
            state=msgspec.to_builtins(step.state),
            phase=step.phase,
            verdict=step.verdict,
            words=step.words,
            wanted=step.wanted,
            counts=counts_since(observed, step.state.began),
            evidence=msgspec.to_builtins(judgement),
        )
        changed = turn.state != under_way.state or step.phase != under_way.phase
        number = self._store(found, under_way, turn, observed, changed=changed)
        more = self._hands.apply(wish, step.wanted)
        if step.done and not self._hands.refused(wish.name):
            # In force now, whoever asks.
            self._end(found, under_way, turn, judgement, step=number, outcome=step.outcome)
        return changed or more

    def _store(
        self,
        found: stored.Deployment,
        under_way: rollouts.Rollout,
        turn: rollouts.Turn,
        observed: deployment.Observed,
        *,
        changed: bool,
    ) -> int:
        """Keep a decision: as the next step, or as newer words of the last; the number of the step."""
        with self._lead.write() as connection:
            # It is not LIVE before it has ended, which is written with what is live.
            phase = "PROMOTING" if turn.phase == "LIVE" else turn.phase
            self._note(connection, found, phase=phase, words=turn.words, shares=observed.shares)
            if not changed:
                done = rollouts.refresh(connection, under_way.id, turn, expected_step=under_way.step)
            else:
                done = rollouts.advance(connection, under_way.id, turn, expected_step=under_way.step, now=self._clock())
            if not done:
                raise Stale("this step was taken by another")
        return under_way.step + changed

    def _end(
        self,
        found: stored.Deployment,
        under_way: rollouts.Rollout,
        turn: rollouts.Turn,
        judgement: evidence.Judgement,
        *,
        step: int,
        outcome: str,
    ) -> None:
        live = under_way.new if outcome == "new" else under_way.old
        shares = {} if turn.wanted is None else {a.release.arm: a.share for a in turn.wanted.arms if a.share}
        phase: deployment.Phase = turn.phase if turn.phase in ("LIVE", "FAILED", "EMPTY") else "LIVE"
        now = self._clock()
        with self._lead.write() as connection:
            words = turn.words
            if outcome == "new":
                words = endings.move_alias(connection, self._registry, found.desired.alias, under_way, words)
            endings.keep_evidence(connection, under_way, turn, judgement, actor=ACTOR, now=now)
            self._note(connection, found, phase=phase, words=words, live=live, shares=shares)
            final = msgspec.structs.replace(turn, phase=phase, words=words)
            if not rollouts.end(connection, under_way.id, final, expected_step=step, outcome=outcome, now=now):
                raise Stale("this step was taken by another")

    # Between rollouts

    def _hold(self, found: stored.Deployment) -> bool:
        """Nothing is under way: what is live runs on, also where its server had to be started again."""
        live = found.status.live
        if live is None:
            return False
        why = self._unusable(live)
        if why and self._bring_back(found, live, why):
            return True
        with self._rows.read() as connection:
            last = next(iter(rollouts.of(connection, found.name, limit=1)), None)
            step = None if last is None else rollouts.last_step(connection, last)
        if last is not None and step is not None and step.wanted is not None:
            self._hands.apply(found.desired, self._kept(found.desired, step.wanted, last.ended_at or 0.0))
        self._hands.late(found.desired)
        if found.status.words.startswith(_NOT_NOW):
            with self._changing(found, words="" if step is None else step.words):
                pass
        return False

    def _beside(
        self, wanted: deployment.Wanted, before: deployment.Release, observed: deployment.Observed
    ) -> deployment.Wanted:
        """What is live, and what was before it: loaded and not asked, if it is there and may be used."""
        there = self._warm_s > 0 and before.arm in observed.shares and before.arm not in _names(wanted)
        if not there or self._unusable(before):
            return wanted
        return msgspec.structs.replace(wanted, arms=(*wanted.arms, deployment.Arm(before, share=0.0)))

    def _kept(self, wish: deployment.Desired, wanted: deployment.Wanted, ended_at: float) -> deployment.Wanted:
        """What a rollout left; what is kept for the way back only as long as it is of use: nothing is loaded for it."""
        spare = [arm for arm in wanted.arms if not arm.share]
        if not spare:
            return wanted
        kept: set[str] = set()
        if 0 <= self._clock() - ended_at < self._warm_s:
            shares = self._hands.seen(wish).shares
            kept = {arm.release.arm for arm in spare if arm.release.arm in shares and not self._unusable(arm.release)}
        arms = tuple(arm for arm in wanted.arms if arm.share or arm.release.arm in kept)
        return msgspec.structs.replace(wanted, arms=arms)

    def _bring_back(self, found: stored.Deployment, live: deployment.Release, why: str) -> bool:
        """Begin the way back from a release that may be used no more; False, said in words, if there is none."""
        with self._rows.read() as connection:
            past = [r.new for r in reversed(rollouts.of(connection, found.name)) if r.outcome == "new"]
        good = next((r for r in reversed(past) if not previews.same(r, live) and not self._unusable(r)), None)
        before = history.previous(past)
        if before is not None and not previews.same(before, live) and not self._unusable(before):
            good = before
        if good is None:
            words = f"{why}; there is no good release to go back to, so it still answers"
            if found.status.phase != "FAILED" or found.status.words != words:
                with self._changing(found, phase="FAILED", words=words) as connection:
                    told = {"name": found.name, "live": live.arm, "words": words}
                    outbox.add(connection, "deployment.failed", told, now=self._clock())
            return False
        wish = _instead(found.desired, good)
        observed = self._hands.seen(found.desired)
        with self._lead.write() as connection:
            self._start(connection, found, wish, live, observed, actor=ACTOR, reason=why)
        return True

    def _remove(self, found: stored.Deployment, under_way: rollouts.Rollout | None) -> bool:
        if found.status.generation == found.generation:
            return False
        if under_way is not None:
            with self._lead.write() as connection:
                self._supersede(connection, found, under_way)
        self._hands.remove(found.desired)
        with self._changing(found, phase="EMPTY", words=f"removed by {found.actor}", live=None, shares={}):
            pass
        return False

    # Rows

    @contextlib.contextmanager
    def _changing(self, found: stored.Deployment, **changes: Any) -> Iterator[sa.Connection]:
        with self._lead.write() as connection:
            self._note(connection, found, **changes)
            yield connection

    def _note(self, connection: sa.Connection, found: stored.Deployment, **changes: Any) -> None:
        """Write the status, with the generation that was taken up; `Stale` if the wish is another by now.

        Nobody can change the wish from here on until the transaction ends.
        """
        changes |= {"generation": found.generation, "at": self._clock()}
        stored.observe(connection, found.name, msgspec.structs.replace(found.status, **changes))
        now = stored.get(connection, found.name, removed=True)
        if now is None or now.generation != found.generation:
            raise Stale(f"'{found.name}' was changed meanwhile")

    def _unusable(self, *releases: deployment.Release) -> str:
        """Why one of these may be used no more; empty if all may."""
        with self._rows.read() as connection:
            found = versions.statuses(connection, [(release.name, release.version) for release in releases])
        for (_, number), (status, reason) in found.items():
            if status in ("QUARANTINED", "DELETED"):
                return f"version {number} is {status}{f': {reason}' if reason else ''}"
        return ""


def decide_state(under_way: rollouts.Rollout) -> decide.State:
    """What a rollout remembers."""
    return msgspec.convert(under_way.state, decide.State)


def counts_since(observed: deployment.Observed, began: int | None) -> dict[str, dict[str, int]]:
    """By arm, the sums of what was counted since the rollout began; latencies are left out."""
    sums: dict[str, dict[str, int]] = {}
    for segment in observed.segments:
        if began is None or segment.generation <= began:
            continue
        for arm, counts in segment.counts.items():
            mine = sums.setdefault(arm, dict.fromkeys(_COUNTED, 0))
            for field in _COUNTED:
                mine[field] += getattr(counts, field)
    return sums


def _names(wanted: deployment.Wanted) -> set[str]:
    return {arm.release.arm for arm in wanted.arms}


def _is_for(under_way: rollouts.Rollout, wish: deployment.Desired) -> bool:
    return (under_way.new, under_way.against, under_way.strategy) == (wish.release, wish.against, wish.strategy)


def _wish_of(wish: deployment.Desired, under_way: rollouts.Rollout) -> deployment.Desired:
    """The wish that a rollout carries out: people's, or the controller's own, about which nobody gave an order."""
    if _is_for(under_way, wish):
        return wish
    return _instead(wish, under_way.new)


def _instead(wish: deployment.Desired, release: deployment.Release) -> deployment.Desired:
    """A wish with another release, at once and without conditions."""
    plain = deployment.Strategy()
    return msgspec.structs.replace(wish, release=release, strategy=plain, against=(), paused=False, order="")


def _already(found: stored.Deployment) -> bool:
    """Whether a new generation is only a word about a rollout that has ended meanwhile."""
    wish, live = found.desired, found.status.live
    if wish.order == "abort":
        return True
    return live is not None and previews.same(live, wish.release) and bool(wish.order or wish.paused)
