"""The report of a run: the bars and what was measured for each, then the tables.

Called by `bench.py` with the raw figures alone, so that any run's file can be read again. Must never measure.
"""

from __future__ import annotations

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


def samples(run: Run, server: str, model: str, connections: int, what: str) -> dict[int, float]:
    """Round -> the figure, where there is one."""
    return {
        s["round"]: s[what]
        for s in run["samples"]
        if (s["server"], s["model"], s["connections"]) == (server, model, connections) and s[what] is not None
    }


def ratio(over: dict[int, float], under: dict[int, float]) -> list[float]:
    """Per round, so that what slows a whole round cancels."""
    return [over[turn] / under[turn] for turn in sorted(over.keys() & under.keys()) if under[turn]]


def rate_over(peer: str) -> Callable[[Run], list[float]]:
    return lambda run: ratio(samples(run, "windlass", "mlp", 64, "rate"), samples(run, peer, "mlp", 64, "rate"))


def share_of_limit(model: str, connections: int) -> Callable[[Run], list[float]]:
    """Rows a second over those of onnxruntime alone at its best batch, in the same round."""

    def figures(run: Run) -> list[float]:
        best = {one["round"]: max(one["rates"].values()) for one in run["limits"] if one["model"] == model}
        return ratio(samples(run, "windlass", model, connections, "rate"), best)

    return figures


def of_start(what: str) -> Callable[[Run], list[float]]:
    return lambda run: [s[what] for s in run["starts"] if (s["server"], s["model"]) == ("windlass", "mlp")]


BARS = (
    Bar("S1", "requests a second, small MLP, JSON, c=64: over FastAPI", 10, "x", ">=", rate_over("fastapi")),
    Bar("S2", "the same over LitServe", 20, "x", ">=", rate_over("litserve")),
    Bar("S2", "the same over MLServer", 20, "x", ">=", rate_over("mlserver")),
    Bar("S2", "the same over BentoML", 20, "x", ">=", rate_over("bentoml")),
    Bar(
        "S4",
        "p50 at c=1, small MLP: over FastAPI's",
        0.6,
        "x",
        "<=",
        lambda run: ratio(samples(run, "windlass", "mlp", 1, "p50_us"), samples(run, "fastapi", "mlp", 1, "p50_us")),
    ),
    Bar("S6", "MiniLM, 128 tokens, JSON: share of the limit", 0.95, "", ">=", share_of_limit("minilm", 8)),
    Bar("S6", "ResNet-50 shape, binary: share of the limit", 0.95, "", ">=", share_of_limit("resnet", 4)),
    Bar("S10", "idle memory (PSS of all processes), small MLP", 180, " MB", "<=", of_start("pss_mb")),
    Bar("S11", "start to first answer, small MLP", 1.5, " s", "<=", of_start("start_s")),
)


def spread(figures: Iterable[float], form: Callable[[float], str]) -> str:
    """The median, and in brackets the least and the most of the rounds."""
    values = sorted(figures)
    if not values:
        return "-"
    return f"{form(statistics.median(values))} ({form(values[0])} to {form(values[-1])})"


def number(value: float) -> str:
    """Three figures that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bars(run: Run) -> tuple[list[str], bool]:
    """The table of bars, and whether all that were asked for are kept. What was not measured is not kept."""
    lines = ["| bar | what | target | measured: median (least to most) | verdict |", "|---|---|---|---|---|"]
    kept = True
    for bar in BARS:
        if bar.name not in run["bars"]:
            continue
        figures = bar.figures(run)
        middle = statistics.median(figures) if figures else None
        good = middle is not None and (middle >= bar.target if bar.sense == ">=" else middle <= bar.target)
        kept &= good
        verdict = "not measured" if middle is None else "kept" if good else "**missed**"
        target = f"{bar.sense} {bar.target:g}{bar.unit}"
        measured = spread(figures, lambda value, unit=bar.unit: number(value) + unit)
        lines.append(f"| {bar.name} | {bar.what} | {target} | {measured} | {verdict} |")
    return lines, kept


def throughput(run: Run, model: str, title: str) -> list[str]:
    """Requests a second and latencies of every server on a model."""
    keys = list(dict.fromkeys((s["server"], s["connections"]) for s in run["samples"] if s["model"] == model))
    if not keys:
        return []
    lines = [
        "",
        f"### {title}",
        "",
        "| server | connections | requests/s | p50, us | p99, us | CPU a request, us |",
        "|---|---|---|---|---|---|",
    ]
    for server, connections in sorted(keys, key=lambda key: (key[1], key[0] != "windlass")):
        rate, p50, p99, cpu = (
            spread(samples(run, server, model, connections, what).values(), number)
            for what in ("rate", "p50_us", "p99_us", "cpu_us")
        )
        lines.append(f"| {server} | {connections} | {rate} | {p50} | {p99} | {cpu} |")
    limits = [one for one in run["limits"] if one["model"] == model]
    if limits:
        tops = [max(one["rates"], key=one["rates"].__getitem__) for one in limits]
        for title, batches in (
            (f"best batch ({', '.join(dict.fromkeys(tops))})", tops),
            ("batch 1", ["1"] * len(limits)),
        ):
            rate, cpu = (
                spread((one[what][batch] for one, batch in zip(limits, batches, strict=True)), number)
                for what in ("rates", "cpu_us")
            )
            p50 = spread((one["p50_us"] for one in limits), number) if title == "batch 1" else ""
            lines.append(f"| *onnxruntime alone, {title}* | | {rate} | {p50} | | {cpu} |")
    return lines


MACHINE = (
    "* **Machine**: {cpu}, {cores} cores, {memory_gb} GB, Linux {kernel}, Python {python}; "
    "load average before {load_before:.2f}."
)
METHOD = (
    "* **Method**: each server has one core (all of its processes), wrk the other: one thread, closed loop, HTTP/1.1, "
    "keep-alive. {rounds} interleaved rounds, every server started afresh in each, warmed up for a fifth of the time; "
    "median, least and most of the rounds; ratios are taken within a round. No p99 from fewer than 1,000 answers. "
    "Every server first has to answer as onnxruntime does. All get the same JSON (Open Inference Protocol), "
    "peers are written as their documentation shows (`peers/`). Windlass runs with an API key, metrics and limits on."
)


def write(run: Run, titles: dict[str, str]) -> tuple[str, bool]:
    """The report as Markdown, and whether every bar that was asked for is kept."""
    table, kept = bars(run)
    errors = sum(s["errors"] for s in run["samples"])
    starts: dict[str, list[Run]] = {}
    for start in run["starts"]:
        if start["model"] == "mlp":
            starts.setdefault(start["server"], []).append(start)
    lines = [
        "# Results",
        "",
        f"Written by `benchmarks/run --rounds {run['rounds']} --seconds {run['seconds']:g}` on {run['date']}; the raw",
        "figures are in `results/`. Ratios are within one run on one machine: absolute figures say little elsewhere.",
        "",
        MACHINE.format(**run["machine"]),
        METHOD.format(rounds=run["rounds"]),
        f"* **Failed requests**: {errors} of {sum(s['requests'] for s in run['samples']):,}.",
        *(f"* **{name}**: {text}." for name, text in run["versions"].items()),
        *(f"* **Missing: {name}**, which cannot be installed here: {why}" for name, why in run["missing"].items()),
        "",
        "## Bars",
        "",
        *table,
        "",
        "## Throughput and latency",
        *(line for model, title in titles.items() for line in throughput(run, model, title)),
        "",
        "## Start and idle memory, small MLP",
        "",
        "| server | start to first answer, s | idle memory (PSS), MB |",
        "|---|---|---|",
        *(
            "| "
            + " | ".join([name, *(spread((s[what] for s in those), number) for what in ("start_s", "pss_mb"))])
            + " |"
            for name, those in starts.items()
        ),
        "",
    ]
    return "\n".join(lines), kept and errors == 0
