"""The single comparisons of two arms that a judgement is made of, each with its words.

Called by evidence.py. Must never say more than was counted, and must never weigh events by shares other than those
that were in force when they were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from windlass.rollout import phrases
from windlass.statistics import confidence, distribution, eprocess
from windlass.types import deployment

Verdict = Literal["CONTINUE", "ABORT", "PROMOTE"]
# Of requests drawn as announced, the rollouts in which a mismatch is claimed all the same.
_MISMATCH = 0.001
# What the bad events of a metric are called for short.
EVENTS = {
    "errors": "errors",
    "refused": "refusals",
    "slow": "slow answers",
    "callers": "callers with a bad event",
}
_FIELDS = ("admitted", "ok", "rejected", "expired", "cancelled", "failed", "slow", "first_bad")


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric. `log_e`: the natural logarithm of the evidence for harm; `needed`: where it is enough.

    `candidate` and `baseline` are events, answers or means of the arms. `lower` and `upper` bound what `unit` names, at
    any number of looks; `difference` is the upper end of the absolute difference of the rates, where one is known.
    What does not decide only informs. `apart`: its words say what the bounds do not.
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
    decides: bool = True
    apart: bool = False


class Terms(NamedTuple):
    """`harm` and `harmless` are the alphas of the two verdicts; the others as in evidence.Guard."""

    harm: float
    harmless: float
    r0: float
    delta: float
    margin: float


class Arm(NamedTuple):
    """The counts of one arm, each an array by stratum."""

    admitted: eprocess.Numbers
    ok: eprocess.Numbers
    rejected: eprocess.Numbers
    expired: eprocess.Numbers
    cancelled: eprocess.Numbers
    failed: eprocess.Numbers
    slow: eprocess.Numbers
    first_bad: eprocess.Numbers

    @property
    def open(self) -> eprocess.Numbers:
        """Admitted and not ended: under way, or lost with a process."""
        return np.maximum(self.admitted - self.ok - self.rejected - self.expired - self.cancelled - self.failed, 0.0)

    @property
    def bad(self) -> eprocess.Numbers:
        """All that did not end as it should."""
        return self.rejected + self.expired + self.cancelled + self.failed + self.slow


class Drawn(NamedTuple):
    """What was drawn for two arms. `share` is the candidate's part of both (of 1), one a stratum, all different."""

    versions: tuple[str, str]
    share: eprocess.Numbers
    baseline: Arm
    candidate: Arm
    counted: bool = True
    latency: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    bounds: tuple[float, ...] = ()

    @property
    def requests(self) -> eprocess.Numbers:
        """Of both arms, by stratum."""
        return self.baseline.admitted + self.candidate.admitted

    @property
    def whom(self) -> str:
        """The candidate and its part, for sentences."""
        low, high = phrases.percent(float(self.share.min())), phrases.percent(float(self.share.max()))
        return f"version {self.versions[1]}, which got {low if low == high else f'{low} to {high}'} of requests"


def gather(baseline: str, candidate: str, observed: deployment.Observed, began: int) -> Drawn:
    """The counts after `began` while both arms had a share, strata of one share added up; none if none was admitted."""
    sums: dict[float, dict[str, list[float]]] = {}
    seen: dict[float, list[deployment.Counts]] = {}
    for segment in observed.segments:
        shares = [segment.shares.get(arm, 0.0) for arm in (baseline, candidate)]
        if segment.generation <= began or min(shares) <= 0.0:
            continue
        arms = [segment.counts.get(arm, deployment.Counts()) for arm in (baseline, candidate)]
        seen.setdefault(shares[1] / sum(shares), []).extend(arms)
    for share, arms in seen.items():
        if any(arm.admitted for arm in arms):
            sums[share] = {
                name: [float(sum(getattr(arm, name) or 0 for arm in arms[side::2])) for side in (0, 1)]
                for name in _FIELDS
            }
    shares = sorted(sums)
    theirs, mine = (Arm(*(np.array([sums[s][name][side] for s in shares]) for name in _FIELDS)) for side in (0, 1))
    counted = all(arm.first_bad is not None for s in shares for arm in seen[s] if arm.admitted)
    most = seen.get(max(shares, key=lambda s: sums[s]["ok"][1], default=0.0), [])
    latency = (_added([arm.latency for arm in most[0::2]]), _added([arm.latency for arm in most[1::2]]))
    bounds = tuple(observed.bounds)
    return Drawn((baseline, candidate), np.array(shares), theirs, mine, counted, latency, bounds)


def _added(histograms: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(counts) for counts in zip(*(one for one in histograms if one), strict=True))


def harmed(drawn: Drawn) -> int:
    """Bad events on the candidate beyond what its share of the baseline's would be; at least 0."""
    odds = drawn.share / (1.0 - drawn.share)
    return max(0, round(float((drawn.candidate.bad - odds * drawn.baseline.bad).sum())))


def ratio(drawn: Drawn) -> tuple[Finding, Drawn]:
    """Did requests fall on the arms as they were drawn? If not, nothing is promoted on their counts.

    Harm is still believed then, with the share that the candidate really got where that is larger: going back on a
    candidate that fails is the safe side.
    """
    events = eprocess.Split(drawn.share, drawn.candidate.admitted, drawn.baseline.admitted)
    log_e, needed = eprocess.log_mismatch(events), -float(np.log(_MISMATCH))
    got, all_ = float(events.candidate.sum()), float(drawn.requests.sum())
    part = f"{got:,.0f} of {all_:,.0f} requests fell on version {drawn.versions[1]}"
    expected = f"{float((drawn.share * drawn.requests).sum()):,.0f} were to be expected"
    if log_e < needed:
        words = f"{part}, {expected}: drawn as announced"
        return Finding("ratio", "PROMOTE", words, got, all_ - got, log_e, needed), drawn
    words = (
        f"{part}, {expected}, and chance would do that {phrases.rarely(log_e)}: the counts cannot be trusted, "
        "so that nothing is promoted on them"
    )
    real = np.minimum(events.candidate / np.maximum(drawn.requests, 1.0), 0.99)
    finding = Finding("ratio", "CONTINUE", words, got, all_ - got, log_e, needed)
    return finding, drawn._replace(share=np.maximum(drawn.share, real))


def errors(drawn: Drawn, terms: Terms) -> Finding:
    """Requests that failed or ran out of time.

    The candidate's requests that are still open count against no harm, as if all failed: one that hangs is not
    promoted. The baseline's do not count: open requests are alike on both, and would make errors look so too.
    """
    candidate, baseline = (arm.failed + arm.expired for arm in (drawn.candidate, drawn.baseline))
    bad = eprocess.Split(drawn.share, candidate, baseline)
    proof = eprocess.Split(drawn.share, candidate + drawn.candidate.open, baseline)
    return _compared("errors", "errors", drawn, terms, bad, (proof, drawn.requests))


def refused(drawn: Drawn, terms: Terms) -> Finding:
    """Requests for which an arm's own queue had no room: more load, more refusals, however good the version is.

    So they speak for harm only while the candidate bears at most half of the load, where an equal version would refuse
    no more than its share; and for no harm the baseline's are left out.
    """
    candidate, baseline = drawn.candidate.rejected, drawn.baseline.rejected
    light = drawn.share <= 0.5
    bad = eprocess.Split(drawn.share[light], candidate[light], baseline[light])
    proof = eprocess.Split(drawn.share, candidate, np.zeros_like(baseline))
    return _compared("refused", "refusals", drawn, terms, bad, (proof, drawn.requests))


def slow(drawn: Drawn, since: Drawn, terms: Terms, slow_ms: float | None) -> Finding:
    """Answers above the threshold, and requests that their callers gave up: who waits too long leaves.

    `since` is what was drawn with the threshold in force: it alone speaks for no harm. None: latency is not judged.
    """
    bad, late = (
        eprocess.Split(one.share, *(arm.slow + arm.cancelled for arm in (one.candidate, one.baseline)))
        for one in (drawn, since)
    )
    what = f"answers slower than {slow_ms:g} ms or given up" if slow_ms else "requests given up by their callers"
    return _timed(_compared("slow", what, drawn, terms, bad, (late, since.requests)), drawn, slow_ms)


def callers(drawn: Drawn, since: Drawn, terms: Terms, slow_ms: float | None) -> Finding:
    """Where keys stick: the first bad event of each key, since all further ones fall on the same arm.

    Once most keys have had one, both arms look alike, whatever they do: the plain rates must be near each other too.
    `since` and `slow_ms` are as in `slow`.
    """
    if not drawn.counted:
        words = "keys stick to their arm, and their first bad events are not counted: nothing is concluded"
        return Finding("callers", "CONTINUE", words, apart=True)
    bad, late = (eprocess.Split(one.share, one.candidate.first_bad, one.baseline.first_bad) for one in (drawn, since))
    found = _timed(_compared("callers", EVENTS["callers"], drawn, terms, bad, (late, None)), drawn, slow_ms)
    mine, theirs = (
        float((arm.bad + arm.open).sum() / max(arm.admitted.sum(), 1.0)) for arm in (since.candidate, since.baseline)
    )
    if found.verdict != "PROMOTE" or mine < max(theirs * (1.0 + terms.delta), theirs + terms.margin):
        return found
    plain = f"of all requests {phrases.percent(mine)} were bad there, {phrases.percent(theirs)} elsewhere: too many"
    return msgspec.structs.replace(found, verdict="CONTINUE", words=f"{found.words}, but {plain}", apart=True)


def _timed(found: Finding, drawn: Drawn, slow_ms: float | None) -> Finding:
    """No proof while it is not known what is slow: that nothing was counted as slow says nothing."""
    if slow_ms is None or slow_ms > 0.0 or found.verdict == "ABORT":
        return found
    words = (
        f"what is slow cannot be told from version {drawn.versions[0]}'s answers yet (100 are needed at least), so "
        "latency is not judged"
    )
    return msgspec.structs.replace(found, verdict="CONTINUE", words=words, apart=True)


def _compared(
    metric: str,
    what: str,
    drawn: Drawn,
    terms: Terms,
    bad: eprocess.Split,
    proof: tuple[eprocess.Split, eprocess.Numbers | None],
) -> Finding:
    """`bad` speaks for harm; `proof` for no harm, by the relative risk or by the difference, at half of alpha each.

    Where `proof` has no requests beside its events, these were not drawn one by one: then only the relative risk can
    speak for no harm.
    """
    counted, requests = proof
    log_e, needed = float(eprocess.log_harm(bad, terms.r0)), -float(np.log(terms.harm))
    mine, all_ = float(bad.candidate.sum()), float((bad.candidate + bad.baseline).sum())
    lower = confidence.risk_lower(bad, terms.harm)
    half = terms.harmless if requests is None else terms.harmless / 2.0
    upper = confidence.risk_upper(counted, half)
    difference = 1.0 if requests is None else confidence.difference_upper(counted, requests, half)
    harmless = float(eprocess.log_harmless(counted, 1.0 + terms.delta)) >= -np.log(half)
    if log_e >= needed:
        verdict: Verdict = "ABORT"
    else:
        verdict = "PROMOTE" if harmless or difference < terms.margin else "CONTINUE"
    expected = float((bad.share * (bad.candidate + bad.baseline)).sum())
    fell = f"{mine:,.0f} of {all_:,.0f} {what} fell on {drawn.whom} ({expected:.3g} expected)" if all_ else f"no {what}"
    tail = {
        "ABORT": f"were it no worse, that would come {phrases.rarely(log_e)}, at any number of looks: abort",
        "PROMOTE": phrases.harmless(upper, difference, relative=harmless),
        "CONTINUE": phrases.undecided(
            (lower, upper) if all_ else None, None if requests is None else difference, terms.margin
        ),
    }[verdict]
    return Finding(metric, verdict, f"{fell}; {tail}", mine, all_ - mine, log_e, needed, lower, upper, difference)


def scores(drawn: Drawn, values: tuple[Sequence[float], Sequence[float]], alpha: float, margin: float) -> Finding:
    """Means of scores in [0, 1] (1 is best), of the baseline and of the candidate, each with bounds of its own."""
    if not all(values):
        return Finding("scores", "CONTINUE", "no scores have come for both versions", unit="difference of means")
    theirs, mine = (confidence.mean(one, alpha / 2.0) for one in values)
    means = [float(np.mean(one)) for one in values]
    lower, upper = mine[0] - theirs[1], mine[1] - theirs[0]
    verdict: Verdict = "ABORT" if upper < 0.0 else "PROMOTE" if lower > -margin else "CONTINUE"
    words = (
        f"the mean score of version {drawn.versions[1]} is {means[1]:.3f} of {len(values[1]):,}, that of version "
        f"{drawn.versions[0]} {means[0]:.3f} of {len(values[0]):,}; the difference lies between {lower:+.3f} and "
        f"{upper:+.3f}"
    )
    return Finding("scores", verdict, words, means[1], means[0], lower=lower, upper=upper, unit="difference of means")


def latency(drawn: Drawn, alpha: float) -> tuple[Finding, ...]:
    """Where the latencies of both arms differ most, in the stratum with the most answers. Informs, and decides nothing:
    its bands hold for one share, and for what does not change with time."""
    theirs, mine = drawn.latency
    if len(mine) != len(drawn.bounds) + 1 or len(theirs) != len(mine) or not sum(mine) or not sum(theirs):
        return ()
    lower, upper = distribution.above(mine, theirs, alpha)
    at = int(np.abs(lower + upper).argmax())
    part = [float(sum(one[at + 1 :]) / sum(one)) for one in (mine, theirs)]
    words = (
        f"latencies differ most at {drawn.bounds[at] * 1e3:g} ms: {phrases.percent(part[0])} of answers took longer on "
        f"version {drawn.versions[1]}, {phrases.percent(part[1])} on version {drawn.versions[0]}"
    )
    low, high = float(lower[at]), float(upper[at])
    unit = "difference of rates"
    return (Finding("latency", "CONTINUE", words, part[0], part[1], lower=low, upper=high, unit=unit, decides=False),)


def agreement(candidate: str, mirrored: deployment.Mirrored, alpha: float, limit: float) -> Finding:
    """Of the mirrored requests, those that were answered otherwise or failed, against `limit`."""
    count, total = mirrored.failed + mirrored.disagreed, mirrored.compared + mirrored.failed
    if not total:
        return Finding("agreement", "CONTINUE", "no request has been compared yet", unit="rate")
    lower, upper = confidence.rate(count, total, alpha)
    verdict: Verdict = "ABORT" if lower > limit else "PROMOTE" if upper < limit else "CONTINUE"
    words = (
        f"{count:,} of {total:,} mirrored requests were answered otherwise or failed on version {candidate}: between "
        f"{phrases.percent(lower)} and {phrases.up(100.0 * upper, 3)} %, where {phrases.percent(limit)} may"
    )
    if mirrored.rows:
        words += f"; {mirrored.same:,} of {mirrored.rows:,} rows have the same highest score"
    return Finding("agreement", verdict, words, count, total - count, 0.0, 0.0, lower, upper, 1.0, "rate")
