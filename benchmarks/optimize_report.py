"""The section of RESULTS.md about optimization: the bars, the models, what people do today beside.

Called by `optimize.py` with what it measured. Must never measure, nor leave out a model that was missed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
Found = Mapping[str, Mapping[str, Any]]
HEAD = ("model", "chosen", "1 row", "8 rows", "smaller", "answers", "peak memory", "study")
PEER_HEAD = ("model", "windlass", "quantize_static", "quantize_dynamic", "torch.compile", "torchao + compile")
PEERS = ("onnxruntime quantize_static", "onnxruntime quantize_dynamic", "torch.compile", "torchao int8 + torch.compile")
TEXT = """## Optimization: a dozen shapes, and what people do today

Measured by `benchmarks/optimize.py` on {machine}, {cores} cores; onnxruntime {onnxruntime}, one thread.
`python benchmarks/optimize.py` measures what is not kept from an earlier run and writes this anew. It is no part of
`make bench`.

* **Speed**: the median time of a run of the original over that of the form, in one process in turn (A B, B A), at least
  30 rounds; in brackets its bootstrap 95 % interval. More than 1 is faster.
* **Weights** are random where the model is called a shape: its classes say nothing, so the limit is on its answers: a
  cosine of 0.98 with the original's (0.985 for the real sentence encoder). What is trained may lose 1 % of its
  accuracy. All is confirmed on rows that no choice has seen.
* **smaller**: bytes of the files. **answers**: of what was trained its accuracy on rows that no choice has seen, of the
  others the mean cosine with the original's answers. **peak memory**: what loading and running adds to a process.

### Bars

{bars}
### Models, without training

{models}
### The same models by what people do today: speed at one row, answers

Each with its own defaults, in turn with the same original. `quantize_static` has calibrated on the same rows.

{peers}
{trained}"""


def section(found: Found) -> str:
    """The whole section."""
    machine = next(iter(found.values()))["machine"] if found else {}
    shapes = {name: one for name, one in found.items() if "study" in one}
    texts = [one["text"] for one in found.values() if "text" in one]
    return TEXT.format(
        machine=machine.get("cpu", "?"),
        cores=machine.get("cores", "?"),
        onnxruntime=machine.get("versions", {}).get("onnxruntime", "?"),
        bars=table(("bar", "what", "target", "measured", ""), list(bars(found))),
        models=table(HEAD, [_model(one) for one in shapes.values()]),
        peers=table(PEER_HEAD, [_beside(one) for one in shapes.values()]),
        trained="\n".join(texts),
    )


def publish(text: str, found: Found) -> None:
    """Into results/, and as the last part of RESULTS.md."""
    (RESULTS / "optimize.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "optimize.md").write_text(text)
    published = RESULTS.parent / "RESULTS.md"
    before = published.read_text().partition(text.splitlines()[0])[0]
    published.write_text(f"{before.rstrip()}\n\n{text}")


def bars(found: Found) -> Iterator[tuple[str, ...]]:
    """Each bar with its figure: met, missed, or not measured."""
    for name, model, row, target in (
        ("O1", "resnet50", 1, 3.0),
        ("O2", "bert", 1, 2.8),
        ("O2", "minilm", 1, 2.0),
        ("O3", "wide_mlp", 1, 2.0),
        ("O3", "wide_mlp", 32, 3.0),
    ):
        if model in found:
            speed = _speedup(found[model], row)
            yield (
                name,
                f"{found[model]['title']}, {row} rows",
                f">= {target:g}x",
                f"{speed:.2f}x",
                met(speed >= target),
            )
    if "minilm" in found:
        cosine = _cosine(found["minilm"])
        yield "O2", "MiniLM-L6: cosine", ">= 0.985", f"{cosine:.4f}", met(cosine >= 0.985)
    yield from _suite(found)
    for one in found.values():
        yield from (tuple(bar) for bar in one.get("bars", ()))


def _suite(found: Found) -> Iterator[tuple[str, ...]]:
    shapes = [one for one in found.values() if "study" in one]
    if not shapes:
        return
    slower = [one["name"] for one in shapes if any(timing["low"] < 1.0 for timing in _chosen(one).get("timings", ()))]
    words = f"{len(shapes) - len(slower)} of {len(shapes)}"
    yield "O4", "never slower than the original", f"{len(shapes)} of {len(shapes)}", words, met(not slower)
    gains = [_speedup(one, 1) for one in shapes if one["study"]["verdict"] == "optimized"]
    if gains:
        mean = math.exp(sum(map(math.log, gains)) / len(gains))
        yield "O4", f"geometric mean where a form was chosen ({len(gains)})", ">= 2x", f"{mean:.2f}x", met(mean >= 2.0)
    kept = [(one, _chosen(one)["confirmed"]["drop"]) for one in shapes if _chosen(one)]
    lost = [100 * drop["high"] / drop["baseline"] for one, drop in kept if one["study"]["data"]["labelled"]]
    if lost:
        words = f"{max(lost):.2f} % ({len(lost)} models, the bound of the worst)"
        yield "O4", "trained models lose of their accuracy", "<= 1 %", words, met(max(lost) <= 1.0)
    int8 = [(one["name"], _smaller(one)) for one in shapes if "quantize_static" in _chosen(one).get("name", "")]
    if int8:
        least = min(share for _, share in int8)
        words = f"{100 * least:.1f} % ({len(int8)} models, the least)"
        yield "O5", "int8 is smaller by", ">= 74 %", words, met(least >= 0.74)
    if "resnet50" in found:
        first = found["resnet50"]["study"]["cost"].get("first_verdict_s", math.nan)
        yield "O8", "ResNet-50 shape: first verdict", "<= 60 s", f"{first:.0f} s", met(first <= 60)


def _model(one: Mapping[str, Any]) -> tuple[str, ...]:
    study, chosen = one["study"], _chosen(one)
    name = f"{one['title']} ({study['baseline']['footprint']['files'] / 1e6:.1f} MB)"
    if not chosen:
        return name, f"left alone: {study['sentence']}", "-", "-", "-", "-", "-", f"{one['study_s']:.0f} s"
    peak = chosen["footprint"]["peak"]
    memory = f"{peak / 1e6:.0f} MB" if peak else "-"
    speeds = [_interval(timing) for timing in chosen["timings"]] + ["-"]
    return (
        *(name, chosen["name"], speeds[0], speeds[1], f"{100 * _smaller(one):.1f} %"),
        *(_answers(chosen["confirmed"]), memory, f"{one['study_s']:.0f} s"),
    )


def _beside(one: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = _chosen(one)
    ours = "left alone" if not chosen else f"{_speedup(one, 1):.2f}x, {_answers(chosen['confirmed'])}"
    theirs = {peer["name"]: _peer(peer) for peer in one["peers"]}
    return one["title"], ours, *(theirs.get(name, "-") for name in PEERS)


def _peer(peer: Mapping[str, Any]) -> str:
    if "failed" in peer:
        speed = f"{peer['timing']['speedup']:.2f}x, " if "timing" in peer else ""
        return f"{speed}failed: {peer['failed'].split(':')[0]}"
    words = f"{peer['timing']['speedup']:.2f}x"
    return f"{words}, {_answers(peer['judged'])}" if "judged" in peer else words


def _answers(judged: Mapping[str, Any]) -> str:
    """The accuracy of what was trained, else the cosine."""
    drop = judged["drop"]
    return f"{100 * drop['candidate']:.2f} %" if judged["labelled"] else f"{judged['likeness']['cosine']:.4f}"


def _chosen(one: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((found for found in one["study"]["candidates"] if found["verdict"] == "chosen"), {})


def _speedup(one: Mapping[str, Any], rows: int) -> float:
    timings = _chosen(one).get("timings", ())
    return next((timing["speedup"] for timing in timings if timing["rows"] == rows), 1.0)


def _cosine(one: Mapping[str, Any]) -> float:
    chosen = _chosen(one)
    return chosen["confirmed"]["likeness"]["cosine"] if chosen else 1.0


def _smaller(one: Mapping[str, Any]) -> float:
    return 1 - _chosen(one)["footprint"]["files"] / one["study"]["baseline"]["footprint"]["files"]


def _interval(timing: Mapping[str, Any]) -> str:
    rows = "" if timing["rows"] in (1, 8) else f", {timing['rows']} rows"
    return f"{timing['speedup']:.2f}x ({timing['low']:.2f} to {timing['high']:.2f}){rows}"


def met(kept: bool) -> str:
    """What a bar says."""
    return "met" if kept else "**missed**"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |\n" for row in rows)
