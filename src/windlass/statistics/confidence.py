"""Confidence sequences: bounds that hold at all times together, so that one may look after every event and stop.

Called by rollout/. Must never give a bound that is only valid at a sample size fixed in advance. Each end is wrong,
ever, with a probability of at most its alpha; two ends together with at most twice that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from windlass.statistics import eprocess

# Bets, of which the mixture takes the mean: few, because each divides the evidence, and no more than a factor 2 apart.
_TILTS = np.geomspace(0.002, 0.95, 12)
_SHIFTS = np.geomspace(0.002, 8.0, 16)
_CAP = 0.75
Refused = npt.NDArray[np.bool_]


def risk(events: eprocess.Split, alpha: float) -> tuple[float, float]:
    """Lower and upper end of the candidate's relative risk, within [1/64, 64]: see `risk_lower`, `risk_upper`."""
    return risk_lower(events, alpha), risk_upper(events, alpha)


def risk_lower(events: eprocess.Split, alpha: float) -> float:
    """The smallest relative risk that `log_harm` does not reject."""
    return _risk(eprocess.log_harm, events, alpha, 1.0)


def risk_upper(events: eprocess.Split, alpha: float) -> float:
    """The largest relative risk that `log_harmless` does not reject: the process of harm alone has no upper end."""
    return _risk(eprocess.log_harmless, events, alpha, -1.0)


def _risk(
    process: Callable[[eprocess.Split, eprocess.Numbers], eprocess.Numbers],
    events: eprocess.Split,
    alpha: float,
    sign: float,
) -> float:
    edge = math.log(eprocess.WIDEST)
    if not float((events.candidate + events.baseline).sum()):
        return math.exp(-sign * edge)
    needed = -np.log(alpha)
    return math.exp(
        sign * _last(lambda at: np.asarray(process(events, np.exp(sign * at)) >= needed), -edge, edge, bits=12)
    )


def difference(bad: eprocess.Split, requests: npt.ArrayLike, alpha: float) -> tuple[float, float]:
    """Lower and upper end of candidate's rate - baseline's rate, of 1, averaged over the candidate's requests.

    `requests` are those of both arms, by stratum. Each request adds W = 1 if bad on the candidate, -s/(1-s) if bad on
    the baseline, else 0, of which s (p_candidate - p_baseline) is expected, whatever both rates do over time. For the
    upper end the product of (1 - u W) e^(u E W) is a supermartingale, since 1 - u E W <= e^(-u E W), for u in (0, 1);
    for the lower one that of (1 + u W) e^(-u E W); both are mixed over u (betting, as Waudby-Smith & Ramdas, 2024).
    A share above a half keeps the upper end and gives up the lower one (-1).
    """
    low = _difference(bad, requests, alpha, 1.0) if float(bad.share.max(initial=0.0)) <= 0.5 else -1.0
    return low, difference_upper(bad, requests, alpha)


def difference_upper(bad: eprocess.Split, requests: npt.ArrayLike, alpha: float) -> float:
    """The upper end alone."""
    return -_difference(bad, requests, alpha, -1.0)


def _difference(bad: eprocess.Split, requests: npt.ArrayLike, alpha: float, sign: float) -> float:
    """The `sign` * difference up to which all are refused, from below (1) or from above (-1)."""
    weight = bad.share / (1.0 - bad.share)
    expected = float((bad.share * np.asarray(requests, dtype=np.float64)).sum())
    if expected <= 0.0:
        return -1.0
    seen = float(bad.candidate.sum()) * np.log1p(sign * _TILTS)
    seen = seen + (bad.baseline * np.log1p(-sign * np.multiply.outer(_TILTS, weight))).sum(axis=-1)
    # Where the mixture's logarithm falls to log(1/alpha): convex and falling, so that Newton's steps from a point
    # where one bet alone suffices never go beyond.
    slopes, seen = _TILTS * expected, seen - np.log(_TILTS.size)
    at = float(((seen + np.log(alpha)) / slopes).max())
    for _ in range(12):
        terms = seen - at * slopes
        bets = np.exp(terms - terms.max())
        ahead = float(terms.max() + np.log(bets.sum()) + np.log(alpha))
        at += ahead / float((bets * slopes).sum() / bets.sum())
    return min(1.0, max(-1.0, at))


def rate(count: float, total: float, alpha: float) -> tuple[float, float]:
    """Lower and upper end of a rate that may change: the mean over `total` of the probabilities there were.

    Mixes exp(u count) / (1 + p (e^u - 1))^total over u; log(1 + p (e^u - 1)) is concave in p, so that the mean rate
    is covered where rates change (Howard et al., 2021).
    """
    needed = -np.log(alpha)

    def refused(at: eprocess.Numbers, sign: float) -> Refused:
        tilt = sign * _SHIFTS
        return _enough(tilt * count - total * np.log1p(at[..., None] * np.expm1(tilt)), needed)

    low = _last(lambda at: refused(at, 1.0), 0.0, 1.0)
    high = -_last(lambda at: refused(-at, -1.0), -1.0, 0.0)
    return max(0.0, low), min(1.0, high)


def mean(values: npt.ArrayLike, alpha: float) -> tuple[float, float]:
    """Lower and upper end of the mean of values in [0, 1], in the order in which they came.

    Bets whether the next value lies above m, with stakes that shrink with the variance seen so far: predictable
    plug-in betting (Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024).
    """
    seen = np.asarray(values, dtype=np.float64)
    if not seen.size:
        return 0.0, 1.0
    stakes = _stakes(seen, alpha)
    needed = -np.log(alpha)

    def refused(at: eprocess.Numbers, ones: eprocess.Numbers) -> Refused:
        return np.asarray(np.log1p(stakes * (ones - at[..., None])).sum(axis=-1) >= needed)

    low = _last(lambda at: refused(at, seen), 0.0, 1.0, parts=2)
    high = 1.0 - _last(lambda at: refused(at, 1.0 - seen), 0.0, 1.0, parts=2)
    return low, high


def _stakes(seen: eprocess.Numbers, alpha: float) -> eprocess.Numbers:
    """One for each value, from those before it: sqrt(2 log(1/alpha) / (variance n log(1 + n))), at most `_CAP`."""
    count = np.arange(1, seen.size + 1)
    means = (0.5 + np.cumsum(seen)) / (count + 1)
    variances = (0.25 + np.cumsum((seen - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    stakes: eprocess.Numbers = np.minimum(_CAP, np.sqrt(-2.0 * np.log(alpha) / (before * count * np.log1p(count))))
    return stakes


def _enough(logs: eprocess.Numbers, needed: float) -> Refused:
    return np.asarray(eprocess.log_mean(logs) >= needed)


def _last(
    refused: Callable[[eprocess.Numbers], Refused], low: float, high: float, parts: int = 16, bits: int = 20
) -> float:
    """The last point, from `low` on, up to which all are refused, to 2^-bits of the way, never beyond.

    Each round looks at `parts` - 1 points at once and keeps one part.
    """
    if not refused(np.array([low]))[0]:
        return low
    for _ in range(math.ceil(bits / math.log2(parts))):
        points = np.linspace(low, high, parts + 1)
        stays = np.flatnonzero(~refused(points[1:-1]))
        at = int(stays[0]) if stays.size else parts - 1
        low, high = float(points[at]), float(points[at + 1])
    return low
