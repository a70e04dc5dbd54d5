"""The report of a run: the bars and what was measured for each, then the tables.

Called by `bench.py` with the raw figures alone, so that any run's file can be read again. Must never measure.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import mixed
import overload
import scaling
import swaps
from bars import Bar, Run, number, ratio, spread

SCENARIOS = {"S7": mixed, "S8": overload, "S9": scaling, "S12": swaps}


def samples(run: Run, server: str, model: str, connections: int, what: str) -> dict[int, float]:
    """Round -> the figure, where there is one."""
    return {
        s["round"]: s[what]
        for s in run["samples"]
        if (s["server"], s["model"], s["connections"]) == (server, model, connections) and s[what] is not None
    }


_GRPC = "mlp, gRPC"


def rate_over(peer: str) -> Callable[[Run], list[float]]:
    return lambda run: ratio(samples(run, "windlass", "mlp", 64, "rate"), samples(run, peer, "mlp", 64, "rate"))


def over_grpcio(run: Run) -> list[float]:
    """Over whichever of grpcio's servers was the faster in that round."""
    threads, asyncio = (samples(run, f"grpcio-{kind}", _GRPC, 64, "rate") for kind in ("threads", "asyncio"))
    faster = {turn: max(threads[turn], asyncio[turn]) for turn in threads.keys() & asyncio.keys()}
    return ratio(samples(run, "windlass", _GRPC, 64, "rate"), faster)


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
    Bar("S5", "gRPC calls a second, small MLP, raw tensors, 64 in flight: over grpcio's", 8, "x", ">=", over_grpcio),
    Bar("S6", "MiniLM, 128 tokens, JSON: share of the limit", 0.95, "", ">=", share_of_limit("minilm", 8)),
    Bar("S6", "ResNet-50 shape, binary: share of the limit", 0.95, "", ">=", share_of_limit("resnet", 4)),
    *mixed.BARS,
    *overload.BARS,
    *scaling.BARS,
    Bar("S10", "idle memory (PSS of all processes), small MLP", 180, " MB", "<=", of_start("pss_mb")),
    Bar("S11", "start to first answer, small MLP", 1.5, " s", "<=", of_start("start_s")),
    *swaps.BARS,
)


def bars(run: Run) -> tuple[list[str], bool]:
    """The table of bars, and whether all that were asked for are kept. What was not measured is not kept."""
    lines = ["| bar | what | target | measured: median (least to most) | verdict |", "|---|---|---|---|---|"]
    kept = True
    for bar in BARS:
        if bar.name not in run["bars"]:
            continue
        figures = bar.figures(run)
        middle = statistics.median(figures) if figures else None
        good = middle is not None and bar.keeps(middle)
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
    "* **Method**: each server has one core (all of its processes), the load comes from the other. {rounds} "
    "interleaved rounds, every server started afresh in each; median, least and most of the rounds; ratios are taken "
    "within a round. No p99 from fewer than 1,000 answers. Every server has to answer as onnxruntime does, before the "
    "load and after it. Peers are written as their documentation shows (`peers/`). Windlass runs with an API key, "
    "metrics and limits on."
)
METHODS = {
    "S1": "wrk, one thread, closed loop, HTTP/1.1, keep-alive, after a warm-up of a fifth of the time; all get the "
    "same JSON (Open Inference Protocol).",
    "S2": "as S1. Ray Serve, nvidia-pytriton and TorchServe are not measured.",
    "S3": "over Triton with a native backend: measured outside of this project, not here.",
    "S4": "as S1, with one connection.",
    "S5": "h2load, one thread, one connection, 64 calls always under way (and 1), all with raw contents and the same "
    "bytes; the faster of grpcio's thread-pool and asyncio servers, round by round. h2load knows no grpc-status: a "
    "client checks the answer before and after, and all answers' bytes must be as many as right ones have.",
    "S6": "rows a second over those of onnxruntime alone, in a loop on the same core, at the best batch size.",
    "S10": "proportional memory (PSS) of the supervisor and all its processes, a second after the first answer.",
    "S11": "from the command line to the first right answer, asked for each 10 ms; the model's probation is known.",
}
for each in SCENARIOS.values():
    name, _, text = each.METHOD.partition(": ")
    METHODS[name.strip("*")] = text


def counted(found: Any) -> Iterator[Run]:
    """The accounts of requests that lie in what the scenarios found."""
    if isinstance(found, dict) and "failed" in found:
        yield found
    elif isinstance(found, dict | list):
        for each in found.values() if isinstance(found, dict) else found:
            yield from counted(each)


def doubts(run: Run) -> list[str]:
    """Where the generator says itself that it was what was measured."""
    lines = []
    for name, rounds in run["scenarios"].items():
        told = [one["doubt"] for one in counted(rounds) if one["doubt"]]
        if told:
            lines.append(f"* **Doubt, {name}**, in {len(told)} loads of {len(list(counted(rounds)))}: {told[0]}.")
    return lines


def write(run: Run, titles: dict[str, str]) -> tuple[str, bool]:
    """The report as Markdown, and whether every bar that was asked for is kept."""
    table, kept = bars(run)
    accounts = list(counted(run["scenarios"]))
    errors = sum(s["errors"] for s in run["samples"]) + sum(one["failed"] for one in accounts)
    asked = sum(s["requests"] for s in run["samples"]) + sum(one["sent"] for one in accounts)
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
        f"* **Failed requests**: {errors} of {asked:,}; refusals (429, 503) under overload are not failures.",
        *(f"* **{name}**: {text}." for name, text in run["versions"].items()),
        *(f"* **Missing: {name}**, which cannot be installed here: {why}" for name, why in run["missing"].items()),
        "",
        "## Bars",
        "",
        *table,
        "",
        "How each was measured:",
        "",
        *(
            f"* **{name}**: {METHODS[name]}"
            for name in sorted(METHODS, key=lambda name: int(name[1:]))
            if name == "S3" or name in run["bars"]
        ),
        *doubts(run),
        "",
        "## Throughput and latency",
        *(line for model, title in titles.items() for line in throughput(run, model, title)),
        *(line for name, each in SCENARIOS.items() if run["scenarios"].get(name) for line in each.section(run)),
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
