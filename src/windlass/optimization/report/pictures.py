"""The pictures of a study in SVG: what candidates gain and lose, how sensitive layers are, where the time goes.

Drawn for `page.py`. Must never leave out a candidate that was measured: what lies beyond a plot stands at its edge.
"""

from __future__ import annotations

from typing import NamedTuple

from windlass.client import pages
from windlass.optimization import findings
from windlass.optimization.report import words

_CHOSEN, _PARETO, _OTHER, _LEFT_OUT = 2, 0, 5, 1
_MOST_BARS = 30
_MARGIN = 0.08


class _Point(NamedTuple):
    """A candidate that was timed and judged: its number in the table, its place, how it is drawn."""

    number: int
    one: findings.Candidate
    timing: findings.Timing
    drop: findings.Drop
    colour: int


def pareto(found: findings.Report) -> str:
    """Speed-up against the change of the metric, with intervals; bubbles are as large as the files. Empty for none."""
    points = [
        _Point(number, one, one.timings[0], judged.drop, _colour(one, found))
        for number, one in enumerate(words.ordered(found), 1)
        if one.timings and (judged := one.confirmed or one.judged) is not None
    ]
    if not points:
        return ""
    frame = _frame(found, points)
    drawn = [frame.drawn(), *_limits(found, frame)]
    # The chosen one last, so that nothing lies on it.
    drawn += [_bubble(point, found.baseline, frame) for point in sorted(points, key=lambda each: -each.number)]
    x, y = frame.at(1.0, 0.0)
    drawn.append(f'<path class="c3 fill" d="M{x - 6:.1f} {y:.1f}l6 -6l6 6l-6 6z"><title>the original</title></path>')
    names = {_CHOSEN: "chosen", _PARETO: "not dominated", _OTHER: "rejected"}
    seen = [colour for colour in names if any(point.colour == colour for point in points)]
    told = [f"{p.number}: {p.one.name}, {words.speed(p.timing)}, drop {words.drop(p.drop)}" for p in points]
    legend = _legend([*((colour, names[colour]) for colour in seen), (3, "the original")], frame)
    return pages.figure(
        "Speed against answers (up and to the right is better)",
        "; ".join(told),
        "".join(drawn) + legend,
        width=frame.width,
        height=frame.height,
    )


def sensitivity(layers: tuple[findings.Layer, ...]) -> str:
    """Decibels of each layer when it alone is quantized, the most sensitive first; what was left out is marked."""
    lines = [
        (
            f"{layer.node} ({layer.operator})",
            layer.sqnr_db,
            f"{layer.sqnr_db:.1f} dB{', left as it is' if layer.excluded else ''}",
            _LEFT_OUT if layer.excluded else _PARETO,
        )
        for layer in sorted(layers, key=lambda each: each.sqnr_db)[:_MOST_BARS]
    ]
    return pages.bars("Signal to noise when one layer alone is quantized (less is more sensitive)", lines)


def operators(profile: findings.Profile) -> str:
    """The share of one run's time that each kind of operator takes."""
    lines = [
        (f"{one.kind} ({one.calls})", one.share, f"{100 * one.share:.1f} %, {one.us:.4g} µs", _PARETO)
        for one in profile.operators[:_MOST_BARS]
    ]
    if profile.us > 0 and profile.outside_us > 0:
        share = profile.outside_us / profile.us
        lines.append(("outside operators", share, f"{100 * share:.1f} %, {profile.outside_us:.4g} µs", _OTHER))
    return pages.bars("Where the time of one run goes, before", lines)


def _colour(one: findings.Candidate, found: findings.Report) -> int:
    if one.digest == found.chosen:
        return _CHOSEN
    return _PARETO if one.digest in found.pareto else _OTHER


def _frame(found: findings.Report, points: list[_Point]) -> pages.Frame:
    """Axes that hold the original, the budget and what comes near it; a form that answers at random is at the edge."""
    most = words.most_drop(found)
    losses = sorted(point.drop.drop for point in points)
    best = min(losses[0], 0.0)
    worst = max(losses[-1], most or 0.0)
    if most:
        near = [loss for loss in losses if loss <= 6 * most]
        worst = max([1.6 * most, *near])
    wide = (worst - best) or 1e-3
    top, bottom = -best + _MARGIN * 2 * wide, -worst - _MARGIN * 2 * wide
    lows, highs = [p.timing.speedup for p in points], [p.timing.speedup for p in points]
    left, right = min([1.0, *lows]), max([1.0, *highs])
    room = max((right - left) * _MARGIN, 0.05)
    name = points[0].drop.name
    said = f"speed-up at {words.rows(points[0].timing.rows)}"
    return pages.Frame(
        pages.Axis(said, left - room, right + room), pages.Axis(f"change of {name}", bottom, top), 760, 420
    )


def _limits(found: findings.Report, frame: pages.Frame) -> list[str]:
    """The original's pace and figure as lines, and the budget's."""
    (x, _), (_, y) = frame.at(1.0, 0.0), frame.at(1.0, 0.0)
    left, bottom = frame.at(frame.x.low, frame.y.low)
    right, top = frame.at(frame.x.high, frame.y.high)
    drawn = [
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{top:.1f}" opacity=".5"/>',
        f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" opacity=".5"/>',
    ]
    most = words.most_drop(found)
    if most is not None:
        _, at = frame.at(1.0, -most)
        drawn.append(f'<line class="limit" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        drawn.append(f'<text x="{right:.1f}" y="{at - 4:.1f}" text-anchor="end">the budget: {most:.3g} lost</text>')
    return drawn


def _bubble(point: _Point, baseline: findings.Candidate, frame: pages.Frame) -> str:
    (x, y), timing, drop = frame.at(point.timing.speedup, -point.drop.drop), point.timing, point.drop
    (left, _), (right, _) = frame.at(timing.low, 0.0), frame.at(timing.high, 0.0)
    (_, top), (_, foot) = frame.at(1.0, -drop.low), frame.at(1.0, -drop.high)
    radius = 7.0
    if point.one.footprint and baseline.footprint and baseline.footprint.files:
        radius = min(max(14 * (point.one.footprint.files / baseline.footprint.files) ** 0.5, 5.0), 18.0)
    beyond = not (frame.y.low <= -drop.drop <= frame.y.high)
    said = f"{point.number}: {point.one.name}: {words.speed(timing)}, drop {words.drop(drop)}"
    return (
        f'<g class="c{point.colour}"><line class="stroke" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line class="stroke" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>'
        f'<circle class="{"stroke" if beyond else "fill"}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
        f'fill-opacity=".55"><title>{pages.escaped(said)}</title></circle>'
        f'<text x="{x + radius + 3:.1f}" y="{y - 4:.1f}">{point.number}{" (beyond)" if beyond else ""}</text></g>'
    )


def _legend(names: list[tuple[int, str]], frame: pages.Frame) -> str:
    left, _ = frame.at(frame.x.low, frame.y.low)
    drawn = []
    for at, (colour, name) in enumerate(names):
        x = left + 8 + 120 * at
        drawn.append(
            f'<circle class="c{colour} fill" cx="{x:.0f}" cy="8" r="5"/><text x="{x + 10:.0f}" y="12">{name}</text>'
        )
    return "".join(drawn)
