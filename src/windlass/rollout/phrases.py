"""Numbers as words: how rare, how large, how far from a verdict.

Called by the files beside it and by the command line. Must never round a number so that it says more than was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(part: float) -> str:
    """A part of 1."""
    return f"{100.0 * part:.3g} %"


def rarely(log_e: float) -> str:
    """How often at most chance does what an e-value of e to the power of `log_e` shows."""
    return f"at most once in {math.floor(math.exp(min(max(log_e, 0.0), math.log(1e9)))):,} times"


def up(value: float, digits: int = 2) -> str:
    """An upper end, rounded up."""
    if value <= 0.0:
        return "0"
    places = digits - 1 - math.floor(math.log10(value))
    # What the floats themselves are off by is no part of the value.
    whole = math.ceil(value * 10.0**places * (1.0 - 1e-12))
    return f"{whole / 10**places:g}" if places > 0 else f"{whole * 10**-places:,}"


def harmless(upper: float, difference: float, *, relative: bool) -> str:
    """Why there is no harm: by the relative risk or by the absolute difference."""
    if relative:
        return f"the risk is at most {up(upper, 3)} times the baseline's: no harm"
    return f"its rate is at most {up(100.0 * difference)} points above the baseline's: no harm"


def undecided(risk: tuple[float, float] | None, difference: float | None, margin: float) -> str:
    """What is not known yet: the relative risk between two ends, the upper end of the difference; None: nothing is."""
    known = []
    if risk:
        known.append(f"the risk lies between {risk[0]:.2g} and {up(risk[1])} times the baseline's")
    if difference is not None:
        allowed = f"{100.0 * margin:.2g} are allowed"
        known.append(f"its rate is at most {up(100.0 * difference)} points above the baseline's ({allowed})")
    return ", ".join([*known, "not decided yet"])


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def lasting(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "not in the time looked at"
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2.0 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {seconds:.0f} seconds"
