"""Rollouts on record: from which release to which, each step with its counts and its evidence, and how it ended.

Called by the controller inside its transactions. Must never take one step twice, nor change a step that is past.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit, outbox
from windlass.storage import database, tables
from windlass.types import deployment as deployments
from windlass.types import strict_json

# Who acts where evidence decides, as the audit log names it.
CONTROLLER = "windlass"


class Rollout(msgspec.Struct, frozen=True):
    """One change of release. `number` counts a deployment's rollouts; `generation` is the wish's that began it.

    `state` is what `rollout.decide` goes on from; `step` is the number of the last step (0: the start). `outcome` is
    empty while it is under way, then where traffic ended: `new` or `old`. Times are seconds since the epoch.
    """

    id: int
    deployment: str
    number: int
    generation: int
    old: deployments.Release | None
    new: deployments.Release
    against: tuple[deployments.Release, ...]
    strategy: deployments.Strategy
    state: dict[str, Any]
    step: int
    phase: deployments.Phase
    verdict: str
    words: str
    outcome: str
    actor: str
    reason: str
    started_at: float
    ended_at: float | None


class Step(msgspec.Struct, frozen=True):
    """One step of a rollout: what was decided and wanted, and the counts and evidence it was decided on."""

    number: int
    at: float
    phase: deployments.Phase
    verdict: str
    words: str
    wanted: deployments.Wanted | None
    counts: dict[str, Any]
    evidence: dict[str, Any]


class Turn(msgspec.Struct, frozen=True):
    """What a rollout comes to with a step: all that `advance`, `refresh` and `end` write."""

    state: dict[str, Any]
    phase: deployments.Phase
    verdict: str = ""
    words: str = ""
    wanted: deployments.Wanted | None = None
    counts: dict[str, Any] = {}
    evidence: dict[str, Any] = {}


def start(
    connection: sa.Connection,
    *,
    wish: deployments.Desired,
    generation: int,
    old: deployments.Release | None,
    turn: Turn,
    actor: str,
    reason: str = "",
    now: float,
) -> Rollout:
    """A new rollout of a deployment, at step 0; `Conflict` if one is under way."""
    r = tables.rollout
    last = connection.execute(sa.select(sa.func.max(r.c.number)).where(r.c.deployment == wish.name)).scalar()
    values = {
        "deployment": wish.name,
        "number": (last or 0) + 1,
        "generation": generation,
        "old": None if old is None else _text(old),
        "new": _text(wish.release),
        "against": _text(wish.against),
        "strategy": _text(wish.strategy),
        "step": 0,
        "outcome": "",
        "actor": actor,
        "reason": reason,
        "started_at": now,
        **_reached(turn),
    }
    if not database.insert_absent(connection, r, values):
        raise errors.Conflict(f"a rollout of '{wish.name}' is under way.", hint="Wait for its end, or abort it.")
    new = current(connection, wish.name)
    if new is None:
        raise errors.InternalError("a rollout is not where it was written")
    _insert_step(connection, new.id, 0, turn, now)
    _tell(connection, "rollout.started", new, actor, reason, now)
    return new


def advance(connection: sa.Connection, identity: int, turn: Turn, *, expected_step: int, now: float) -> bool:
    """Take the next step, if `expected_step` is still the last one; else False, and nothing is changed."""
    if not _move(connection, identity, expected_step, step=expected_step + 1, **_reached(turn)):
        return False
    _insert_step(connection, identity, expected_step + 1, turn, now)
    _tell(connection, "rollout.step", get(connection, identity), CONTROLLER, turn.words, now)
    return True


def refresh(connection: sa.Connection, identity: int, turn: Turn, *, expected_step: int) -> bool:
    """Write newer counts, evidence and words to the step that is the last one; False if it no longer is."""
    if not _move(connection, identity, expected_step, **_reached(turn)):
        return False
    s = tables.rollout_step
    connection.execute(
        sa.update(s).where(s.c.rollout_id == identity, s.c.number == expected_step).values(**_said(turn))
    )
    return True


def end(connection: sa.Connection, identity: int, turn: Turn, *, expected_step: int, outcome: str, now: float) -> bool:
    """Take the last step: traffic is at `outcome` (`new` or `old`) for good; False if the step was taken by another."""
    done = {"step": expected_step + 1, "outcome": outcome, "ended_at": now}
    if not _move(connection, identity, expected_step, **done, **_reached(turn)):
        return False
    _insert_step(connection, identity, expected_step + 1, turn, now)
    _tell(connection, "rollout.ended", get(connection, identity), CONTROLLER, turn.words, now)
    return True


def get(connection: sa.Connection, identity: int) -> Rollout:
    """A rollout; `NotFound` if there is none."""
    row = connection.execute(sa.select(tables.rollout).where(tables.rollout.c.id == identity)).one_or_none()
    if row is None:
        raise errors.NotFound(f"there is no rollout {identity}.")
    return _rollout(row)


def current(connection: sa.Connection, deployment: str) -> Rollout | None:
    """The rollout of a deployment that is under way, if there is one."""
    r = tables.rollout
    row = connection.execute(sa.select(r).where(r.c.deployment == deployment, r.c.ended_at.is_(None))).one_or_none()
    return None if row is None else _rollout(row)


def of(connection: sa.Connection, deployment: str, *, before: int = 0, limit: int = 100) -> tuple[Rollout, ...]:
    """The rollouts of a deployment, the newest first; those below the number `before`, if it is given."""
    r = tables.rollout
    query = sa.select(r).where(r.c.deployment == deployment).order_by(r.c.number.desc()).limit(limit)
    if before:
        query = query.where(r.c.number < before)
    return tuple(_rollout(row) for row in connection.execute(query))


def at(connection: sa.Connection, deployment: str, moment: float) -> Rollout | None:
    """The last rollout that had begun at a moment (seconds since the epoch), under way then or not."""
    r = tables.rollout
    query = sa.select(r).where(r.c.deployment == deployment, r.c.started_at <= moment)
    row = connection.execute(query.order_by(r.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else _rollout(row)


def steps(connection: sa.Connection, identity: int) -> tuple[Step, ...]:
    """The steps of a rollout, the first (number 0) first."""
    s = tables.rollout_step
    query = sa.select(s).where(s.c.rollout_id == identity).order_by(s.c.number)
    return tuple(map(_step, connection.execute(query)))


def last_step(connection: sa.Connection, of: Rollout) -> Step:
    """The step that a rollout is at, without a look at those before."""
    s = tables.rollout_step
    return _step(connection.execute(sa.select(s).where(s.c.rollout_id == of.id, s.c.number == of.step)).one())


def _move(connection: sa.Connection, identity: int, expected: int, **values: Any) -> bool:
    r = tables.rollout
    open_there = (r.c.id == identity, r.c.step == expected, r.c.ended_at.is_(None))
    return connection.execute(sa.update(r).where(*open_there).values(**values)).rowcount == 1


def _reached(turn: Turn) -> dict[str, Any]:
    return {"state": _text(turn.state), "phase": turn.phase, "verdict": turn.verdict, "words": turn.words}


def _said(turn: Turn) -> dict[str, Any]:
    return {
        "phase": turn.phase,
        "verdict": turn.verdict,
        "words": turn.words,
        "wanted": _text(turn.wanted),
        "counts": _text(turn.counts),
        "evidence": _text(turn.evidence),
    }


def _insert_step(connection: sa.Connection, identity: int, number: int, turn: Turn, now: float) -> None:
    values = {"rollout_id": identity, "number": number, "at": now, **_said(turn)}
    connection.execute(sa.insert(tables.rollout_step).values(**values))


def _tell(connection: sa.Connection, action: str, new: Rollout, actor: str, reason: str, now: float) -> None:
    releases = (new.new, *new.against, *(() if new.old is None else (new.old,)))
    said = {
        # Who may not see one of them is not told of this.
        "models": sorted({release.name for release in releases}),
        "rollout": new.number,
        "step": new.step,
        "old": None if new.old is None else new.old.arm,
        "new": new.new.arm,
        "phase": new.phase,
        "verdict": new.verdict,
        "words": new.words,
        "outcome": new.outcome,
    }
    outbox.add(connection, action, {"name": new.deployment, "id": new.id, **said}, now=now)
    subject = f"deployment/{new.deployment}"
    audit.append(connection, actor=actor, action=action, subject=subject, reason=reason, detail=said, now=now)


def _step(row: sa.Row[Any]) -> Step:
    return Step(
        number=row.number,
        at=row.at,
        phase=row.phase,
        verdict=row.verdict,
        words=row.words,
        wanted=msgspec.json.decode(row.wanted, type=deployments.Wanted | None),
        counts=json.loads(row.counts),
        evidence=json.loads(row.evidence),
    )


def _text(value: Any) -> str:
    return strict_json.canonical(value).decode()


def _rollout(row: sa.Row[Any]) -> Rollout:
    fields = {name: getattr(row, name) for name in Rollout.__struct_fields__}
    fields["old"] = None if row.old is None else msgspec.json.decode(row.old, type=deployments.Release)
    fields["new"] = msgspec.json.decode(row.new, type=deployments.Release)
    fields["against"] = msgspec.json.decode(row.against, type=tuple[deployments.Release, ...])
    fields["strategy"] = msgspec.json.decode(row.strategy, type=deployments.Strategy)
    fields["state"] = json.loads(row.state)
    return Rollout(**fields)
