"""Static int8 whose rounding the network was trained to bear.

Driven by `search` through the catalogue. Must never change the network it was given, nor use other ranges for what
was trained than the trained ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import torch

from windlass import errors
from windlass.optimization import calibration, graphs, pairs
from windlass.optimization import form as forms
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit, lessons, networks, rounding, teaching
from windlass.types import tensor

# In the last part of the steps the ranges are held, so that the weights settle in them.
_HELD_FROM = 0.5
_RATE = 3e-4


class QuantizationAware:
    """The plugin: training with rounded weights and inputs (Jacob et al., CVPR 2018), then integers.

    The network's former self is the teacher. Weights: 8 bits, symmetric, a scale for each output channel; inputs of
    layers: 8 bits, affine, the trained range; values between other operators: ranges of the calibration rows.
    """

    name: ClassVar[str] = "quantize_aware"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {"Conv": 4.0, "MatMul": 4.0, "Gemm": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """The passes over the rows; nodes of the graph to leave as they are."""
        return (base.Dimension("epochs", (4, 2, 8)), base.Dimension(given.EXCLUDE, ()))

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        why = lessons.refusal(form, materials) or graphs.refusal(form)
        if not why and not any(isinstance(module, rounding.LAYERS) for module in form.network.modules()):
            why = "the network has no convolution and no linear layer."
        if not why and not materials.calibration:
            why = "static quantization needs rows to calibrate on (--data)."
        return why

    @classmethod
    def nodes(cls, form: forms.Form) -> tuple[str, ...]:
        """The nodes that it would quantize, in the order of the graph: what `exclude` may name."""
        return pairs.plan(graphs.prepared(form)).nodes

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        chosen = given.complete(cls, form, parameters)
        step = forms.Step(cls.name, chosen)
        excluded = given.excluded(chosen, cls.nodes(form))
        layers, spared = _layers(form, excluded)
        names = lessons.names(materials)
        rounded = _rounded(form.network, layers, names, materials.calibration)
        plan = fit.Plan(
            inputs=names,
            seconds=materials.budget_s,
            seed=materials.seed,
            epochs=chosen["epochs"],
            rate=_RATE,
            purpose=cls.name,
        )
        lesson = teaching.taught(lessons.lesson(materials), form, names)
        fitted = fit.fit(
            rounded, lesson, plan, kept=materials.kept, on_step=_hold, say=materials.say, clock=materials.clock
        )
        ranges = rounding.remove(fitted.network, layers)
        exported = export.to_form(fitted.network, form, step, materials)
        return _integers(exported, form, ranges, spared, materials, fitted.stopped)


def _hold(network: torch.nn.Module, part: float) -> None:
    rounding.hold(network, held=part >= _HELD_FROM)


def _layers(form: forms.Form, excluded: Sequence[str]) -> tuple[list[str], set[str]]:
    """The layers to train with rounding, and those of excluded nodes; `Unsupported` where none is in the graph."""
    model = graphs.prepared(form)
    found = rounding.matched(networks.copied(form.network), _weights(model, pairs.plan(model).products))
    spared = {layer for node, layer in found.items() if node in excluded}
    layers = [layer for layer in dict.fromkeys(found.values()) if layer not in spared]
    if not layers:
        raise errors.Unsupported(
            "no layer of the network was found in the graph by its weights.",
            hint="Is --model the network that was packaged?",
        )
    return layers, spared


def _rounded(
    network: Any, layers: Sequence[str], names: tuple[str, ...], rows: Sequence[tensor.Tensors]
) -> torch.nn.Module:
    """A copy that rounds, with ranges that cover the calibration rows."""
    copy = networks.copied(network)
    rounding.add(copy, layers)
    rounding.measure(copy, on=True)
    with torch.no_grad():
        for batch in rows:
            networks.call(copy, names, batch)
    rounding.measure(copy, on=False)
    return copy


def _integers(
    exported: forms.Form,
    parent: forms.Form,
    trained: Mapping[str, tuple[float, float]],
    spared: set[str],
    materials: base.Materials,
    stopped: str,
) -> forms.Form:
    """The trained network's graph with integers in the trained ranges."""
    model = graphs.prepared(exported)
    layers = rounding.matched(exported.network, _weights(model, pairs.plan(model).products))
    plan = pairs.plan(model, [node for node, layer in layers.items() if layer in spared])
    ranges = dict(calibration.ranges(model, plan.ranges, materials.calibration, "minmax", key=exported.digest))
    ours = 0
    for node in model.graph.node:
        layer = layers.get(node.name, "")
        if node.name in plan.products and layer in trained:
            ranges[plan.values[node.input[0]]] = trained[layer]
            ours += 1
    every = len(plan.products)
    lost = f" ({every - ours} were not found in the network)" if ours < every else ""
    notes = (f"{ours} of {every} products were trained with rounding{lost}. Training: {stopped}.",)
    return graphs.made(
        msgspec.structs.replace(exported, steps=parent.steps),
        pairs.quantize(model, plan, ranges, pairs.Settings()),
        exported.steps[-1],
        expected=materials.signature,
        precision="int8",
        left=plan.left,
        notes=notes,
    )


def _weights(model: onnx.ModelProto, products: Sequence[str]) -> dict[str, tensor.Array]:
    """The weights of the products by node, `[outputs, ...]`."""
    constants = graphs.weights(model)
    return {
        node.name: np.moveaxis(onnx.numpy_helper.to_array(constants[node.input[1]]), pairs.channels(node), 0)
        for node in model.graph.node
        if node.name in products
    }
