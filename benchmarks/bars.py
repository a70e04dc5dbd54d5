"""What a bar is, and how the figures of several rounds are told.

Used by `report.py` and by each scenario's own part of the report. Must never measure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Run = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A bar: what is compared, the target, and the figure of each round (empty: not measured)."""

    name: str
    what: str
    target: float
    unit: str
    sense: Literal[">=", "<="]
    figures: Callable[[Run], list[float]]

    def keeps(self, value: float) -> bool:
        """Whether a figure is as good as the target."""
        return value >= self.target if self.sense == ">=" else value <= self.target


def rounds(run: Run, name: str) -> list[Run]:
    """What a scenario found, round by round."""
    found: list[Run] = run.get("scenarios", {}).get(name, [])
    return found


def ratio(over: dict[int, float], under: dict[int, float]) -> list[float]:
    """Per round, so that what slows a whole round cancels."""
    return [over[turn] / under[turn] for turn in sorted(over.keys() & under.keys()) if under[turn]]


def spread(figures: Iterable[float | None], form: Callable[[float], str]) -> str:
    """The median, and in brackets the least and the most of the rounds."""
    values = sorted(value for value in figures if value is not None and not math.isnan(value))
    if not values:
        return "-"
    if len(values) == 1:
        return form(values[0])
    return f"{form(statistics.median(values))} ({form(values[0])} to {form(values[-1])})"


def number(value: float) -> str:
    """Three figures that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]
