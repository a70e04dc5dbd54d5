"""Whole channels taken out of a network, which trains on without them.

Driven by `search` through the catalogue. Must never change the network it was given, nor take out channels where that
is not the same as setting them to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import torch
import torch_pruning

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit, lessons, networks, teaching
from windlass.packaging.capture import torch_original
from windlass.types import tensor

# Rows that are asked before and after channels are taken out.
_ROWS = 4
# Kernels compute in blocks of this many channels: what does not fill one costs as if it did.
_BLOCKS = (16, 8, 4)
_ROOTS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
_NEAR = 1e-3


class StructuralPruning:
    """The plugin: groups of layers that lose the same channels are found by DepGraph (Fang et al., CVPR 2023).

    The channels with the smallest weights go (L2 norm over the group), the same part of each layer; the network then
    trains on with its former self as the teacher.
    """

    name: ClassVar[str] = "prune_structural"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {"Conv": 4.0, "MatMul": 4.0, "Gemm": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """The part of the channels that go, and the passes over the rows afterwards."""
        return (base.Dimension("ratio", (0.5, 0.3, 0.7)), base.Dimension("epochs", (10, 5, 20)))

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        why = lessons.refusal(form, materials)
        if not why and sum(isinstance(module, _ROOTS) for module in form.network.modules()) < 2:
            why = "channels are taken out between two layers (convolutions or linear), and there are not two."
        return why

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        chosen = given.complete(cls, form, parameters)
        names = lessons.names(materials)
        lesson = teaching.taught(lessons.lesson(materials), form, names)
        few = {name: lesson.inputs[name][:_ROWS] for name in names if name in lesson.inputs}
        pruned = prune(form.network, names, few, float(chosen["ratio"]))
        plan = fit.Plan(
            inputs=names, seconds=materials.budget_s, seed=materials.seed, epochs=chosen["epochs"], purpose=cls.name
        )
        fitted = fit.fit(pruned.network, lesson, plan, kept=materials.kept, say=materials.say, clock=materials.clock)
        note = (
            f"{pruned.after} of {pruned.before} weights are left, {pruned.groups} groups of channels were cut. "
            f"Training: {fitted.stopped}."
        )
        made = export.to_form(fitted.network, form, forms.Step(cls.name, chosen), materials, notes=(note,))
        return msgspec.structs.replace(made, left=pruned.left)


class Pruned(msgspec.Struct, frozen=True):
    """A copy of a network with fewer channels; weights before and after, groups that were cut, layers that were not."""

    network: Any
    before: int
    after: int
    groups: int
    left: tuple[forms.Left, ...]


def prune(network: Any, names: tuple[str, ...], rows: tensor.Tensors, ratio: float) -> Pruned:
    """Take `ratio` of the channels out of every group of layers where it can be shown to be right.

    It is right where the network without the channels answers as it does with their weights set to zero: that leaves
    out what decides the outputs, what a fixed shape in `forward` needs, and what is normalized over its channels.
    `Unsupported` where nothing can be taken out.
    """
    work = networks.copied(network)
    for parameter in work.parameters():
        parameter.requires_grad = parameter.dtype.is_floating_point
    before = _weights(work)
    left: dict[str, forms.Left] = {}
    cut: set[str] = set()
    with torch_original.quiet(), torch_original.one_thread():
        while True:
            kept = _cut_all(work, names, rows, ratio, cut, left)
            if kept is None:
                break
            work = kept
    if not cut:
        told = "; ".join(f"{item.node}: {item.why}" for item in list(left.values())[:3])
        raise errors.Unsupported(f"no channels can be taken out of this network. {told}")
    return Pruned(work.eval(), before, _weights(work), len(cut), tuple(left.values()))


def _cut_all(
    work: torch.nn.Module,
    names: tuple[str, ...],
    rows: tensor.Tensors,
    ratio: float,
    cut: set[str],
    left: dict[str, forms.Left],
) -> torch.nn.Module | None:
    """Cut every group that is neither cut nor left, in place; the network from before one that went wrong, or None."""
    graph = _graph(work, names, rows)
    called = {module: name for name, module in work.named_modules()}
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for group in graph.get_all_groups([work.get_submodule(name) for name in left], _ROOTS):
        root = group[0].dep.target.module
        out = _surplus(len(group[0].idxs), ratio)
        scores = importance(group)
        if called[root] in cut or not out or scores is None:
            continue
        kept = copy.deepcopy(work)
        # Behind a flattening there are more scores than channels; the first are theirs.
        gone = scores[: len(group[0].idxs)].argsort(stable=True)[:out].tolist()
        why = _cut(graph, graph.get_pruning_group(root, group[0].dep.handler, gone), work, names, rows)
        if why:
            left[called[root]] = forms.Left(called[root], type(root).__name__, why)
            return kept
        cut.add(called[root])
    return None


def _cut(graph: Any, group: Any, work: torch.nn.Module, names: tuple[str, ...], rows: tensor.Tensors) -> str:
    """Take the group's channels out; why that was wrong, empty where it was right."""
    _silence(graph, group)
    with torch.no_grad():
        expected = networks.call(work, names, rows)
        try:
            group.prune()
            found = networks.call(work, names, rows)
        except Exception:  # noqa: BLE001 - a forward pass that wants its old sizes may raise anything
            return "the network does not run with fewer channels here; its forward pass may name their number."
    for name, right in expected.items():
        if found[name].shape != right.shape:
            return "its channels are the network's answer."
        if not torch.allclose(found[name], right, rtol=_NEAR, atol=_NEAR * float(right.abs().max())):
            return "without channels here the network computes something else than with zeros in them."
    return ""


def _silence(graph: Any, group: Any) -> None:
    """Set the weights that make the group's channels to zero, so that zeros come out of them."""
    with torch.no_grad():
        for dep, where in group:
            module = dep.target.module
            if isinstance(module, torch.nn.Parameter):
                module.index_fill_(dep.target.pruning_dim, torch.tensor(where), 0.0)
                continue
            if not graph.is_out_channel_pruning_fn(dep.handler):
                continue
            axis = 1 if getattr(module, "transposed", False) or isinstance(module, torch.nn.Embedding) else 0
            for name, along in (("weight", axis), ("bias", 0), ("running_mean", 0)):
                held = getattr(module, name, None)
                if isinstance(held, torch.Tensor) and held.shape[along] > max(where):
                    held.index_fill_(along, torch.tensor(where), 0.0)


def _graph(work: torch.nn.Module, names: tuple[str, ...], rows: tensor.Tensors) -> Any:
    """Which layers lose channels together, found by running the network once."""
    with torch.enable_grad():
        return torch_pruning.DependencyGraph().build_dependency(
            work,
            example_inputs=rows,
            forward_fn=lambda network, example: list(networks.call(network, names, example).values()),
            verbose=False,
        )


def _surplus(channels: int, ratio: float) -> int:
    """How many of the channels go, so that whole blocks stay."""
    block = next((size for size in _BLOCKS if channels % size == 0 and channels >= 2 * size), 1)
    return channels - max(block, round(channels * (1 - ratio) / block) * block)


def _weights(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
