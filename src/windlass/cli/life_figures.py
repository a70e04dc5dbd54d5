"""What the answers of a watched load say about a rollout: who was answered badly, and when the last answer came.

Used by `cli/life.py`. Pure: answers in, numbers out. Must never count a request of another time, nor guess a truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from windlass.client import witness
from windlass.records import rollouts
from windlass.rollout import evidence


class Asked(msgspec.Struct, frozen=True):
    """What one version answered: requests, those that failed, and those with another label than the truth."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0

    @property
    def wrong_rate(self) -> float:
        """Of the answered ones, of 1; 0 if none was."""
        answered = self.requests - self.failed
        return self.wrong / answered if answered else 0.0


class Ended(msgspec.Struct, frozen=True):
    """How a rollout ended. `shares` (percent) are those that its new version had on the way, each once.

    `harmed` were answered badly by the new version beyond what the old one would have: `bad` failed or were slow, as
    the server counted them, `wrong` had the wrong label, as the callers saw. `budget` is what was promised (0: nothing
    was). `began` is in seconds since the epoch.
    """

    what: str
    version: int
    live: int
    verdict: str
    words: str
    began: float
    took_s: float
    shares: tuple[float, ...]
    asked: int = 0
    bad: int = 0
    wrong: int = 0
    budget: float = 0.0

    @property
    def harmed(self) -> int:
        """All of them."""
        return self.bad + self.wrong


def by_version(answers: Iterable[witness.Answer], truths: Sequence[str], since: float) -> dict[str, Asked]:
    """What each version answered of the requests that were to start from a time (seconds since the epoch) on.

    The request with the number n shows the picture n modulo the number of truths. What has no version is left out.
    """
    found: dict[str, list[int]] = {}
    for one in answers:
        if one.at < since or not one.version:
            continue
        counts = found.setdefault(one.version, [0, 0, 0])
        counts[0] += 1
        if not one.ok:
            counts[1] += 1
        elif one.label != truths[one.number % len(truths)]:
            counts[2] += 1
    return {version: Asked(*counts) for version, counts in found.items()}


def more_wrong(found: dict[str, Asked], old: str, new: str) -> int:
    """Wrong answers of `new` beyond those that `old` would have given to as many requests; at least 0."""
    mine, theirs = found.get(new, Asked()), found.get(old, Asked())
    return max(0, round(mine.wrong - theirs.wrong_rate * (mine.requests - mine.failed)))


def until_gone(answers: Iterable[witness.Answer], version: str, since: float) -> float:
    """Seconds from a time until the last answer of this version; 0.0: none came since."""
    return max([0.0, *(one.at + one.took_s - since for one in answers if one.version == version)])


def ended(
    what: str, rollout: rollouts.Rollout, steps: Sequence[rollouts.Step], seen: dict[str, Asked], budget: float = 0.0
) -> Ended:
    """A rollout that has ended, from its rows and what the load saw meanwhile."""
    new = rollout.new.arm
    live = rollout.new if rollout.outcome == "new" or rollout.old is None else rollout.old
    judged = [msgspec.convert(step.evidence, evidence.Judgement) for step in steps if step.evidence]
    shares = [arm.share for step in steps if step.wanted for arm in step.wanted.arms if arm.release.arm == new]
    return Ended(
        what=what,
        version=rollout.new.version,
        live=live.version,
        verdict=rollout.verdict,
        words=rollout.words,
        began=rollout.started_at,
        took_s=(rollout.ended_at or rollout.started_at) - rollout.started_at,
        shares=tuple(dict.fromkeys(share for share in shares if 0 < share < 100)),
        asked=seen.get(new, Asked()).requests,
        bad=judged[-1].harmed if judged else 0,
        wrong=more_wrong(seen, rollout.old.arm, new) if rollout.old else 0,
        budget=budget,
    )
