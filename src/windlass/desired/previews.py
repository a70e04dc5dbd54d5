"""What a wish would do, before anybody wishes it: what changes, in which steps, and how long until a verdict.

Made by `deployments.py` for `windlass deploy --plan` and the API. Must never change anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from windlass.records import rollouts
from windlass.rollout import plan as plans
from windlass.types import deployment


class Preview(msgspec.Struct, frozen=True):
    """`generation` is that of the wish in force (0: there is none). `changes` is empty where nothing would change.

    `refused` says why it would be refused, and `hint` the way out; empty: it would be taken. `expected` says how long
    until a verdict, and what it takes; `rate` (requests a second) and `bad` (share of bad events) are what it assumes.
    """

    name: str
    release: deployment.Release
    live: deployment.Release | None = None
    generation: int = 0
    changes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    rate: float = 0.0
    bad: float = 0.0
    refused: str = ""
    hint: str = ""


def changes(old: deployment.Desired | None, new: deployment.Desired) -> tuple[str, ...]:
    """One sentence for each thing that a wish changes; empty where it is the wish in force."""
    if old is None:
        return (f"'{new.name}' is new, and is to answer with {named(new.release)}",)
    found = []
    if not same(old.release, new.release):
        found.append(f"the release goes from {named(old.release)} to {named(new.release)}")
    elif old.release.signature != new.release.signature:
        found.append("the release's signature changes")
    if [named(one) for one in old.against] != [named(one) for one in new.against]:
        found.append(f"it is compared with {_listed(new.against)}, and was with {_listed(old.against)}")
    if old.strategy.kind != new.strategy.kind:
        found.append(f"the strategy goes from {old.strategy.kind} to {new.strategy.kind}")
    found += _table("strategy", old.strategy.parameters, new.strategy.parameters)
    found += _table("serving", msgspec.to_builtins(old.serving), msgspec.to_builtins(new.serving))
    if old.target != new.target:
        found.append(f"the target goes from {old.target} to {new.target}")
    if old.alias != new.alias:
        found.append(f"the alias that moves with it is {new.alias or 'none'}, and was {old.alias or 'none'}")
    return tuple(found)


def same(one: deployment.Release | None, other: deployment.Release | None) -> bool:
    """Whether two releases are the same bytes under the same number, whatever they were asked for as."""
    if one is None or other is None:
        return one is other
    return (one.name, one.version, one.digest) == (other.name, other.version, other.digest)


def named(release: deployment.Release) -> str:
    """`fraud@4`."""
    return f"{release.name}@{release.version}"


def _listed(releases: tuple[deployment.Release, ...]) -> str:
    return ", ".join(map(named, releases)) or "none"


def _table(where: str, old: dict[str, object], new: dict[str, object]) -> list[str]:
    absent = "its default"
    return [
        f"{where}.{key} goes from {old.get(key, absent)} to {new.get(key, absent)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


class Traffic(NamedTuple):
    """What a deployment was asked lately: requests a second, and the share of them that went badly."""

    rate: float = 0.0
    bad: float = 0.0


def traffic(steps: Sequence[rollouts.Step]) -> Traffic:
    """What the counts of a rollout's steps say, from its start to its last step; zeros where there are none."""
    if len(steps) < 2:
        return Traffic()
    try:
        # A step's counts are brought up to date until the next one is taken.
        counts = msgspec.convert(steps[-2].counts, dict[str, dict[str, int]])
    except msgspec.ValidationError:
        return Traffic()
    seconds = steps[-1].at - steps[0].at
    admitted = sum(arm.get("admitted", 0) for arm in counts.values())
    if not admitted or seconds <= 0:
        return Traffic()
    bad = sum(arm.get(kind, 0) for arm in counts.values() for kind in ("failed", "expired", "slow"))
    return Traffic(admitted / seconds, bad / admitted)


def expected(plan: plans.Plan, *, rate: float, bad: float) -> tuple[str, ...]:
    """How long until a verdict, in words."""
    if plan.old is None:
        return ("nothing is live: there is nothing to compare with, and no verdict to wait for",)
    if rate <= 0:
        return ("no rate of requests is known: give one for the expected time to a verdict",)
    found = plans.expect(plan, rate=rate, bad=bad)
    return ("the strategy asks for no evidence from requests",) if found is None else (found.words,)
