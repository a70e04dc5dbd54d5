"""Draws the pictures of docs/explanation/evidence.md from the statistics themselves.

Run by hand: `python benchmarks/rollouts_pictures.py docs/images`. Must never draw a number that was not computed here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from windlass.rollout import evidence, forecast, ramp
from windlass.statistics import eprocess

COLOURS = ("#a4502f", "#8a7a3a", "#2f6b4a", "#3d5a73")
LEFT, RIGHT, TOP, BOTTOM = 90.0, 760.0, 40.0, 310.0


class Line(NamedTuple):
    """One curve and its name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Axis(NamedTuple):
    """What is between two ends, evenly or by the logarithm, and which values are written beside it."""

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def part(self, value: float) -> float:
        """How far along, of 1, never beyond the ends."""
        ends = [math.log(v) if self.logarithmic else v for v in (self.low, self.high, max(value, 1e-9 + self.low))]
        return min(1.0, max(0.0, (ends[2] - ends[0]) / (ends[1] - ends[0])))


def picture(title: str, below: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """An SVG in the style of the others."""
    parts = [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 380" '
            'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="15" fill="#1b2733">'
        ),
        '  <rect width="960" height="380" fill="#ffffff"/>',
        text(LEFT, 26, title),
        text((LEFT + RIGHT) / 2, 352, below, "middle"),
    ]
    for value, name in y.marks:
        at = BOTTOM - y.part(value) * (BOTTOM - TOP)
        parts += [f'  <path d="M{LEFT:.0f} {at:.0f} H{RIGHT:.0f}" stroke="#dde5eb"/>', text(82, at + 4, name, "end")]
    parts += [text(LEFT + x.part(value) * (RIGHT - LEFT), 330, name, "middle") for value, name in x.marks]
    parts.append(f'  <path d="M{LEFT:.0f} 40 V310 H{RIGHT:.0f}" stroke="#3d5a73" stroke-width="1.5" fill="none"/>')
    for line, colour in zip(lines, COLOURS, strict=False):
        points = [
            f"{LEFT + x.part(a) * (RIGHT - LEFT):.0f} {BOTTOM - y.part(b) * (BOTTOM - TOP):.0f}"
            for a, b in zip(line.x, line.y, strict=True)
        ]
        last = float(points[-1].split()[1])
        parts.append(f'  <path d="M{" L".join(points)}" stroke="{colour}" stroke-width="2.5" fill="none"/>')
        end = float(points[-1].split()[0]) + 8
        parts.append(text(end, last + 4, line.name, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#1b2733") -> str:
    """A label."""
    return f'  <text x="{x:.0f}" y="{y:.0f}" font-size="12" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def paths() -> str:
    """The evidence after each bad event, for releases that are 1, 2 and 5 times as bad, at a share of 10 %."""
    rng, lines = np.random.default_rng(4), []
    for risk, name in ((5.0, "5 times as bad"), (2.0, "twice as bad"), (1.0, "as good")):
        own = 0.1 * risk / (0.1 * risk + 0.9)
        runs = []
        for _ in range(99):
            mine = np.cumsum(rng.random(300) < own)
            logs = [float(eprocess.log_harm(eprocess.split(0.1, m, n - m))) for n, m in enumerate(mine, 1)]
            stop = next((n for n, one in enumerate(logs, 1) if one >= math.log(100)), 300)
            runs.append((stop, logs[-1], logs[:stop]))
        stop, _, logs = sorted(runs)[49]
        lines.append(Line(name, range(stop + 1), [0.0, *(one / math.log(10) for one in logs)]))
    marks = ((2.0, "abort: 100"), (1.0, "10"), (0.0, "1"), (-1.0, "1/10"), (-2.0, "1/100"))
    return picture(
        "evidence of harm after each bad event; the new version gets 10 % of requests; of 99 runs the middle one",
        "bad events of both versions so far",
        Axis(0, 300, tuple((n, str(n)) for n in range(0, 301, 50))),
        Axis(-2.2, 2.4, marks),
        lines,
    )


def needed() -> str:
    """Bad answers of the new version until abort, by how bad it is, at three shares."""
    risks = np.geomspace(1.7, 20.0, 24)
    lines = [
        Line(f"share {share:g} %", [float(r) for r in risks], [ramp.expected(share, float(r)) for r in risks])
        for share in (50.0, 10.0, 1.0)
    ]
    lines = [Line(n, [a for a, b in zip(x, y, strict=True) if b < 1e3], [b for b in y if b < 1e3]) for n, x, y in lines]
    return picture(
        "bad answers of the new version until it is aborted, expected; computed exactly, alpha 0.01 over three metrics",
        "how many times as often it answers badly",
        Axis(1.7, 20, tuple((r, f"{r}x") for r in (2, 3, 5, 10, 20)), logarithmic=True),
        Axis(3, 200, tuple((n, str(n)) for n in (3, 5, 10, 20, 50, 100, 200)), logarithmic=True),
        lines,
    )


def promotion() -> str:
    """Requests until a healthy version is promoted, by the rate of errors, at three shares."""
    rates = [float(r) for r in np.geomspace(0.0002, 0.05, 22)]
    guard, lines = evidence.Guard(slow_ms=50.0), []
    for share in (10.0, 25.0, 50.0):
        found = [
            forecast.expect(guard, [(share, 1.0)], rate=100.0, errors=r, horizon_s=1e5).promote_s or 1e5 for r in rates
        ]
        lines.append(Line(f"share {share:g} %", rates, [100.0 * seconds for seconds in found]))
    return picture(
        "requests to both versions until a healthy one is promoted, expected; errors, refusals and slow answers proven",
        "part of requests that fail on both versions",
        Axis(0.0002, 0.05, ((0.0005, "0.05 %"), (0.002, "0.2 %"), (0.01, "1 %"), (0.05, "5 %")), logarithmic=True),
        Axis(3e3, 3e5, ((5e3, "5,000"), (2e4, "20,000"), (1e5, "100,000"), (3e5, "300,000")), logarithmic=True),
        lines,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for file, draw in (("evidence", paths), ("evidence-harm", needed), ("evidence-promotion", promotion)):
        (folder / f"{file}.svg").write_text(draw(), encoding="utf-8")
