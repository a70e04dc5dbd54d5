"""Trains another, smaller network on what a teacher answers, or an ensemble of teachers.

Driven by a study through the catalogue. Must never change a teacher, nor show the student other rows than the lesson's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import parameters
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit, teaching
from windlass.packaging.capture import torch_original

# Nothing is known yet by a network that begins: it takes longer steps than one that is tuned.
_RATE = 3e-3


class Distill:
    """The plugin: the student learns the labels and the teachers' softened answers (Hinton, Vinyals and Dean, 2015).

    Of several teachers it learns the mean of their softened probabilities. Without any, the form itself teaches.
    """

    name: ClassVar[str] = "distill"
    trains: ClassVar[bool] = True
    # How much faster another network is, is known when it is there.
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """How soft the teachers' answers are, how much they count beside the labels, how often each row is seen."""
        return (
            base.Dimension("temperature", (3.0, 1.0, 6.0)),
            base.Dimension("alpha", (0.7, 0.9, 0.5)),
            base.Dimension("epochs", (20, 5, 60)),
        )

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """No student, no rows to learn from, or a form that is no original."""
        if materials.student is None:
            return "there is no student: a function that makes a smaller network (--student module:factory)."
        if materials.lesson is None:
            return "there are no rows to train on."
        if form.steps:
            return "a student learns from the original, not from what was made of it."
        return ""

    @classmethod
    def apply(cls, form: forms.Form, given: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The trained student's form; `CaptureFailed` if it cannot be made, trained or exported."""
        chosen = parameters.complete(cls, form, given)
        if materials.lesson is None:
            raise errors.UsageError("distillation needs rows to train on.")
        names = tuple(spec.name for spec in materials.signature.inputs)
        lesson = teaching.taught(materials.lesson, form, names)
        fitted = fit.fit(
            _student(materials),
            lesson,
            fit.Plan(
                inputs=names,
                seconds=materials.budget_s,
                seed=materials.seed,
                epochs=float(chosen["epochs"]),
                rate=_RATE,
                alpha=chosen["alpha"],
                temperature=chosen["temperature"],
                purpose=cls.name,
            ),
            kept=materials.kept,
            say=materials.say,
            clock=materials.clock,
        )
        step = forms.Step(cls.name, chosen)
        note = f"distilled from {len(lesson.teachers)} teacher(s) in {fitted.steps:,} steps: {fitted.stopped}."
        return export.to_form(fitted.network, form, step, materials, notes=(note,))


def _student(materials: base.Materials) -> torch.nn.Module:
    """A new student, its first weights drawn by the seed."""
    if materials.student is None:
        raise errors.UsageError("distillation needs a student.", hint="Name one with --student module:factory.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(materials.seed)
        try:
            made = materials.student()
        except Exception as e:  # noqa: BLE001 - the user's own code may raise anything
            raise errors.CaptureFailed(
                f"the student cannot be made: {type(e).__name__}: {torch_original.first_line(e)}.",
                hint="The factory is called without arguments and returns an untrained network.",
            ) from None
    if not isinstance(made, torch.nn.Module):
        raise errors.UsageError(f"the student is a {type(made).__name__}: a torch.nn.Module is needed.")
    return made
