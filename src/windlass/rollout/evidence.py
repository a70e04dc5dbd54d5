"""What the counts of a rollout prove: harm, no harm, or nothing yet, with a stated error rate.

Called by decide.py after every observation. Must never look at a clock or a store, and must never take silence for
success: without traffic, counts or events it says so and concludes nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from windlass.rollout import comparisons
from windlass.rollout.comparisons import Finding, Verdict
from windlass.types import deployment

__all__ = ["Finding", "Guard", "Judgement", "Verdict", "judge", "slow_ms"]

# Of requests drawn one by one: errors, refusals, slow answers.
METRICS = 3
# Answers of the baseline before a threshold can be read off them; the part of them that is to be slow, and how far the
# part above a bound may be from that.
_ANSWERS = 100
_SLOW = 0.05
_RARE, _OFTEN = 0.01, 0.25


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is judged, and at which error rates. Fixed before the start.

    `alpha`: of 1, the releases no worse than the baseline that are aborted, at most; and of the worse ones, those
    promoted. Harm is a relative risk of bad events above `r0` (of slow answers: above `slow_r0`, because an arm's own
    queue and batches depend on its share). No harm is a relative risk below 1 + `delta`, or an absolute difference of
    the rates below `margin`. `slow_ms`: ok answers that took longer are slow (0: latency is not judged). `sticky`:
    keys, not requests, are drawn. `by`: "events" of real traffic; "mirror": `observed.mirrored` and `observed.pairs`;
    "scores": means of `observed.scores` beside the events. `disagreement`: of 1, the compared answers of a mirror that
    may differ; with labels, by how much it may score less. `score_margin`: by how much a mean score may be lower (0:
    promotion asks for a higher one).
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


class Judgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict and its reasons. `harmed`: requests that the candidate answered badly and the baseline would not."""

    verdict: Verdict
    words: str
    findings: tuple[Finding, ...] = ()
    harmed: int = 0


def slow_ms(guard: Guard, baseline: str, observed: deployment.Observed) -> float:
    """The threshold above which an ok answer is slow, in ms: the guard's own, else from what `baseline` did so far.

    The baseline's 95th percentile, moved to a bound of the histogram: of the bounds that 1 % to 25 % of its answers
    exceed, the one whose part is nearest to 5 % by ratio, so that slow answers happen; if there is none, the lowest
    that at most 5 % exceed. To be asked for once, before the start. 0.0: fewer than 100 answers were seen, or no bound
    fits.
    """
    if guard.slow_ms > 0.0:
        return guard.slow_ms
    seen = np.zeros(len(observed.bounds) + 1)
    for segment in observed.segments:
        latency = segment.counts.get(baseline, deployment.Counts()).latency
        if len(latency) == seen.size:
            seen += latency
    if not observed.measured or seen.sum() < _ANSWERS:
        return 0.0
    above = 1.0 - np.cumsum(seen)[:-1] / seen.sum()
    fit = np.flatnonzero((above >= _RARE) & (above <= _OFTEN))
    if fit.size:
        return float(observed.bounds[fit[np.abs(np.log(above[fit] / _SLOW)).argmin()]]) * 1e3
    low = np.flatnonzero(above <= _SLOW)
    return float(observed.bounds[low[0]]) * 1e3 if low.size else 0.0


def judge(guard: Guard, baseline: str, candidate: str, observed: deployment.Observed, began: int) -> Judgement:
    """The verdict on `candidate`, compared with `baseline`, both names of arms.

    Only segments with a generation above `began` in which both arms had a share count. Evidence of harm in any metric
    aborts: each has a part of alpha. Promotion asks for evidence of no harm in every one, each at the whole alpha: a
    candidate that is bad in one metric would have to deceive that one (intersection-union).
    """
    if not observed.measured:
        return Judgement("CONTINUE", "what runs is known, what came of it is not: without counts nothing is concluded")
    if guard.by == "mirror":
        return _decided(_mirror(guard, candidate, observed), 0)
    drawn = comparisons.gather(baseline, candidate, observed, began)
    if not len(drawn.share):
        return Judgement("CONTINUE", f"no request has been drawn for version {candidate} beside version {baseline} yet")
    found = weigh(guard, drawn)
    if guard.by == "scores":
        scores = observed.scores.get(baseline, ()), observed.scores.get(candidate, ())
        found.append(comparisons.scores(drawn, scores, guard.alpha / _metrics(guard), guard.score_margin))
    return _decided([*found, *comparisons.latency(drawn, guard.alpha)], comparisons.harmed(drawn))


def _metrics(guard: Guard) -> int:
    """Among how many the alpha of abort is divided."""
    return (1 if guard.sticky else METRICS) + (guard.by == "scores")


def _terms(guard: Guard, *, slow: bool = False) -> comparisons.Terms:
    r0 = max(guard.r0, guard.slow_r0) if slow and guard.slow_ms else guard.r0
    return comparisons.Terms(guard.alpha / _metrics(guard), guard.alpha, r0, guard.delta, guard.margin)


def weigh(guard: Guard, drawn: comparisons.Drawn) -> list[Finding]:
    """What the events say: whether requests were drawn as announced, then one finding a metric."""
    if guard.sticky:
        return [comparisons.callers(drawn, _terms(guard, slow=True))]
    ratio, drawn = comparisons.ratio(drawn)
    return [
        ratio,
        comparisons.errors(drawn, _terms(guard)),
        comparisons.refused(drawn, _terms(guard)),
        comparisons.slow(drawn, _terms(guard, slow=True), guard.slow_ms),
    ]


def _mirror(guard: Guard, candidate: str, observed: deployment.Observed) -> list[Finding]:
    mirrored = observed.mirrored or deployment.Mirrored()
    alpha = guard.alpha / 2.0
    found = [comparisons.agreement(candidate, mirrored, alpha, guard.disagreement, labelled=bool(observed.pairs))]
    if observed.pairs:
        found.append(comparisons.pairs(candidate, observed.pairs, alpha, guard.disagreement))
    return found


def _decided(findings: list[Finding], harmed: int) -> Judgement:
    """ABORT if any says so; PROMOTE if all that have a say do; the words of those that decide."""
    deciding = [finding for finding in findings if finding.decides]
    verdict: Verdict = "CONTINUE"
    if any(finding.verdict == "ABORT" for finding in deciding):
        verdict = "ABORT"
    elif deciding and all(finding.verdict == "PROMOTE" for finding in deciding):
        verdict = "PROMOTE"
    words = "; ".join(finding.words for finding in deciding if finding.verdict == verdict)
    return Judgement(verdict, words, tuple(findings), harmed)
