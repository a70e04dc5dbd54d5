"""What the counts of a rollout prove: harm, no harm, or nothing yet, with a stated error rate.

Called by decide.py after every observation. Must never look at a clock or a store, and must never take silence for
success: without traffic, counts or events it says so and concludes nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from windlass.types import deployment

Verdict = Literal["CONTINUE", "ABORT", "PROMOTE"]


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is judged, and at which error rates. Fixed before the start.

    `alpha`: of 1, the releases no worse than the baseline that are aborted, at most; and of the worse ones, those
    promoted. Harm is a relative risk of bad events above `r0` (of slow answers: above `slow_r0`, because an arm's own
    queue and batches depend on its share). No harm is a relative risk below 1 + `delta`, or an absolute difference of
    the rates below `margin`. `slow_ms`: ok answers that took longer are slow (0: latency is not judged). `sticky`:
    keys, not requests, are drawn. `by`: "events" of real traffic; "mirror": `observed.mirrored` and `observed.pairs`;
    "scores": means of `observed.scores` beside the events. `disagreement`: of 1, the compared answers of a mirror that
    may differ. `score_margin`: by how much a mean score may be lower (0: promotion asks for a higher one).
    """

    alpha: float = 0.01
    delta: float = 0.5
    margin: float = 0.005
    r0: float = 1.0
    slow_r0: float = 1.25
    slow_ms: float = 0.0
    sticky: bool = False
    by: Literal["events", "mirror", "scores"] = "events"
    disagreement: float = 0.01
    score_margin: float = 0.0


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric. `log_e`: the natural logarithm of the evidence for harm; `needed`: where it is enough.

    `lower` and `upper` bound what `unit` names: the relative risk, or a difference (of rates, of means), at any number
    of looks. `difference` is the upper end of the absolute difference of the rates, where one is known.
    """

    metric: str
    verdict: Verdict
    words: str
    candidate: float = 0.0
    baseline: float = 0.0
    log_e: float = 0.0
    needed: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    difference: float = 1.0
    unit: str = "relative risk"


class Judgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict and its reasons. `harmed`: requests that the candidate answered badly and the baseline would not."""

    verdict: Verdict
    words: str
    findings: tuple[Finding, ...] = ()
    harmed: int = 0


def slow_ms(guard: Guard, baseline: str, observed: deployment.Observed) -> float:
    """The threshold above which an ok answer is slow, in ms: the guard's own, else from what `baseline` did so far.

    To be asked for once, before the start. 0.0: fewer than 100 answers were seen.
    """
    raise NotImplementedError


def judge(guard: Guard, baseline: str, candidate: str, observed: deployment.Observed, began: int) -> Judgement:
    """The verdict on `candidate`, compared with `baseline`, both names of arms.

    Only segments with a generation above `began` in which both arms had a share count.
    """
    raise NotImplementedError
