"""The page that `windlass bench --html` writes: tables and plots in one file that asks nobody for anything.

Must never put a name into the page without escaping it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from windlass.cli import bench_results
from windlass.client import capacity, pages

_STYLE = "figure { display: inline-block; margin-right: 1rem; }"


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
        parts.append(f"<h2>{pages.escaped(subject.name)}</h2>")
        parts.append(pages.table(bench_results.HEADER, bench_results.rows(found, subject.name)))
        told = "".join(f"<li>{pages.escaped(note)}</li>" for note in bench_results.notes(found, subject.name, price))
        parts.append(f"<ul>{told}</ul>")
    ratios = [(load, f"{r.value:.2f}", f"{r.low:.2f}-{r.high:.2f}") for load, r in found.ratios().items()]
    if ratios:
        parts.append("<h2>The first over the second</h2>" + pages.table(("load", "ratio", "interval"), ratios))
    parts.append("<h2>Machine and method</h2>" + pages.table(("", ""), _facts(found, machine), text=(1,)))
    return pages.document("windlass bench", "\n".join(parts), _STYLE)


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
    frame = pages.Frame(pages.Axis(x_label, 0.0, widest), pages.Axis(y_label, low, high, logarithmic))
    drawn = [frame.drawn(), *(_line(line, number, frame) for number, line in enumerate(lines))]
    told = "; ".join(
        f"{line.name}: " + ", ".join(f"{spot.y:,.4g} at {spot.x:,g}" for spot in line.spots) for line in lines
    )
    return pages.figure(title, told, "".join(drawn) + pages.legend([line.name for line in lines]))


def _line(line: Series, number: int, frame: pages.Frame) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*frame.at(spot.x, spot.y)) for spot in line.spots)
    drawn = [f'<polyline class="stroke" points="{path}" stroke-width="2"/>']
    for spot in line.spots:
        (x, y), (_, top), (_, foot) = (frame.at(spot.x, each) for each in (spot.y, spot.high, spot.low))
        drawn.append(f'<line class="stroke" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>')
        told = f"<title>{spot.x:,g}: {spot.y:,.4g}</title>"
        drawn.append(f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="3">{told}</circle>')
    return f'<g class="c{number % pages.COLOURS}">{"".join(drawn)}</g>'


def _decade_below(value: float) -> float:
    return 10.0 ** math.floor(math.log10(max(value, 1e-4)))


def _facts(found: capacity.Measurement, machine: dict[str, Any]) -> list[tuple[str, ...]]:
    method = found.method
    told = {
        **machine,
        "method": f"{method.rounds} rounds in turn, {method.seconds:g} s each, a fifth more to warm up (0.3 s or more)",
        "generators": f"{method.generators} on cores {list(method.cores) or 'any'}",
    }
    return [(name, str(value)) for name, value in told.items()]
