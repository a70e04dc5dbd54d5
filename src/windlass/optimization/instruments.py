"""What a study's trials are made with: techniques applied, forms opened, timed and judged beside the original.

Put together by `study` for `trials`. Must never keep more than one candidate loaded, nor judge on rows that it was
calibrated or trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from windlass.optimization import (
    accuracy,
    budget,
    choice,
    data,
    findings,
    graphs,
    measure,
    profile,
    runnable,
    sensitivity,
    trials,
)
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.packaging import session
from windlass.types import tensor

# A first look takes less time, and is told apart from a real timing.
BRIEF = measure.Method(repeats=10, most_repeats=10, most_s=3.0)
THOROUGH = measure.Method(repeats=30, most_repeats=120, most_s=20.0)
_SENSITIVITY_ROWS = 64


class Setting(msgspec.Struct, frozen=True):
    """What measuring depends on: the metric and slices, the threads and rows of a run, the seed.

    `adversarial`: the chosen form is judged on rows that are hard on purpose too. `most_s` bounds one timing.
    """

    metric: str | None
    slices: tuple[str, ...]
    threads: int
    seed: int
    batches: tuple[int, ...]
    adversarial: bool = False
    most_s: float = THOROUGH.most_s


class Workbench:
    """The original, loaded, and what is measured against it. Close it: it holds models in memory."""

    def __init__(
        self,
        parent: session.Session,
        original: forms.Form,
        split: data.Split,
        setting: Setting,
        materials: base.Materials,
        techniques: Mapping[str, type[base.Technique]],
    ) -> None:
        self.parent = parent
        self.original = original
        self.split = split
        self.materials = materials
        self.judge = accuracy.Judge(parent, split.search, setting.metric, seed=setting.seed, slices=setting.slices)
        self.techniques = techniques
        self.threads = setting.threads
        self._setting = setting
        self._final: accuracy.Judge | None = None
        self._baseline = runnable.open(original, threads=setting.threads)
        self._open: tuple[str, runnable.Runnable] | None = None

    def close(self) -> None:
        """Give all models back."""
        self._baseline.close()
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def require(self, most: float) -> None:
        """`UsageError` with the number of rows needed, if a drop of `most` could not be shown on so few."""
        self.judge.require(most)
        self._unseen().require(most, level=accuracy.level(1))

    def instruments(self, asked: budget.Budget) -> trials.Instruments:
        """As functions. The budget says when answers are good enough, so that no more layers are left out."""

        def accept(judged: findings.Judged) -> bool:
            most = choice.allowed(asked, judged)
            return most is None or accuracy.accepts(judged, most)

        return trials.Instruments(
            techniques=self.techniques,
            refusal=lambda name, form: self.techniques[name].refusal(form, self.materials),
            apply=self.apply,
            time=self.time,
            footprint=self.footprint,
            likeness=lambda form: self.judge.likeness(self._opened(form).run),
            judge=lambda form: self.judge.judge(self._opened(form).run),
            confirm=self.confirm,
            rescue=lambda root, step, go_on: self.rescue(root, step, accept, go_on),
            layers=self.layers,
        )

    def apply(self, root: forms.Form, step: forms.Step, seconds: float) -> forms.Form:
        """The form of one more step; what trains keeps its state in a folder of its own."""
        name = hashlib.sha256(msgspec.json.encode([root.digest, step], order="sorted")).hexdigest()[:32]
        kept = self.materials.kept / name if self.materials.kept is not None else None
        materials = msgspec.structs.replace(self.materials, budget_s=seconds, kept=kept)
        return self.techniques[step.technique].apply(root, step.parameters, materials)

    def time(self, form: forms.Form, rows: int, thorough: bool) -> findings.Timing:
        """Against the original, in turn, on real rows."""
        method, found = THOROUGH if thorough else BRIEF, self._setting
        method = msgspec.structs.replace(method, seed=found.seed, most_s=min(method.most_s, found.most_s))
        return measure.pair(
            self._baseline,
            self._opened(form),
            self.inputs(rows),
            rows=rows,
            threads=self.threads,
            method=method,
        )

    def footprint(self, form: forms.Form, peak: bool) -> findings.Footprint:
        """Its bytes; the peak of memory in a child, at the largest batch of the longest rows."""
        largest = self._first(max(self._setting.batches), self.split.search.batches[-1])
        return measure.footprint(form, largest, threads=self.threads, peak=peak)

    def confirm(self, form: forms.Form, level: float) -> findings.Judged:
        """On the rows that no choice has seen."""
        return self._unseen().judge(self._opened(form).run, level=level)

    def rescue(
        self,
        root: forms.Form,
        step: forms.Step,
        accept: Callable[[findings.Judged], bool],
        go_on: Callable[[], bool],
    ) -> trials.Rescue:
        """Which nodes a step should leave out, by the sensitivity of each."""

        def make(excluded: tuple[str, ...]) -> forms.Form:
            parameters = {**step.parameters, "exclude": list(excluded)}
            return self.apply(root, forms.Step(step.technique, parameters), 0.0)

        found = self.layers(root, step, go_on)
        fallen = sensitivity.fall_back(
            found, make, lambda form: self.judge.judge(self._opened(form).run), accept, go_on=go_on
        )
        # What does not keep the budget either is told as the nearest.
        return trials.Rescue((), found) if fallen is None else trials.Rescue(fallen.excluded, fallen.layers)

    def layers(self, root: forms.Form, step: forms.Step, go_on: Callable[[], bool]) -> tuple[findings.Layer, ...]:
        """How much each node that a step would quantize suffers, alone."""
        technique = self.techniques[step.technique]
        listed = getattr(technique, "nodes", None)
        if listed is None:
            return ()
        operators = {node.name: node.op_type for node in graphs.prepared(root).graph.node}
        nodes = {name: operators.get(name, "") for name in listed(root)}
        rows = self._few()

        def make(excluded: tuple[str, ...]) -> forms.Form:
            parameters = {**step.parameters, "exclude": list(excluded)}
            return self.apply(root, forms.Step(step.technique, parameters), 0.0)

        def answers(form: forms.Form) -> tuple[tensor.Tensors, ...]:
            opened = self._opened(form)
            return tuple(opened.run(batch) for batch in rows)

        # As they are written: nodes that onnxruntime fuses would go by other names.
        written = forms.Form({"model.onnx": graphs.prepared(root).SerializeToString()})
        timed = profile.nodes(written, self.inputs(1), threads=self.threads, level="none")
        us = {node.name: node.us for node in timed}
        original = tuple(self._baseline.run(batch) for batch in rows)
        return sensitivity.layers(nodes, make, answers, original, us=us, go_on=go_on)

    def inputs(self, rows: int) -> tensor.Tensors:
        """So many rows as the model takes them: real ones of the middle, as texts lie from short to long."""
        batches = self.split.search.batches
        return self._first(rows, batches[len(batches) // 2])

    def _first(self, rows: int, batch: tensor.Tensors) -> tensor.Tensors:
        """The first rows of a batch, again where there are fewer."""
        if not self.parent.contract.signature.batched:
            return batch
        return {name: np.take(value, np.arange(rows) % len(value), axis=0) for name, value in batch.items()}

    def _unseen(self) -> accuracy.Judge:
        """The judge of the final rows; the original answers them when they are first needed."""
        if self._final is None:
            found = self._setting
            metric = self.judge.metric if self.judge.labelled else found.metric
            self._final = accuracy.Judge(self.parent, self.split.final, metric, seed=found.seed, slices=found.slices)
            if found.adversarial:
                self._final.attack()
        return self._final

    def _few(self) -> tuple[tensor.Tensors, ...]:
        if not self.parent.contract.signature.batched:
            return self.split.calibration.batches[:8]
        found, count = [], 0
        for batch in self.split.calibration.batches:
            left = _SENSITIVITY_ROWS - count
            if left <= 0:
                break
            found.append({name: value[:left] for name, value in batch.items()})
            count += len(next(iter(found[-1].values())))
        return tuple(found)

    def _opened(self, form: forms.Form) -> runnable.Runnable:
        """A form ready to run: the last one stays, as it is measured in several ways."""
        if self._open is not None and self._open[0] == form.digest:
            return self._open[1]
        if self._open is not None:
            self._open[1].close()
            self._open = None
        opened = runnable.open(form, threads=self.threads)
        self._open = (form.digest, opened)
        return opened


def folder(kept: Path, told: object) -> Path:
    """Where the journal of a study lies: by everything that its findings depend on."""
    return kept / hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:32]
