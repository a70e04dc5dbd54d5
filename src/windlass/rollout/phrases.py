"""Numbers as words: how rare, how large, how far from a verdict.

Called by comparisons.py and forecast.py. Must never round a number so that it says more than was found.
"""

from __future__ import annotations

import math


def percent(part: float) -> str:
    """A part of 1."""
    return f"{100.0 * part:.3g} %"


def rarely(log_e: float) -> str:
    """How often at most chance does what an e-value of e to the power of `log_e` shows."""
    return f"at most once in {math.floor(math.exp(min(max(log_e, 0.0), math.log(1e9)))):,} times"


def harmless(upper: float, difference: float, *, relative: bool) -> str:
    """Why there is no harm: by the relative risk or by the absolute difference."""
    if relative:
        return f"the risk is at most {upper:.3g} times the baseline's: no harm"
    return f"its rate is at most {100.0 * difference:.2g} points above the baseline's: no harm"


def undecided(risk: tuple[float, float] | None, difference: float | None, margin: float) -> str:
    """What is not known yet: the relative risk between two ends, the upper end of the difference; None: nothing is."""
    known = []
    if risk:
        known.append(f"the risk lies between {risk[0]:.2g} and {risk[1]:.2g} times the baseline's")
    if difference is not None:
        allowed = f"{100.0 * margin:.2g} are allowed"
        known.append(f"its rate is at most {100.0 * difference:.2g} points above the baseline's ({allowed})")
    return ", ".join([*known, "not decided yet"])


def lasting(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "not in the time looked at"
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2.0 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {seconds:.0f} seconds"
