"""A study's figures as people read them: on the page, and in the terminal.

Used by `page`, `pictures` and the command line. Must never show more digits than were measured.
"""

from __future__ import annotations

from typing import Any

from windlass.optimization import findings

# Beyond this a bound says that there is none.
_UNBOUNDED = 1e300
_VERDICTS = ("chosen", "kept", "rejected", "failed")


def speed(timing: findings.Timing) -> str:
    """`3.41x (3.32 to 3.50)`: how many times as fast as the original, and the interval."""
    return f"{timing.speedup:.2f}x ({timing.low:.2f} to {timing.high:.2f})"


def milliseconds(value: float) -> str:
    """Three digits, and the unit that suits them."""
    return f"{value:.3g} ms" if value >= 0.1 else f"{value * 1e3:.3g} µs"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def change(one: findings.Candidate, baseline: findings.Candidate) -> str:
    """`-74.9 %`: the bytes of the files against the original's; empty where one is not known."""
    if one.footprint is None or baseline.footprint is None or not baseline.footprint.files:
        return ""
    return f"{100 * (one.footprint.files / baseline.footprint.files - 1):+.1f} %"


def smaller(one: findings.Candidate, baseline: findings.Candidate) -> str:
    """`25.6 MB (-74.9 %)`: the bytes of the files, and against the original's."""
    if one.footprint is None:
        return ""
    against = "" if one.digest == baseline.digest else change(one, baseline)
    return f"{size(one.footprint.files)} ({against})" if against else size(one.footprint.files)


def memory(one: findings.Candidate) -> str:
    """What loading and running it adds; empty where that was not measured."""
    return size(one.footprint.peak) if one.footprint is not None and one.footprint.peak else ""


def drop(found: findings.Drop) -> str:
    """`0.0021 (-0.0004 to 0.0046)`: the drop, and its two one-sided bounds."""
    return f"{_signed(found.drop)} ({bounds(found)})"


def bounds(found: findings.Drop) -> str:
    """The two one-sided bounds of a drop."""
    return f"{_signed(found.low)} to {_signed(found.high)}"


def likeness(found: findings.Likeness) -> str:
    """Agreement where the answers are classes, signal to noise, and cosine."""
    agreed = "" if found.agreement is None else f"{100 * found.agreement:.4g} % of answers the same, "
    return f"{agreed}{found.sqnr_db:.3g} dB, cosine {found.cosine:.5g}"


def ordered(found: findings.Report) -> tuple[findings.Candidate, ...]:
    """The chosen one, then the Pareto set, then what was rejected, then what failed; each in its order."""
    return tuple(sorted(found.candidates, key=lambda one: _VERDICTS.index(one.verdict)))


def chosen(found: findings.Report) -> findings.Candidate | None:
    """The candidate that was chosen."""
    return next((one for one in found.candidates if one.digest == found.chosen), None)


def most_drop(found: findings.Report) -> float | None:
    """The drop that the budget takes, in the metric's unit; None where it takes any."""
    asked = found.asked.get("max_drop")
    return float(asked) if isinstance(asked, int | float) and not isinstance(asked, bool) else None


def facts(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was noted, nested ones flat; what is empty is left out."""
    told: list[tuple[str, str]] = []
    for name, value in given.items():
        shown = name.replace("_", " ")
        if isinstance(value, dict):
            told += [(f"{shown}: {inner}", text) for inner, text in facts(value)]
        elif value not in (None, "", [], ()):
            told.append((shown, _value(value)))
    return told


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rows(count: int) -> str:
    """So many rows."""
    return counted(count, "row")


def counted(count: int, what: str) -> str:
    """So many of something."""
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"


def _signed(value: float) -> str:
    return "unbounded" if abs(value) > _UNBOUNDED else f"{value:.3g}"
