"""Which shares a canary takes: from a budget of harmed requests, and the regression that is to be caught within it.

Called by the canary's strategy when it is planned. Must never simulate: expectations are computed, so that the same
question has the same answer.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from windlass import errors
from windlass.rollout import evidence
from windlass.statistics import eprocess

LADDER = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0)
# Events on the candidate after which an abort is no longer waited for: a regression so small is not caught in time.
_LONGEST = 400


def choose(budget: float, regression: float, alpha: float = 0.01) -> tuple[float, ...]:
    """The steps (percent): `LADDER` up to the largest share whose expected bad events until abort are <= `budget`.

    `regression` is the relative risk to be caught (above 1); `alpha` that of the guard. Raises `UsageError` where no
    share keeps the budget.
    """
    if not (regression > 1.0 and budget > 0.0):
        raise errors.UsageError(
            f"a regression of {regression:g} times within {budget:g} requests cannot be caught",
            hint="give a regression above 1 and a budget above 0",
        )
    harmed = {share: expected(share, regression, alpha) for share in LADDER}
    largest = max((share for share in LADDER if harmed[share] <= budget), default=0.0)
    if not largest:
        least = math.ceil(min(harmed.values()))
        raise errors.UsageError(
            f"a regression of {regression:g} times takes about {least} bad answers to be sure of, the budget is "
            f"{budget:g}",
            hint=f"give a budget of {least}, or a larger regression to catch",
        )
    return tuple(share for share in LADDER if share <= largest)


@functools.lru_cache(maxsize=256)
def expected(share: float, regression: float, alpha: float = 0.01) -> float:
    """Bad events on the candidate, expected until one metric aborts at its part of alpha, at `share` percent.

    Exact, up to 1e-6: the distribution of the baseline's bad events at each of the candidate's, with what is beyond
    the limit of abort taken out. Infinite where 400 do not suffice for all but 1 in 1,000.
    """
    part = share / 100.0
    own = part * regression / (part * regression + 1.0 - part)
    size = min(int(600.0 / -math.log1p(-own)), 200_000)
    fall = np.arange(size) * math.log1p(-own)
    alive = np.zeros(size)
    alive[0] = 1.0
    total, limit = 0.0, -1
    for event in range(1, _LONGEST + 1):
        mass = float(alive.sum())
        total += mass
        if mass < 1e-6:
            return total
        alive = own * np.exp(fall) * np.cumsum(alive * np.exp(-fall))
        limit = _limit(event, part, alpha / evidence.METRICS, limit)
        alive[: limit + 1] = 0.0
    return total if float(alive.sum()) < 1e-3 else math.inf


def _limit(candidate: int, share: float, alpha: float, before: int) -> int:
    """The most bad events of the baseline beside which so many on the candidate abort; -1: none are few enough."""

    def aborts(baseline: int) -> bool:
        return float(eprocess.log_harm(eprocess.split(share, candidate, baseline))) >= -math.log(alpha)

    low, step = before, 1
    while aborts(low + step):
        low, step = low + step, 2 * step
    while step > 1:
        step //= 2
        low += step if aborts(low + step) else 0
    return low
