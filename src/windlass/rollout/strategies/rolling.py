"""Rolling: requests and capacity move in equal batches; evidence of harm goes back, silence goes on.

For targets with instances, and where a release needs no proof. Must never take capacity away before its requests went.
"""

from __future__ import annotations

from windlass.rollout.strategies import base


class Rolling(base.Judged, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Batches of `batch` percent, each in force for at least `batch_s` before the next.

    Between two batches the new release's capacity grows first, then requests move, then the old one's shrinks: at no
    time can either carry less than it is asked, and both together never need more than 100 % and one batch.
    """

    batch: float = 25.0
    batch_s: float = 60.0

    def check(self) -> None:
        super().check()
        base.within("batch", self.batch, 1, 100)
        base.within("batch_s", self.batch_s, 0, base.DAY_S)

    def course(self, candidates: int) -> base.Course:
        base.one_candidate("rolling", candidates)
        stages: list[base.Stage] = []
        share = 0.0
        while share < 100:
            left = 100 - share
            after = min(100.0, share + self.batch)
            stages.append(base.Stage((share,), capacity=after, old_capacity=left))
            stages.append(base.Stage((after,), capacity=after, old_capacity=left, hold_s=self.batch_s))
            share = after
        return base.Course(
            tuple(stages),
            guard=self.guard(),
            ready_s=self.ready_s,
            max_s=self.max_s,
            keep_s=self.keep_s,
            sticky=self.sticky,
            override=self.override,
            pins=self.pins,
        )
