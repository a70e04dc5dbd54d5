"""What was live when: read from the rollouts that ended, and their steps.

Called by `deployments.py` and the controller, on rows that were read. Pure. Must never guess where a row is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from windlass.desired import previews
from windlass.records import rollouts
from windlass.types import deployment


class Live(msgspec.Struct, frozen=True):
    """What answered at a moment, who moved it there, and why.

    `release` had all requests, or all but what a rollout `under_way` gave to another (`shares`, percent by arm).
    `since` and `until` (0: still) bound its time, in seconds since the epoch; `rollout` is the one that brought it.
    """

    name: str
    at: float
    release: deployment.Release | None = None
    since: float = 0.0
    until: float = 0.0
    rollout: int = 0
    actor: str = ""
    reason: str = ""
    words: str = ""
    under_way: deployment.Release | None = None
    shares: dict[str, float] = {}


def previous(releases: Sequence[deployment.Release]) -> deployment.Release | None:
    """Where a rollback goes, from all that became live, the oldest first: the release before the one in force.

    Going back takes off the top, so that a second rollback goes further back, and never forth again to what was left.
    """
    stack: list[deployment.Release] = []
    for release in releases:
        if stack and previews.same(stack[-1], release):
            continue
        if len(stack) > 1 and previews.same(stack[-2], release):
            stack.pop()
        else:
            stack.append(release)
    return stack[-2] if len(stack) > 1 else None


def live_at(name: str, moment: float, past: Sequence[rollouts.Rollout], steps: Sequence[rollouts.Step]) -> Live:
    """What was live at a moment, from all rollouts (the oldest first) and the steps of the one begun last before it."""
    found = Live(name=name, at=moment)
    for one in past:
        if one.outcome != "new" or one.ended_at is None:
            continue
        if one.ended_at > moment:
            # The same release, brought again, goes on being live.
            if not previews.same(one.new, found.release):
                found = msgspec.structs.replace(found, until=one.ended_at)
                break
            continue
        if previews.same(one.new, found.release):
            continue
        found = msgspec.structs.replace(
            found,
            release=one.new,
            since=one.ended_at,
            rollout=one.id,
            actor=one.actor,
            reason=one.reason,
            words=one.words,
        )
    begun = [one for one in past if one.started_at <= moment and (one.ended_at is None or one.ended_at > moment)]
    if not begun:
        return found
    taken = [step for step in steps if step.at <= moment and step.wanted is not None]
    shares = {arm.release.arm: arm.share for arm in taken[-1].wanted.arms} if taken and taken[-1].wanted else {}
    return msgspec.structs.replace(found, under_way=begun[-1].new, shares=shares)
