"""What the counts of a rollout prove: harm, no harm, or nothing yet, with a stated error rate.

Called by decide.py after every observation. Must never look at a clock or a store, and must never take silence for
success: without traffic, counts or events it says so and concludes nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from windlass.rollout import comparisons, labels, phrases
from windlass.rollout.comparisons import Finding, Verdict
from windlass.statistics import eprocess
from windlass.types import deployment

__all__ = ["Finding", "Guard", "Judgement", "Verdict", "judge", "slow_ms"]

# Of requests drawn one by one: errors, refusals, slow answers.
METRICS = 3
# Answers of the baseline before a threshold can be read off them; the part of them that is to be slow, and how far the
# part above a bound may be from that.
_ANSWERS = 100
_SLOW = 0.05
_RARE, _OFTEN = 0.01, 0.25
# Relative risks are bounded up to here.
_UNKNOWN = 0.99 * eprocess.WIDEST


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is judged, and at which error rates. Fixed before the start.

    `alpha`: of 1, the releases no worse than the baseline that are aborted, at most; and of the worse ones, those
    promoted. Harm is a relative risk of bad events above `r0` (of slow answers: above `slow_r0`, because an arm's own
    queue and batches depend on its share). No harm is a relative risk below 1 + `delta`, or an absolute difference of
    the rates below `margin`. `slow_ms`: ok answers that took longer are slow (0: not known yet, nothing is promoted);
    without `latency`, none is. `sticky`: keys, not requests, are drawn. `by`: "events" of real traffic; "mirror":
    `observed.mirrored`; "scores": means of `observed.scores` beside the events. `disagreement`: of 1, the compared
    answers of a mirror that may differ. `labels`: `observed.labelled` says who is right where classes differ, and
    `disagreement` is by what part of the requests fewer may be answered rightly, or may fail. `score_margin`: by how
    much a mean score may be lower (0: promotion asks for a higher one).
    """

    alpha: float = 0.01
    delta: float = 0.5
    margin: float = 0.005
    r0: float = 1.0
    slow_r0: float = 1.25
    slow_ms: float = 0.0
    latency: bool = True
    sticky: bool = False
    by: Literal["events", "mirror", "scores"] = "events"
    disagreement: float = 0.01
    labels: bool = False
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
    that at most 5 % exceed. 0.0: fewer than 100 answers were seen, or no bound fits, or latency is not judged.

    To be asked for before the start, and if that says 0, at each look until it does not. Then it stays: a threshold may
    be chosen from all that was seen so far, since the arm of a request that comes later is drawn independently of that.
    Only requests that come under it are counted as slow, in a generation of their own, and no others speak for no harm.
    """
    if guard.slow_ms > 0.0 or not guard.latency:
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


def judge(
    guard: Guard, baseline: str, candidate: str, observed: deployment.Observed, began: int, slow_from: int = 0
) -> Judgement:
    """The verdict on `candidate`, compared with `baseline`, both names of arms.

    Only segments with a generation above `began` in which both arms had a share count; above `slow_from` the threshold
    of slow answers was in force. Evidence of harm in any metric aborts: each has a part of alpha. Promotion asks for
    evidence of no harm in every one, each at the whole alpha: a candidate that is bad in one metric would have to
    deceive that one (intersection-union).
    """
    if not observed.measured:
        return Judgement("CONTINUE", "what runs is known, what came of it is not: without counts nothing is concluded")
    if guard.by == "mirror":
        mirrored = observed.mirrored or deployment.Mirrored()
        if not guard.labels:
            found = [comparisons.agreement(candidate, mirrored, guard.alpha, guard.disagreement)]
        else:
            told = observed.labelled or deployment.Labelled()
            terms = labels.Terms(guard.alpha, guard.disagreement)
            found = [
                labels.failures(candidate, mirrored, terms),
                labels.right((baseline, candidate), mirrored, told, terms),
            ]
        return _decided(guard, baseline, found, 0)
    drawn = comparisons.gather(baseline, candidate, observed, began)
    if not len(drawn.share):
        return Judgement("CONTINUE", f"no request has been drawn for version {candidate} beside version {baseline} yet")
    since = comparisons.gather(baseline, candidate, observed, max(began, slow_from)) if slow_from > began else drawn
    found = weigh(guard, drawn, since)
    if guard.by == "scores":
        scores = observed.scores.get(baseline, ()), observed.scores.get(candidate, ())
        found.append(comparisons.scores(drawn, scores, guard.alpha / _metrics(guard), guard.score_margin))
    informing = comparisons.latency(drawn, guard.alpha)
    return _decided(guard, baseline, [*found, *informing], comparisons.harmed(drawn))


def _metrics(guard: Guard) -> int:
    """Among how many the alpha of abort is divided."""
    return (1 if guard.sticky else METRICS) + (guard.by == "scores")


def _terms(guard: Guard, r0: float) -> comparisons.Terms:
    return comparisons.Terms(guard.alpha / _metrics(guard), guard.alpha, r0, guard.delta, guard.margin)


def weigh(guard: Guard, drawn: comparisons.Drawn, since: comparisons.Drawn) -> list[Finding]:
    """What the events say: whether requests were drawn as announced, then one finding a metric.

    `since` is the part of `drawn` that was drawn with the threshold of slow answers in force. Harm in latency is sought
    in all of `drawn`, with one process: which events are bad may be settled on the way, as long as it is before they
    happen.
    """
    slow_ms, r0 = guard.slow_ms if guard.latency else None, max(guard.r0, guard.slow_r0)
    if guard.sticky:
        return [comparisons.callers(drawn, since, _terms(guard, r0), slow_ms)]
    ratio, drawn = comparisons.ratio(drawn)
    return [
        ratio,
        comparisons.errors(drawn, _terms(guard, guard.r0)),
        comparisons.refused(drawn, _terms(guard, guard.r0)),
        comparisons.slow(drawn, since, _terms(guard, r0), slow_ms),
    ]


def _decided(guard: Guard, baseline: str, findings: list[Finding], harmed: int) -> Judgement:
    """ABORT if any says so; PROMOTE if all that have a say do; the words of those that decide."""
    deciding = [finding for finding in findings if finding.decides]
    verdict: Verdict = "CONTINUE"
    if any(finding.verdict == "ABORT" for finding in deciding):
        verdict = "ABORT"
    elif deciding and all(finding.verdict == "PROMOTE" for finding in deciding):
        verdict = "PROMOTE"
    told = [finding for finding in deciding if finding.verdict == verdict]
    bounded = [one for one in told if one.metric in comparisons.EVENTS and not one.apart and verdict != "ABORT"]
    words = [one.words for one in told if one not in bounded and (one.metric != "ratio" or verdict != "PROMOTE")]
    if bounded:
        words.insert(0, _bounds(guard, baseline, verdict, bounded))
    return Judgement(verdict, "; ".join(words), tuple(findings), harmed)


def _bounds(guard: Guard, baseline: str, verdict: Verdict, findings: list[Finding]) -> str:
    """One sentence for all metrics with bounds, each by what is nearer its limit, those with the same one together."""
    alike: dict[str, list[str]] = {}
    for one in findings:
        by_rate = one.difference / guard.margin <= one.upper / (1.0 + guard.delta)
        if one.difference < 1.0 and (by_rate or one.upper >= _UNKNOWN):
            bound = f"{phrases.up(100.0 * one.difference)} points more"
        else:
            bound = f"{phrases.up(one.upper, 3)} times as many" if one.upper < _UNKNOWN else ""
        alike.setdefault(bound, []).append(comparisons.EVENTS[one.metric])
    unknown = alike.pop("", [])
    most = ", ".join(f"{bound} {phrases.listed(events)}" for bound, events in alike.items())
    said = [f"beside version {baseline} at most {most}"] if most else []
    said += [f"nothing is known of {phrases.listed(unknown)}"] if unknown else []
    if verdict == "PROMOTE":
        return f"no harm: {', '.join(said)}"
    points = "" if guard.sticky else f"{phrases.up(100.0 * guard.margin)} points or "
    return f"undecided: {', '.join(said)} (allowed: {points}{1.0 + guard.delta:g} times)"
