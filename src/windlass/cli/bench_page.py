"""The page that `windlass bench --html` writes: tables and plots in one file that asks nobody for anything.

Plots are SVG written here. Must never refer to another file, nor put a name into the page without escaping it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from windlass.cli import bench_results
from windlass.client import capacity

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 320, 70, 46, 16
_COLOURS = ("#1f6feb", "#d1570a", "#1a7f37", "#8250df")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem; border-bottom: 1px solid #d0d7de; }
td, th { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; margin: 1rem 1rem 1rem 0; } figcaption { font-weight: 600; }
svg { max-width: 100%; } .axis { stroke: #8c959f; } .grid { stroke: #eaeef2; } text { font-size: 12px; fill: #57606a; }
"""


class Spot(NamedTuple):
    """A point of a plot, with its spread."""

    x: float
    y: float
    low: float
    high: float


class Series(NamedTuple):
    """A line of a plot."""

    name: str
    spots: list[Spot]


def page(found: capacity.Measurement, price: float, machine: dict[str, Any]) -> str:
    """The whole page."""
    parts = ["<h1>windlass bench</h1>"]
    parts += [plot(*each) for each in plots(found) if any(series.spots for series in each[3])]
    for subject in found.subjects:
        parts.append(f"<h2>{html.escape(subject.name)}</h2>")
        parts.append(_table(bench_results.HEADER, bench_results.rows(found, subject.name)))
        told = "".join(f"<li>{html.escape(note)}</li>" for note in bench_results.notes(found, subject.name, price))
        parts.append(f"<ul>{told}</ul>")
    ratios = [(load, f"{r.value:.2f}", f"{r.low:.2f}-{r.high:.2f}") for load, r in found.ratios().items()]
    if ratios:
        parts.append("<h2>The first over the second</h2>" + _table(("load", "ratio", "interval"), ratios))
    parts.append("<h2>Machine and method</h2>" + _table(("", ""), _facts(found, machine)))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>windlass bench</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def plots(found: capacity.Measurement) -> list[tuple[str, str, str, list[Series], bool]]:
    """Title, axes, lines, and whether the latency's axis is logarithmic, for each plot."""
    latency, good = [], []
    for subject in found.subjects:
        sure = [point for point in found.points if point.subject == subject.name and not point.doubt]
        opened = sorted((point for point in sure if point.kind == "open"), key=lambda point: point.asked)
        for label, q in (("p50", 0.5), ("p99", 0.99)):
            spots = [
                Spot(point.asked, known.value * 1e3, known.low * 1e3, known.high * 1e3)
                for point in opened
                if (known := point.quantile(q)) is not None
            ]
            latency.append(Series(f"{subject.name} {label}", spots))
        goods = [(point.asked, point.goodput(found.method.slo_s)) for point in opened]
        good.append(Series(subject.name, [Spot(x, each.value, each.low, each.high) for x, each in goods]))
    closed = [
        Series(
            subject.name,
            [
                Spot(point.asked, rate.value, rate.low, rate.high)
                for point in found.of(subject.name, "closed")
                if not point.doubt and (rate := point.throughput)
            ],
        )
        for subject in found.subjects
    ]
    return [
        ("Latency against load (open loop)", "requests/s offered", "ms, from the intended start", latency, True),
        ("Goodput against load (open loop)", "requests/s offered", "good answers/s", good, False),
        ("Closed loop", "requests under way", "answers/s", closed, False),
    ]


def plot(title: str, x_label: str, y_label: str, lines: list[Series], logarithmic: bool) -> str:
    """One plot as a figure with its SVG."""
    spots = [spot for line in lines for spot in line.spots]
    widest = max(spot.x for spot in spots) * 1.05 or 1.0
    low = _decade_below(min(spot.low for spot in spots)) if logarithmic else 0.0
    high = max(spot.high for spot in spots) * 1.1 or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        share = math.log(max(y, low) / low) / math.log(high / low) if logarithmic else y / high
        return (
            _LEFT + x / widest * (_WIDTH - _LEFT - 10),
            _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP),
        )

    drawn = [_axes(at, widest, low, high, logarithmic)]
    for number, line in enumerate(lines):
        drawn.append(_line(line, _COLOURS[number % len(_COLOURS)], at, number))
    middle = (_LEFT + _WIDTH) / 2
    drawn.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    turned = f'transform="translate(14 {_HEIGHT / 2:.0f}) rotate(-90)"'
    drawn.append(f'<text {turned} text-anchor="middle">{html.escape(y_label)}</text>')
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(drawn)}</svg></figure>"
    )


def _axes(at: Any, widest: float, low: float, high: float, logarithmic: bool) -> str:
    drawn = []
    if logarithmic:
        first, last = round(math.log10(low)), math.ceil(math.log10(high))
        ticks = [10.0**n * m for n in range(first, last + 1) for m in (1, 2, 5) if low <= 10.0**n * m <= high]
    else:
        ticks = steps(high)
    for y in ticks:
        left, height = at(0, y)
        drawn.append(f'<line class="grid" x1="{left:.1f}" x2="{_WIDTH - 10}" y1="{height:.1f}" y2="{height:.1f}"/>')
        drawn.append(f'<text x="{left - 6:.1f}" y="{height + 4:.1f}" text-anchor="end">{y:,g}</text>')
    for x in steps(widest):
        across, bottom = at(x, low)
        drawn.append(f'<text x="{across:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{x:,g}</text>')
    left, bottom = at(0, low)
    drawn.append(f'<line class="axis" x1="{left}" x2="{_WIDTH - 10}" y1="{bottom}" y2="{bottom}"/>')
    return "".join(drawn)


def _line(line: Series, colour: str, at: Any, number: int) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*at(spot.x, spot.y)) for spot in line.spots)
    drawn = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for spot in line.spots:
        (x, y), (_, top), (_, foot) = at(spot.x, spot.y), at(spot.x, spot.high), at(spot.x, spot.low)
        drawn.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{foot:.1f}" stroke="{colour}"/>')
        told = f"<title>{spot.x:,g}: {spot.y:,.4g}</title>"
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{told}</circle>')
    height = _TOP + 14 * number
    drawn.append(f'<rect x="{_LEFT + 8}" y="{height - 8}" width="10" height="10" fill="{colour}"/>')
    drawn.append(f'<text x="{_LEFT + 24}" y="{height + 1}">{html.escape(line.name)}</text>')
    return "".join(drawn)


def steps(high: float) -> list[float]:
    """Round numbers from 0 up to `high`, four to eight of them."""
    rough = high / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    return [step * number for number in range(int(high / step) + 1)]


def _decade_below(value: float) -> float:
    return 10.0 ** math.floor(math.log10(max(value, 1e-4)))


def _table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _facts(found: capacity.Measurement, machine: dict[str, Any]) -> list[tuple[str, ...]]:
    method = found.method
    told = {
        **machine,
        "method": f"{method.rounds} rounds in turn, {method.seconds:g} s each, a fifth more to warm up (0.3 s or more)",
        "generators": f"{method.generators} on cores {list(method.cores) or 'any'}",
    }
    return [(name, str(value)) for name, value in told.items()]
