"""E-processes on counts: bad events of two arms, compared given that a bad event happened, and who was drawn at all.

Called by confidence.py and by rollout/. An e-process is at most 1 in expectation while its hypothesis holds, whenever
one stops; so it passes 1/alpha with a probability of at most alpha, at any number of looks (Ville's inequality).
Must never see a clock, and must never be given shares that were chosen after the events they weigh.

Lindon & Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022; Lindon, Sanden & Shirikian, Rapid
Regression Detection in Software Deployments through Sequential Testing, KDD 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
# Relative risks are looked for between 1/64 and 64, on a grid of this many points, uniform in the logarithm.
WIDEST = 64.0
GRID = 60
# Fine near 1, where thousands of requests show a share that is off by a percent.
_OFF = np.geomspace(1e-3, np.log(WIDEST), GRID // 2)
_ODDS = np.concatenate([-_OFF[::-1], _OFF])
# Coins between a fair and a certain one: fine enough for thousands of pairs.
_COINS = (1.0 + (np.arange(512) + 0.5) / 512) / 2.0


class Split(NamedTuple):
    """Events by the arm on which they fell: one entry a stratum, a time in which one share was in force.

    `share` is the candidate's part (0 to 1) of what the two arms got together: the probability that was drawn with.
    """

    share: Numbers
    candidate: Numbers
    baseline: Numbers


def split(share: npt.ArrayLike, candidate: npt.ArrayLike, baseline: npt.ArrayLike) -> Split:
    """Arrays of them all; scalars are one stratum."""
    return Split(*(np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in (share, candidate, baseline)))


def log_ratio(events: Split, risk: Numbers, against: Numbers | float) -> Numbers:
    """Log likelihood of where the events fell under relative risks `risk`, less that under `against` (same shape).

    With p(r) = s r / (s r + 1 - s):  sum of candidate log(r / r0) - all events log((1 + s (r - 1)) / (1 + s (r0 - 1))).
    """
    together = events.candidate + events.baseline
    first = np.asarray(against, dtype=np.float64)
    shape = (-1,) + (1,) * risk.ndim
    share, count = events.share.reshape(shape), together.reshape(shape)
    change = np.log1p(share * (risk - first) / (1.0 + share * (first - 1.0)))
    found: Numbers = events.candidate.sum() * np.log(risk / first) - (count * change).sum(axis=0)
    return found


def log_mean(logs: Numbers) -> Numbers:
    """Logarithm of the mean of e to the power of them, along the last axis."""
    top = logs.max(axis=-1)
    found: Numbers = top + np.log(np.exp(logs - top[..., None]).mean(axis=-1))
    return found


def log_harm(events: Split, at_most: npt.ArrayLike = 1.0) -> Numbers:
    """Log of the evidence against "the candidate's relative risk is at most `at_most`", for each of these.

    The mixture is log-uniform over (`at_most`, 64]; the null is composite, since the likelihood ratio rises with every
    event on the candidate.
    """
    return _mixture(events, np.asarray(at_most, dtype=np.float64), WIDEST)


def log_harmless(events: Split, at_least: npt.ArrayLike) -> Numbers:
    """Log of the evidence against "the candidate's relative risk is at least `at_least`": the mirror of `log_harm`.

    The mixture is log-uniform over [1/64, `at_least`).
    """
    return _mixture(events, np.asarray(at_least, dtype=np.float64), 1.0 / WIDEST)


def _mixture(events: Split, null: Numbers, end: float) -> Numbers:
    first = np.log(null)[..., None]
    points = first + (np.log(end) - first) * (np.arange(GRID) + 0.5) / GRID
    return log_mean(log_ratio(events, np.exp(points), null[..., None]))


def log_mismatch(drawn: Split) -> float:
    """Log of the evidence that requests did not fall on the arms with the probabilities in force.

    The mixture is over odds between 1/64 and 64 times those announced, most of it close to them.
    """
    return float(log_mean(log_ratio(drawn, np.exp(_ODDS), 1.0)))


def log_worse(worse: float, better: float) -> float:
    """Log of the evidence against "of the pairs of which one is right, the candidate is wrong in at most half".

    `worse` and `better` are the pairs in which it alone was wrong, and right; others say nothing. With q the chance
    that it is the wrong one, E = integral of (2q)^worse (2(1 - q))^better dF(q), F uniform on 512 points between 1/2
    and 1: a mixture of likelihood ratios against q = 1/2 (Robbins, Statistical methods related to the law of the
    iterated logarithm, 1970). For each point r a pair whose chance is q multiplies the expectation by
    2 q r + 2 (1 - q)(1 - r), at most 1 if q <= 1/2, whatever came before: the sign test, at any number of looks.
    """
    return float(log_mean(worse * np.log(2.0 * _COINS) + better * np.log(2.0 * (1.0 - _COINS))))
