"""Experiment: several releases answer side by side, and their scores are compared (A/B/n).

Ends with an answer, not with a release, unless it is asked to. Must never promote a release on anything but its scores.
"""

from __future__ import annotations

import msgspec

from windlass import errors
from windlass.rollout.strategies import base


class Experiment(base.Judged, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """`shares` (percent) of the release and of those it is compared with; the old one has the rest. None: equal shares.

    For at least `min_s`; it ends when the scores say that the new release is better (or, with `score_margin`, no worse
    than by that), or after `max_s`; any release that harms ends it too. `promote_winner`: proof for the new release
    brings it all requests; otherwise the old one keeps them, and the words say who won.
    """

    shares: tuple[float, ...] = ()
    min_s: float = 3600.0
    max_s: float = 14 * base.DAY_S
    score_margin: float = 0.0
    promote_winner: bool = False

    def check(self) -> None:
        super().check()
        base.within("min_s", self.min_s, 0, 30 * base.DAY_S)
        base.within("score_margin", self.score_margin, 0, 1)
        for share in self.shares:
            base.within("shares", share, 0.01, 99.99)
        if sum(self.shares) >= 100:
            raise errors.UsageError(
                f"the strategy's shares sum to {sum(self.shares):g}.", hint="Leave some requests to the old release."
            )

    def course(self, candidates: int) -> base.Course:
        shares = self.shares or (round(100 / (candidates + 1), 6),) * candidates
        if len(shares) != candidates:
            raise errors.UsageError(f"the strategy has {len(shares)} shares for {candidates} releases.")
        guard = msgspec.structs.replace(
            self.guard(), alpha=self.alpha / candidates, by="scores", score_margin=self.score_margin
        )
        return base.Course(
            (base.Stage((0.0,) * candidates), base.Stage(shares, hold_s=self.min_s, asked=True, proven=True)),
            guard=guard,
            ends="new" if self.promote_winner else "old",
            ready_s=self.ready_s,
            max_s=self.max_s,
            keep_s=self.keep_s,
            sticky=self.sticky,
            override=self.override,
            pins=self.pins,
        )
