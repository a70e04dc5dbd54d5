"""Studies of networks that are trained in place, of a net made hard for eight bits, and of what a server gains.

Called by `optimize.py`; training is `optimize_lessons.py`'s, which keeps what it trained. Must never judge on rows
that something was trained or calibrated on, nor time two forms one after the other.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optimize_lessons as lessons
import optimize_models as shapes
import torch
from examples.optimize import train
from optimize_report import met, table

import windlass
from windlass import settings
from windlass.cli import bench_subjects
from windlass.client import capacity, inputs, processes, targets
from windlass.optimization import accuracy, data, findings, measure, runnable, sensitivity
from windlass.optimization import form as forms
from windlass.optimization.techniques import base, quantize_static, quantize_weights
from windlass.packaging import dataset, package, session
from windlass.packaging.capture import base as capture

Study = dict[str, Any]
METHOD = measure.Method(most_s=6.0)
LABEL = "label"


class _Bench:
    """Forms of the character network beside the original, on evaluation rows."""

    def __init__(self, *, quick: bool) -> None:
        images, labels = train.rows("characters", "eval")
        count = 2_000 if quick else len(images)
        self.images = images
        self.parent = session.open(lessons.character_package())
        rows = dataset.Dataset({"input": images[:count], LABEL: labels[:count]}, "sha256:" + "0" * 64)
        self.judge = accuracy.Judge(self.parent, data.rows(self.parent, rows, LABEL))
        self.original = lessons.original()
        self.labels = labels[:count]
        self._baseline = runnable.open(self.original)

    def close(self) -> None:
        """Give the models back."""
        self._baseline.close()
        self.parent.close()

    def look(self, name: str, form: forms.Form) -> dict[str, Any]:
        """What is measured of a form."""
        lessons.say(f"characters: {name}")
        opened = runnable.open(form)
        try:
            timings = [
                measure.pair(self._baseline, opened, {"input": self.images[:rows]}, rows=rows, threads=1, method=METHOD)
                for rows in (1, 32)
            ]
            drop = self.judge.judge(opened.run).drop
        finally:
            opened.close()
        return {
            "name": name,
            "accuracy": drop.candidate,
            "drop": drop.drop,
            "most": drop.high,
            "baseline": drop.baseline,
            "rows": drop.rows,
            "speed": [(one.speedup, one.low, one.high) for one in timings],
            "smaller": 1 - form.size / self.original.size,
        }

    def right(self, form: forms.Form) -> np.ndarray:
        """Which rows a form answers right."""
        opened = runnable.open(form)
        try:
            parts = np.array_split(self.images[: len(self.labels)], len(self.labels) // 64)
            answers = [next(iter(opened.run({"input": part}).values())).argmax(axis=1) for part in parts]
        finally:
            opened.close()
        return np.concatenate(answers) == self.labels


@contextlib.contextmanager
def _bench(*, quick: bool) -> Iterator[_Bench]:
    torch.set_num_threads(1)
    found = _Bench(quick=quick)
    try:
        yield found
    finally:
        found.close()


def characters(*, quick: bool) -> Study:
    """The character network with half of its channels, in integers, and in integers it was trained for."""
    seeds = lessons.SEEDS[:1] if quick else lessons.SEEDS
    static, int4 = quantize_static.StaticQuantization, quantize_weights.WeightQuantization
    with _bench(quick=quick) as bench:
        whole = {
            "int8, static": [bench.look("int8", static.apply(bench.original, {}, lessons.materials(0)))],
            "int4 weights": [bench.look("int4", int4.apply(bench.original, {}, lessons.materials(0)))],
        }
        made: dict[str, list[dict[str, Any]]] = {
            "pruned": [],
            "pruned, int8": [],
            "pruned, int8 it was trained for": [],
        }
        for seed in seeds:
            pruned = lessons.pruned(seed)
            integers = static.apply(pruned, {}, lessons.materials(seed))
            for name, form in zip(made, (pruned, integers, lessons.aware(seed)), strict=True):
                made[name].append(bench.look(f"{name}, seed {seed}", form))
    found = whole | made
    pruned, integers, aware = made.values()
    first = pruned[0]
    allowed = 0.01 * first["baseline"]
    small = [one for name, each in found.items() for one in each if name != "pruned" and one["most"] <= allowed]
    best = max((one["smaller"] for one in small), default=0.0)
    bars = [
        _at_least("O6", "pruned and taught: speed", 1.6, _least(pruned), "x"),
        _at_most("O6", "pruned and taught: points of accuracy lost", 1.0, 100 * max(one["drop"] for one in pruned)),
        _at_least("O6", "the same in int8: speed", 4.0, _least(integers), "x"),
        _at_least("O6", "the same in int8: smaller by", 85.0, 100 * min(one["smaller"] for one in integers), " %"),
        _at_least("O5", "smaller by, within 1 % of the accuracy (its bound)", 80.0, 100 * best, " %"),
    ]
    gained = [100 * (mine["accuracy"] - static["accuracy"]) for mine, static in zip(aware, integers, strict=True)]
    text = f"""### The character network: pruned, taught, in integers

`examples/optimize`: {first["rows"]:,} images that no training and no calibration has seen, of which the original
({bench.original.size / 1e6:.1f} MB) answers {100 * first["baseline"]:.2f} % right. Half of its channels are taken out,
it learns from its former self, and goes into integers after that, or is trained for them; {len(seeds)} seeds. Of
figures the middle seed, in brackets the least and the most.

{table(_HEAD, [_line(name, each) for name, each in found.items()])}
Training for integers changes the accuracy by {_spread(gained, "{:+.2f}")} points against quantizing alone.
"""
    return _study("character_forms", "Character network: pruned, taught, in integers", bars, text, found)


_HEAD = ("form", "accuracy", "points lost", "rows 1", "rows 32", "smaller")


def _line(name: str, each: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    speeds = [_spread([one["speed"][at][0] for one in each], "{:.2f}") + "x" for at in range(2)]
    return (
        name,
        _spread([100 * one["accuracy"] for one in each], "{:.2f}") + " %",
        _spread([100 * one["drop"] for one in each], "{:.2f}"),
        *speeds,
        _spread([100 * one["smaller"] for one in each], "{:.1f}") + " %",
    )


def ensemble(*, quick: bool) -> Study:
    """A small network that learns from labels alone, and the same one that learns from three teachers as well."""
    seeds = lessons.SEEDS[:1] if quick else lessons.SEEDS
    with _bench(quick=quick) as bench:
        alone = [bench.right(lessons.student(seed)) for seed in seeds]
        taught = [bench.right(lessons.taught(seed)) for seed in seeds]
        look = bench.look("taught", lessons.taught(seeds[0]))
    each = [100 * float(mine.mean() - other.mean()) for mine, other in zip(taught, alone, strict=True)]
    rows = np.mean([mine.astype(float) - other for mine, other in zip(taught, alone, strict=True)], axis=0)
    gain, half = 100 * float(rows.mean()), 100 * 1.96 * float(rows.std()) / len(rows) ** 0.5
    told = [_spread([100 * float(one.mean()) for one in those], "{:.2f}") for those in (alone, taught)]
    measured = f"{gain:+.2f} points ({gain - half:+.2f} to {gain + half:+.2f})"
    bars = [
        ("O7", "taught by an ensemble, against the same without a teacher", ">= 0", measured, met(gain - half >= 0))
    ]
    text = f"""### A small network taught by three

A network of a ninth of the weights learns {lessons.ROWS - lessons.HELD:,} images from their labels alone
({told[0]} % right), and with the same weights at the start, rows, steps and rate from the answers of three larger
ones as well ({told[1]} %). The gain is {measured}: the mean over
{len(seeds)} seeds, each its own pair, with the 95 % interval over {len(rows):,} rows; by seed
{", ".join(f"{one:+.2f}" for one in each)}. It is {_times(look["speed"][0])} as fast as the original at one row and
{100 * look["smaller"]:.1f} % smaller.
"""
    return _study("ensemble", "A small network taught by three", bars, text, {"gains": each, "look": look})


def hard_net(*, quick: bool) -> Study:
    """A sentence encoder made hard for eight bits, its worst products left as they were."""
    layers = 2 if quick else 3
    model = shapes.models.MODELS["minilm"].build().eval()
    model.bert.encoder.layer = model.bert.encoder.layer[:layers]
    _harden(model.bert.encoder.layer[-1].attention)
    rows = shapes.SHAPES["minilm"].rows(96)
    options = capture.Options(example={name: value[:4] for name, value in rows.items()})
    parent = package.package(model, name="hard", options=options).package
    names = [spec.name for spec in parent.manifest.signature.inputs]
    given = dataset.Dataset(dict(zip(names, rows.values(), strict=True)), "sha256:" + "0" * 64)
    with contextlib.closing(session.open(parent)) as opened, tempfile.TemporaryDirectory() as folder:
        parts = data.split(opened, given)
        judge = accuracy.Judge(opened, parts.search)
        original = forms.Form({name: bytes(held) for name, held in parent.model_files().items()})
        materials = base.Materials(parent.manifest.signature, parts.calibration.batches, Path(folder))
        technique = quantize_static.StaticQuantization

        def make(excluded: tuple[str, ...]) -> forms.Form:
            return technique.apply(original, {"exclude": list(excluded)}, materials)

        nodes = dict.fromkeys(technique.nodes(original), "MatMul")
        lessons.say(f"hard_net: {len(nodes)} products")
        lost = _asked(judge, make(())).drop.drop
        few = [{name: value[:8] for name, value in parts.search.batches[0].items()}]
        right = [opened.model.run(batch, opened.contract.output_names) for batch in few]
        found = sensitivity.layers(nodes, make, lambda form: _answers(form, few), right, us={})
        fallen = sensitivity.fall_back(
            found, make, lambda form: _asked(judge, form), lambda one: one.drop.drop <= lost / 2, most=0.1
        )
    left = fallen.judged.drop.drop if fallen else lost
    excluded = fallen.excluded if fallen else ()
    won, share = 100 * (1 - left / lost), 100 * len(excluded) / len(nodes)
    bars = [
        _at_least("O10", "hard net: of the int8 loss won back", 50.0, won, " %"),
        _at_most("O10", "hard net: products left out", 10.0, share, " %"),
    ]
    text = f"""### A net made hard for eight bits

The first {layers} layers of MiniLM-L6, one channel of the last one's attention enlarged a thousandfold and made small
again by the next weights: it computes the same, and no 8-bit range fits. Of {len(nodes)} products
{len(excluded)} ({share:.0f} %) is left as it was, found by each one's signal to noise alone: the loss of cosine falls
from {lost:.4f} to {left:.4f}.
"""
    return _study("hard_net", "A net made hard for eight bits", bars, text, {"lost": lost, "left": left})


def _harden(attention: Any, channel: int = 5, times: float = 1000.0) -> None:
    """Attention is linear in its values: what enlarges one of their channels is undone by the weights behind."""
    value, output = attention.self.value, attention.output.dense
    with torch.no_grad():
        value.weight[channel] *= times
        value.bias[channel] *= times
        output.weight[:, channel] /= times


def _asked(judge: accuracy.Judge, form: forms.Form) -> findings.Judged:
    with contextlib.closing(runnable.open(form)) as opened:
        return judge.judge(opened.run)


def _answers(form: forms.Form, batches: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    with contextlib.closing(runnable.open(form)) as opened:
        return [opened.run(batch) for batch in batches]


def served(*, quick: bool) -> Study:
    """The original and the chosen version under our server, in turn under the same load."""
    shape = shapes.SHAPES["wide_mlp" if quick else "minilm"]
    rows, model = shape.rows(shape.size), shapes.seeded(shape)
    with tempfile.TemporaryDirectory() as home:
        windlass.package(model, {name: value[:4] for name, value in rows.items()}, name="served", home=home)
        store = settings.load({"home": home})
        names = list(rows)
        lessons.say("served: optimizing")
        found = windlass.optimize(
            "served@1",
            dict(zip(names, rows.values(), strict=True)),
            home=home,
            max_drop=str(1 - shape.cosine),
            techniques=("quantize_static", "quantize_dynamic"),
            batches=(1,),
            time="15s" if quick else "45s",
            progress=lambda words: lessons.say(f"served: {words}"),
        )
        if found.version is None:
            text = f"### Served\n\nThe study left {shape.title} alone: {found.report.sentence}\n"
            return _study("served", "Served", [], text, {})
        points = _loaded(store, (1, 4), seconds=0.5 if quick else 3.0)
    lines = [_served(one, other) for one, other in points]
    text = f"""### Served: the chosen version against the original

{shape.title}, {found.report.sentence}

Each under a server of ours on one core, `windlass bench`'s generator on the other, in turn over three rounds.

{table(_SERVED, lines)}"""
    return _study("served", "Served: the chosen version against the original", [], text, {"lines": lines})


_SERVED = ("under way", "original /s", "chosen /s", "more", "p50, original", "chosen", "p99, original", "chosen")


def _loaded(
    configuration: settings.Settings, connections: tuple[int, ...], *, seconds: float
) -> list[tuple[capacity.Point, capacity.Point]]:
    where = bench_subjects.cores(1)
    asking = bench_subjects.Asking("oip-binary", targets.Access(), (inputs.Size(1, 128),))
    method = capacity.Method(connections=connections, shares=(), seconds=seconds, cores=where.generators)
    with contextlib.ExitStack() as held:
        subjects = [
            held.enter_context(bench_subjects.started(configuration, name, asking, where))
            for name in ("served@1", "served@2")
        ]
        running = held.enter_context(processes.Generators(method.generators, method.cores))
        found = capacity.Measurement(subjects, method, lessons.say, running.run)
        found.measure()
    return list(zip(found.points[::2], found.points[1::2], strict=True))


def _served(one: capacity.Point, other: capacity.Point) -> tuple[str, ...]:
    rates = [point.throughput.value for point in (one, other)]
    waits = [f"{point.latency.quantile(q) * 1e3:.2f} ms" for q in (0.5, 0.99) for point in (one, other)]
    return f"{one.asked:g}", *(f"{rate:,.0f}" for rate in rates), f"{rates[1] / rates[0]:.2f}x", *waits


def _study(name: str, title: str, bars: Sequence[tuple[str, ...]], text: str, figures: dict[str, Any]) -> Study:
    machine = measure.machine()
    return {"name": name, "title": title, "machine": machine, "bars": list(bars), "text": text, "figures": figures}


def _least(each: Sequence[dict[str, Any]]) -> float:
    return min(one["speed"][0][0] for one in each)


def _at_least(bar: str, what: str, target: float, found: float, unit: str) -> tuple[str, ...]:
    return bar, what, f">= {target:g}{unit}", f"{found:.2f}{unit}", met(found >= target)


def _at_most(bar: str, what: str, target: float, found: float, unit: str = "") -> tuple[str, ...]:
    return bar, what, f"<= {target:g}{unit}", f"{found:.2f}{unit}", met(found <= target)


def _spread(values: Sequence[float], form: str) -> str:
    """The middle value; in brackets the least and the most, where there are several."""
    told = form.format(float(np.median(values)))
    return f"{told} ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else told


def _times(speed: Sequence[float]) -> str:
    return f"{speed[0]:.2f}x ({speed[1]:.2f} to {speed[2]:.2f})"


STUDIES = {"character_forms": characters, "ensemble": ensemble, "hard_net": hard_net, "served": served}
