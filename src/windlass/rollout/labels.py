"""A mirrored version judged by labels: where the two gave different classes, which was right?

Called by evidence.py. Must never take a request without a label for one that was answered rightly, nor an answer that
differs for a wrong one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from windlass.rollout import comparisons, phrases
from windlass.statistics import confidence, eprocess
from windlass.types import deployment


class Terms(NamedTuple):
    """`alpha` of each verdict (harm in two metrics: half of it each); `limit`: of 1, the requests that may be worse."""

    alpha: float
    limit: float


def failures(candidate: str, mirrored: deployment.Mirrored, terms: Terms) -> comparisons.Finding:
    """Mirrored requests that the candidate could not answer, against the limit: no label excuses them."""
    count, total = mirrored.failed, mirrored.compared + mirrored.failed
    if not total:
        return comparisons.Finding("failed", "CONTINUE", "no request has been compared yet", unit="rate")
    lower = confidence.rate(count, total, terms.alpha / 2.0)[0]
    upper = confidence.rate(count, total, terms.alpha)[1]
    verdict: comparisons.Verdict = "CONTINUE"
    if lower > terms.limit:
        verdict = "ABORT"
    elif upper < terms.limit:
        verdict = "PROMOTE"
    words = (
        f"{count:,} of {total:,} mirrored requests failed on version {candidate}: between {phrases.percent(lower)} and "
        f"{phrases.up(100.0 * upper, 3)} %, where {phrases.percent(terms.limit)} may"
    )
    return comparisons.Finding("failed", verdict, words, count, total - count, 0.0, 0.0, lower, upper, 1.0, "rate")


def right(
    versions: tuple[str, str], mirrored: deployment.Mirrored, told: deployment.Labelled, terms: Terms
) -> comparisons.Finding:
    """Is the candidate (the second) right less often than the baseline?

    Harm: among the labelled pairs of which one is right, the baseline is right too often (`eprocess.log_worse`). No
    harm: what is lost, (2q - 1) P(one alone is right) with q the chance that it is the baseline, is at most
    (2q - 1) P(two classes), and both have an upper end at half of alpha. So no label is needed where classes seldom
    differ, and none is waited for where the candidate is proven right more often than not.
    """
    old, new, both = versions[0], versions[1], mirrored.classed
    if not both:
        words = "no request of one row was given a class by both versions yet"
        return comparisons.Finding("labels", "CONTINUE", words, unit="difference of rates")
    log_e, needed = eprocess.log_worse(told.old, told.new), -float(np.log(terms.alpha / 2.0))
    half = terms.alpha / 2.0
    often = confidence.rate(told.old, told.old + told.new, half)[1] if told.old + told.new else 1.0
    differ = confidence.rate(mirrored.class_differed, both, half)[1]
    lost = differ * max(0.0, 2.0 * often - 1.0)
    verdict: comparisons.Verdict = "CONTINUE"
    if log_e >= needed:
        verdict = "ABORT"
    elif lost < terms.limit:
        verdict = "PROMOTE"
    labelled = told.old + told.new + told.neither
    words = (
        f"{mirrored.class_differed:,} of {both:,} requests were given another class by version {new}; of {labelled:,} "
        f"of them that have a label, version {old} was right about {told.old:,}, version {new} about {told.new:,}"
    )
    if verdict == "ABORT":
        words += f"; were it no worse, that would come {phrases.rarely(log_e)}, at any number of looks: abort"
    else:
        words += (
            f"; at most {phrases.up(100.0 * lost)} % fewer requests are answered rightly, where "
            f"{phrases.percent(terms.limit)} may"
        )
    unit = "difference of rates"
    return comparisons.Finding("labels", verdict, words, told.old, told.new, log_e, needed, -1.0, lost, 1.0, unit)
