"""How long a rollout will take to a verdict, and what it will cost if the new version is bad.

Called when a rollout is planned, before anything moves. Must never promise: what it says is expected, for given rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from windlass.rollout import comparisons, evidence, phrases
from windlass.statistics import eprocess

# Of the ok answers, those above the baseline's 95th percentile.
_SLOW = 0.05
# A regression of no errors at all would be none: this rate stands in.
_RARE = 1e-3


class Forecast(msgspec.Struct, frozen=True):
    """`promote_s`: seconds until the evidence promotes a healthy version; `abort_s`: until it aborts one that is
    `regression` times worse, `harmed` requests later. None: not within `horizon_s`."""

    promote_s: float | None
    abort_s: float | None
    harmed: float
    words: str


def expect(
    guard: evidence.Guard,
    steps: Sequence[tuple[float, float]],
    *,
    rate: float,
    errors: float,
    regression: float = 3.0,
    horizon_s: float = 86_400.0,
) -> Forecast:
    """`steps`: share (percent) and least seconds of each, the last one lasting; `rate`: requests a second in all.

    `errors`: the baseline's rate of bad events, of 1. The counts are those expected, whole or not, and are judged as
    counts are: about the median of what will be. Nothing is expected of no traffic, nor where keys stick.
    """
    if rate <= 0.0 or not steps or guard.sticky or guard.by != "events":
        return Forecast(None, None, 0.0, "how long it takes cannot be told before the start")
    # The threshold itself does not matter: a part of the answers is above it.
    guard = msgspec.structs.replace(guard, slow_ms=guard.slow_ms or 1.0)
    worse = max(errors, _RARE) * regression

    def decided(seconds: float, failing: float, verdict: str) -> bool:
        drawn = _drawn(steps, rate, seconds, (errors, failing))
        found = evidence.weigh(guard, drawn, drawn)
        return (any if verdict == "ABORT" else all)(finding.verdict == verdict for finding in found)

    promote = _first(lambda t: decided(t, errors, "PROMOTE"), horizon_s)
    abort = _first(lambda t: decided(t, worse, "ABORT"), horizon_s)
    harmed = 0.0
    if abort is not None:
        harmed = float(_drawn(steps, rate, abort, (errors, worse)).candidate.admitted.sum()) * (worse - errors)
    if abort is None or decided(0.9 * abort, worse, "PROMOTE"):
        bad = f"is promoted too, if it comes to that: {phrases.percent(guard.margin)} more are allowed"
    else:
        bad = f"is aborted after {phrases.lasting(abort)}, {harmed:,.0f} harmed requests later"
    words = (
        f"at {rate:g} requests a second with {phrases.percent(errors)} errors: a healthy version is promoted on "
        f"evidence after {phrases.lasting(promote)}; one with {phrases.percent(worse)} errors {bad}"
    )
    return Forecast(promote, abort, harmed, words)


def _drawn(
    steps: Sequence[tuple[float, float]], rate: float, seconds: float, errors: tuple[float, float]
) -> comparisons.Drawn:
    """What is expected to be counted until then; `errors` of the baseline and of the candidate."""
    spent: dict[float, float] = {}
    left = seconds
    for at, (share, least) in enumerate(steps):
        lasted = left if at == len(steps) - 1 else min(left, least)
        spent[share / 100.0] = spent.get(share / 100.0, 0.0) + lasted
        left -= lasted
    shares = np.array([share for share, lasted in spent.items() if lasted > 0.0])
    requests = rate * np.array([lasted for lasted in spent.values() if lasted > 0.0])
    none = np.zeros_like(shares)

    def arm(admitted: eprocess.Numbers, failing: float) -> comparisons.Arm:
        failed = admitted * failing
        ok = admitted - failed
        return comparisons.Arm(admitted, ok, none, none, none, failed, _SLOW * ok, none)

    arms = arm(requests * (1.0 - shares), errors[0]), arm(requests * shares, errors[1])
    return comparisons.Drawn(("old", "new"), shares, *arms)


def _first(reached: Callable[[float], bool], horizon: float) -> float | None:
    """The first time at which it is, to 2 percent."""
    if not reached(horizon):
        return None
    low, high = 0.0, 1.0
    while high < horizon and not reached(high):
        low, high = high, high * 2.0
    high = min(high, horizon)
    while high - low > 0.02 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
