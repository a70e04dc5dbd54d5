"""What the end of a rollout leaves behind, in the transaction in which it ends: the alias and the evidence.

Called by `deployments.py`. Must never commit, nor move an alias to a version that may be used no more.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from windlass import errors
from windlass.records import rollouts
from windlass.registry import findings
from windlass.registry import registry as registries
from windlass.rollout import evidence as judging
from windlass.types import evidence

_VERDICTS: dict[str, Any] = {"PROMOTE": "passed", "ABORT": "failed"}


def move_alias(
    connection: sa.Connection, registry: registries.Registry, alias: str, ended: rollouts.Rollout, words: str
) -> str:
    """Let the model's alias follow to the release that is live now; the words, with what became of that."""
    if not alias:
        return words
    new = ended.new
    try:
        registry.move_alias_in(
            connection, new.name, alias, new.version, actor=ended.actor, reason=ended.reason or words
        )
    except (errors.NotAllowed, errors.GateRefused, errors.NotFound) as e:
        return f"{words} The alias {new.name}:{alias} stays where it is, for {e.message}"
    return words


def keep_evidence(
    connection: sa.Connection,
    ended: rollouts.Rollout,
    turn: rollouts.Turn,
    judgement: judging.Judgement,
    *,
    actor: str,
    now: float,
) -> None:
    """Put a verdict of the requests on record for the new release; nothing where there was none."""
    if turn.verdict not in _VERDICTS or not judgement.findings:
        return
    found = evidence.Evidence(
        ended.new.digest,
        "shadow" if ended.strategy.kind == "shadow" else "canary",
        _VERDICTS[turn.verdict],
        {
            "deployment": ended.deployment,
            "rollout": ended.number,
            "against": "" if ended.old is None else ended.old.digest,
            "words": turn.words,
            "counts": turn.counts,
            "judgement": msgspec.to_builtins(judgement),
        },
        window=f"{ended.started_at:.3f}/{now:.3f}",
    )
    findings.add(connection, [found], actor=actor, now=now)
