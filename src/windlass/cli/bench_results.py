"""What `windlass bench` says: the same figures as a document for programs, and as a table for people.

Used by `bench` and `bench_page`. Must never print a figure that the measurement refuses to give.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import rich.console
import rich.table

from windlass.cli import output
from windlass.client import capacity, figures

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
HEADER = ("load", "answers/s", "spread", "p50 ms", "p99 ms", "spread ms", "p99.9 ms", "goodput/s", "lost")


def document(found: capacity.Measurement, price: float, machine: dict[str, Any]) -> dict[str, Any]:
    """All of it as plain data. Times in milliseconds; a figure that is refused is null, with the reason beside it."""
    return {
        "machine": machine,
        "method": {
            "rounds": found.method.rounds,
            "seconds": found.method.seconds,
            "warm_up_s": max(capacity.LEAST_WARM_S, capacity.WARM_SHARE * found.method.seconds),
            "generators": found.method.generators,
            "cores": found.method.cores,
        },
        "interrupted": found.interrupted,
        "subjects": [_subject(found, subject.name, price) for subject in found.subjects],
        "ratios": {load: _figure(ratio) for load, ratio in found.ratios().items()},
    }


def _subject(found: capacity.Measurement, name: str, price: float) -> dict[str, Any]:
    held, rate = found.held.get(name), sustained(found, name)
    return {
        "name": name,
        "capacity": _figure(found.capacity(name)),
        "held": None if held is None else {"slo_p99_ms": held.slo_s * 1e3, "rate": held.rate},
        "cost_per_million": capacity.cost_per_million(rate, price) if rate and price else None,
        "points": [_point(point, found.method.slo_s) for point in found.points if point.subject == name],
    }


def sustained(found: capacity.Measurement, name: str) -> float:
    """The answers a second to reckon with: those within the SLO where there is one, else the capacity; 0 unknown."""
    if found.method.slo_s:
        return found.held[name].rate if name in found.held else 0.0
    known = found.capacity(name)
    return known.value if known is not None else 0.0


def _point(point: capacity.Point, slo_s: float) -> dict[str, Any]:
    sure = not point.doubt
    told: dict[str, Any] = {
        "load": point.kind,
        "asked": point.asked,
        "doubt": point.doubt,
        "rate": _figure(point.throughput if sure else None),
        "goodput": _figure(point.goodput(slo_s) if sure else None),
        "outcomes": point.outcomes,
        "generator_busy": round(max(each.busy for each in point.reports), 3),
    }
    for label, q in QUANTILES.items():
        told[f"{label}_ms"] = _figure(point.quantile(q) if sure else None, 1e3)
    return told


def _figure(figure: figures.Figure | None, by: float = 1.0) -> dict[str, float] | None:
    if figure is None:
        return None
    return {"value": figure.value * by, "low": figure.low * by, "high": figure.high * by}


def rows(found: capacity.Measurement, name: str) -> list[tuple[str, ...]]:
    """A line for each load on a server; refused figures are a dash."""
    known = found.capacity(name)
    lines = []
    for point in found.points:
        if point.subject == name:
            load = f"c={point.asked:g}"
            if point.kind == "open":
                share = f" ({point.asked / known.value:.0%})" if known is not None else ""
                load = f"{point.asked:,.0f}/s{share}"
            lines.append((load, *_cells(point, found.method.slo_s)))
    return lines


def _cells(point: capacity.Point, slo_s: float) -> tuple[str, ...]:
    lost = f"{point.lost_share:.2%}"
    if point.doubt:
        return ("-",) * 7 + (lost,)
    rate, good = point.throughput, point.goodput(slo_s)
    p50, p99, p999 = (point.quantile(q) for q in QUANTILES.values())
    spread = "-" if p99 is None or p99.low == p99.high else f"{_ms(p99.low)}-{_ms(p99.high)}"
    told = (_ms(each.value) if each is not None else "-" for each in (p50, p99, p999))
    first, second, third = told
    return (
        f"{rate.value:,.0f}",
        f"{rate.low:,.0f}-{rate.high:,.0f}",
        first,
        second,
        spread,
        third,
        f"{good.value:,.0f}",
        lost,
    )


def _ms(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = seconds * 1e3
    return (
        f"{value:.3f}"
        if value < 1
        else f"{value:.2f}"
        if value < 10
        else f"{value:.1f}"
        if value < 100
        else f"{value:.0f}"
    )


def notes(found: capacity.Measurement, name: str, price: float) -> list[str]:
    """What the table cannot say: capacity, SLO, cost, and why figures are missing."""
    said = []
    known, held, rate = found.capacity(name), found.held.get(name), sustained(found, name)
    if known is not None:
        said.append(f"capacity: {known.value:,.0f} answers/s ({known.low:,.0f}-{known.high:,.0f})")
    elif found.of(name, "closed"):
        said.append("capacity: not known; the largest closed loop was limited by the generator, or lost requests")
    if held is not None:
        limit = f"p99 <= {held.slo_s * 1e3:g} ms"
        said.append(f"{limit}: up to {held.rate:,.0f} requests/s" if held.rate else f"{limit}: at no rate tried")
    if price and rate:
        said.append(
            f"a million answers cost {capacity.cost_per_million(rate, price):.4g} at {price:g} an hour for the machine"
        )
    for point in found.points:
        if point.subject == name:
            load = f"c={point.asked:g}" if point.kind == "closed" else f"{point.asked:,.0f}/s"
            if point.doubt:
                said.append(
                    f"{load}: no figures: {point.doubt}. Give the generator more: --generators 2, or its own machine"
                )
            elif (more := point.more_s(0.99)) > 0:
                needs = (
                    "no answers" if math.isinf(more) else f"fewer than 1,000 samples: {math.ceil(more)} s more needed"
                )
                said.append(f"{load}: no p99: {needs}")
    if not any(point.quantile(0.999) for point in found.points if point.subject == name):
        most = max((point for point in found.points if point.subject == name), key=lambda p: p.latency.count)
        more = most.more_s(0.999)
        if more and not math.isinf(more):
            said.append(f"no p99.9: fewer than 10,000 samples a load; {math.ceil(more)} s more needed at the quickest")
    return said


def text(found: capacity.Measurement, price: float) -> str:
    """Tables and notes; drawn with lines on a terminal."""
    parts = []
    for subject in found.subjects:
        lines = rows(found, subject.name)
        if lines:
            parts += [subject.name, _table(lines), *notes(found, subject.name, price), ""]
    ratios = found.ratios()
    if ratios:
        first, second = (subject.name for subject in found.subjects)
        lines = [(load, f"{r.value:.2f}", f"{r.low:.2f}-{r.high:.2f}") for load, r in ratios.items()]
        parts += [f"answers/s of {first} over {second}", output.table(("load", "ratio", "interval"), lines), ""]
    if found.interrupted:
        parts.append("Interrupted: these are the figures so far.")
    return "\n".join(parts).rstrip()


def _table(lines: list[tuple[str, ...]]) -> str:
    if not sys.stdout.isatty():
        return output.table(HEADER, lines)
    drawn = rich.table.Table()
    for name in HEADER:
        drawn.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for line in lines:
        drawn.add_row(*line)
    console = rich.console.Console(width=140)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip()
