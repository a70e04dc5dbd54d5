"""Shadow: the new release is asked the same as the old one, and its answers are compared and never sent.

Finds with few requests, and at nobody's cost, how the two differ. Must never mirror to more than one release.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from windlass.rollout import evidence
from windlass.rollout.strategies import base


class Shadow(base.Judged, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """`share` percent of the requests are mirrored for at least `min_s`, until there is a verdict on the answers.

    The verdict is whether at most `disagreement` (of 1) of the answers differ, by more than `atol + rtol * |answer|`.
    With `labels` answers may differ: the verdict is whether the new release is right less often where the two give
    different classes and a label says which is right, by at most `disagreement` of all requests.
    `then` is what proof leads to: nothing (the old release stays: it was a trial), `canary` (by `steps`, each at least
    `step_s`; `alpha` is shared by the two comparisons) or `promote`.
    """

    share: float = 100.0
    min_s: float = 300.0
    disagreement: float = 0.01
    labels: bool = False
    atol: float = 1e-5
    rtol: float = 1e-3
    then: Literal["", "canary", "promote"] = ""
    steps: tuple[float, ...] = (1.0, 5.0, 10.0, 25.0, 50.0)
    step_s: float = 60.0

    def check(self) -> None:
        super().check()
        base.within("share", self.share, 0.01, 100)
        base.within("min_s", self.min_s, 0, 30 * base.DAY_S)
        base.within("disagreement", self.disagreement, 1e-6, 0.5)
        base.within("atol", self.atol, 0, 1e9)
        base.within("rtol", self.rtol, 0, 1e3)
        base.ramp(self.steps, self.step_s)

    def course(self, candidates: int) -> base.Course:
        base.one_candidate("shadow", candidates)
        mirrored = base.Stage(hold_s=self.min_s, mirror=self.share, asked=True, proven=True)
        canary = self.then == "canary"
        guard = msgspec.structs.replace(self.guard(), alpha=self.alpha / 2 if canary else self.alpha)
        return base.Course(
            (mirrored, base.Stage(), *base.ramp(self.steps, self.step_s)) if canary else (mirrored,),
            guard=guard if canary else None,
            mirror_guard=evidence.Guard(
                alpha=guard.alpha, by="mirror", disagreement=self.disagreement, labels=self.labels
            ),
            ends="new" if self.then else "old",
            ready_s=self.ready_s,
            early_s=self.min_s if canary else None,
            max_s=self.max_s,
            keep_s=self.keep_s,
            atol=self.atol,
            rtol=self.rtol,
            sticky=self.sticky,
            override=self.override,
            pins=self.pins,
        )
