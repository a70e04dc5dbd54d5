"""Single weights set to zero, the smallest first and gradually, while the network trains on.

Driven by `search` through the catalogue. The zeros are computed like any number: what gets smaller is what travels,
compressed. Must never change the network it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from windlass.optimization import form as forms
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit, lessons, teaching

# Below these many weights a tensor saves nothing worth its loss.
LEAST_WEIGHTS = 256
# The part of the steps in which weights are taken out; in the rest the others settle.
_RAMP = 0.6
_CUTS = 30
_UNTOUCHED = (torch.nn.Embedding, torch.nn.EmbeddingBag)


class UnstructuredPruning:
    """The plugin: gradual magnitude pruning (Zhu and Gupta, To prune, or not to prune, 2017)."""

    name: ClassVar[str] = "prune_unstructured"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset(("size",))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """The part of the weights that are zero in the end, and the passes over the rows."""
        return (base.Dimension("sparsity", (0.7, 0.5, 0.9)), base.Dimension("epochs", (6, 3, 12)))

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        why = lessons.refusal(form, materials)
        if not why and not prunable(form.network):
            why = f"no tensor of weights has {LEAST_WEIGHTS} of them or more."
        return why

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        chosen = given.complete(cls, form, parameters)
        sparsity = float(chosen["sparsity"])
        cuts = _Cuts(sparsity)
        names = lessons.names(materials)
        plan = fit.Plan(
            inputs=names,
            seconds=materials.budget_s,
            seed=materials.seed,
            epochs=chosen["epochs"],
            settled=_RAMP,
            purpose=f"{cls.name} {sparsity}",
        )
        lesson = teaching.taught(lessons.lesson(materials), form, names)
        fitted = fit.fit(
            form.network, lesson, plan, kept=materials.kept, on_step=cuts, say=materials.say, clock=materials.clock
        )
        pruned = prunable(fitted.network)
        zeros = sum(int((weight == 0).sum()) for weight in pruned.values())
        every = sum(parameter.numel() for parameter in fitted.network.parameters())
        note = (
            f"{zeros} of {every} weights are zero ({zeros / every:.0%}): the files are as large as before and compress "
            "to less; onnxruntime runs them no faster."
        )
        step = forms.Step(cls.name, chosen)
        return export.to_form(fitted.network, form, step, materials, notes=(note, f"Training: {fitted.stopped}."))


def prunable(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The tensors of weights that are worth it, by name: no embeddings, no biases, nothing small."""
    spared = {id(p) for module in network.modules() if isinstance(module, _UNTOUCHED) for p in module.parameters()}
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim >= 2 and parameter.numel() >= LEAST_WEIGHTS and id(parameter) not in spared
    }


class _Cuts:
    """Holds the masks: called after each step of training, it takes out more weights as the ramp says.

    A weight that is out stays out. Which are is told by the weights alone, so that a run goes on where it stopped.
    """

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self._masks: dict[str, torch.Tensor] = {}
        self._cuts = 0

    def __call__(self, network: torch.nn.Module, part: float) -> None:
        """Zero what is out, after `part` of the steps."""
        cuts = int(min(1.0, part / _RAMP) * _CUTS)
        level = self.sparsity * (1 - (1 - cuts / _CUTS) ** 3)
        with torch.no_grad():
            for name, weight in prunable(network).items():
                if name not in self._masks:
                    self._masks[name] = weight != 0
                weight.mul_(self._masks[name])
                if cuts > self._cuts:
                    smallest = weight.abs().flatten().argsort(stable=True)[: round(level * weight.numel())]
                    self._masks[name].view(-1)[smallest] = False
                    weight.mul_(self._masks[name])
        self._cuts = cuts
