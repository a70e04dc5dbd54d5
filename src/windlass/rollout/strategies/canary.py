"""Canary: a small share of the requests, which grows while there is no evidence of harm; promoted on evidence alone.

The way to release with a stated error rate. Must never promote because time has passed: without proof the old stays.
"""

from __future__ import annotations

import msgspec

from windlass import errors
from windlass.rollout import evidence, ramp
from windlass.rollout.strategies import base


class Canary(base.Judged, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Shares of `steps` percent, each for at least `step_s` and with requests; promoted when evidence says so.

    Evidence counts at every step: harm goes back at once, proof of no harm promotes after `min_s` with requests, also
    before the last step. Instead of `steps`: `harmed_budget`, how many requests may be answered badly before a release
    that is `regression` times worse is caught; then the steps go up to the largest share that is expected to keep it.
    """

    steps: tuple[float, ...] = ()
    step_s: float = 60.0
    min_s: float = 300.0
    harmed_budget: float = 0.0
    regression: float = 3.0
    score_margin: float = 0.0

    def check(self) -> None:
        super().check()
        base.within("min_s", self.min_s, 0, 30 * base.DAY_S)
        base.within("harmed_budget", self.harmed_budget, 0, 1e9)
        base.within("regression", self.regression, 1.05, 64)
        base.within("score_margin", self.score_margin, 0, 1)
        if self.steps and self.harmed_budget:
            raise errors.UsageError(
                "the strategy has steps and a harmed_budget.", hint="Give one: the budget chooses the steps."
            )
        base.ramp(self.shares(), self.step_s)

    def shares(self) -> tuple[float, ...]:
        """The shares of the canary, in percent."""
        if self.harmed_budget:
            # Scores have a part of alpha beside the metrics that the ramp reckons with.
            among = evidence.METRICS / (evidence.METRICS + 1) if self.score_margin else 1.0
            return ramp.choose(self.harmed_budget, self.regression, self.alpha * among)
        return self.steps or (1.0, 5.0, 10.0, 25.0, 50.0)

    def guard(self) -> evidence.Guard:
        """What judges the real requests, and their scores where feedback has a say."""
        found = super().guard()
        if not self.score_margin:
            return found
        return msgspec.structs.replace(found, by="scores", score_margin=self.score_margin)

    def course(self, candidates: int) -> base.Course:
        base.one_candidate("canary", candidates)
        return base.Course(
            (base.Stage(), *base.ramp(self.shares(), self.step_s)),
            guard=self.guard(),
            ready_s=self.ready_s,
            early_s=self.min_s,
            max_s=self.max_s,
            keep_s=self.keep_s,
            sticky=self.sticky,
            override=self.override,
            pins=self.pins,
        )
