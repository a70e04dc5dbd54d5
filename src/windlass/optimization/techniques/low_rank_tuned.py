"""Factors a network's layers into thinner ones (SVD, Tucker-2), which train on.

Driven by a study through the catalogue. Must never change the network it was given, nor factor where it does not pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from windlass import errors
from windlass.optimization import factors, parameters
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit, networks, teaching
from windlass.types import tensor

# Below this, calling one more operator costs more than any multiplications that it saves.
_LEAST = 32
# Rows whose inputs to each layer are looked at.
_ROWS = 512
_MOST_VECTORS = 4096
_RATE = 5e-4


class LowRankTuned:
    """The plugin. Linear layers and 1x1 convolutions by the singular value decomposition of what they answer,

    other convolutions by Tucker-2 (Kim et al., 2016); then fine-tuned, with the network as it was for a teacher.
    """

    name: ClassVar[str] = "low_rank_tuned"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {"Conv": 3.0, "MatMul": 4.0, "Gemm": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """The share of each layer's energy that is kept, and how often each row is seen afterwards."""
        return (
            base.Dimension("energy", (0.9, 0.8, 0.95, 0.7, 0.6, 0.5)),
            base.Dimension("epochs", (3, 1, 8)),
        )

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """No live network, or nothing to train it on."""
        if form.network is None:
            return "there is no live network behind this form (--model module:factory)."
        if materials.lesson is None:
            return "there are no rows to train on."
        if not any(_size(module) for module in form.network.modules()):
            return f"no layer has a matrix of {_LEAST} x {_LEAST} or more."
        return ""

    @classmethod
    def apply(cls, form: forms.Form, given: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form of the factored network; `Unsupported` where no layer is cheaper as two or three."""
        chosen = parameters.complete(cls, form, given)
        if materials.lesson is None or form.network is None:
            raise errors.UsageError("factoring a network needs the network, and rows to train it on.")
        names = tuple(spec.name for spec in materials.signature.inputs)
        some = {name: array[:_ROWS] for name, array in materials.lesson.inputs.items()}
        factored, count = factor(form.network, names, some, chosen["energy"])
        if not count:
            raise errors.Unsupported(
                f"no layer costs less as thinner ones that keep {chosen['energy']:g} of its energy."
            )
        fitted = fit.fit(
            factored,
            teaching.taught(materials.lesson, form, names),
            fit.Plan(
                inputs=names,
                seconds=materials.budget_s,
                seed=materials.seed,
                epochs=float(chosen["epochs"]),
                rate=_RATE,
                purpose=f"{cls.name} {chosen['energy']}",
            ),
            kept=materials.kept,
            say=materials.say,
            clock=materials.clock,
        )
        note = f"low rank: {count} layer(s) factored, trained on for {fitted.steps:,} steps: {fitted.stopped}."
        return export.to_form(fitted.network, form, forms.Step(cls.name, chosen), materials, notes=(note,))


def factor(network: nn.Module, names: tuple[str, ...], inputs: tensor.Tensors, energy: float) -> tuple[nn.Module, int]:
    """A copy of the network with the layers that pay factored, and their number. `inputs` are real rows."""
    made = networks.copied(network)
    moments = _moments(made, names, inputs)
    places: dict[nn.Module, list[str]] = {}
    for path, module in made.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(path)
    shared = _shared(made)
    count = 0
    for layer, paths in places.items():
        if not _size(layer) or layer is made or layer.weight in shared:
            continue
        thinner = _factored(layer, energy, moments.get(layer))
        if thinner is not None:
            count += 1
            for path in paths:
                made.set_submodule(path, thinner)
    if count:
        networks.settle(made, names, inputs)
    return made, count


def _size(module: nn.Module) -> int:
    """The smaller side of a layer that can be factored; 0 for any other."""
    # A subclass may compute something else.
    if type(module) is nn.Linear:
        least = min(module.weight.shape)
    elif type(module) is nn.Conv2d and module.groups == 1:
        least = min(module.weight.shape[:2])
    else:
        return 0
    return int(least) if least >= _LEAST else 0


def _shared(network: nn.Module) -> set[torch.Tensor]:
    """Weights that several layers hold: factoring one would part them."""
    seen: dict[torch.Tensor, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            seen[parameter] = seen.get(parameter, 0) + 1
    return {parameter for parameter, times in seen.items() if times > 1}


def _moments(network: nn.Module, names: tuple[str, ...], inputs: tensor.Tensors) -> dict[nn.Module, tensor.Array]:
    """By linear layer or 1x1 convolution: the mean of `outer(input, input)` over the rows, `[in, in]`."""
    sums: dict[nn.Module, tuple[torch.Tensor, int]] = {}

    def watch(module: nn.Module, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        value = given[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else given[0]
        vectors = value.reshape(-1, value.shape[-1])
        vectors = vectors[:: max(1, len(vectors) // _MOST_VECTORS)].double()
        total, count = sums.get(module, (torch.zeros(()), 0))
        sums[module] = (total + vectors.T @ vectors, count + len(vectors))

    watched = [m for m in network.modules() if _size(m) and (isinstance(m, nn.Linear) or m.kernel_size == (1, 1))]
    hooks = [module.register_forward_hook(watch) for module in watched]
    try:
        with torch.no_grad():
            for batch in networks.batches(inputs, names):
                networks.call(network, names, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {module: (total / max(count, 1)).numpy() for module, (total, count) in sums.items()}


def _factored(layer: Any, energy: float, moments: tensor.Array | None) -> nn.Sequential | None:
    """The thinner layers that stand for one; None where they would cost more."""
    weight = layer.weight.detach().numpy()
    if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1):
        matrix = weight.reshape(weight.shape[:2]).T
        product = factors.split(matrix, energy, moments)
        return _pair(layer, product) if product.pays else None
    parts = factors.tucker(weight, energy)
    (inner, taken), (out, outer) = parts.first.shape[:2], parts.last.shape[:2]
    area, steps = int(weight[0, 0].size), layer.stride[0] * layer.stride[1]
    # Multiplications for one place of the answer; the first layer works at each place that is taken.
    if taken * inner * steps + inner * outer * area + outer * out >= taken * out * area:
        return None
    core = nn.Conv2d(
        inner,
        outer,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        bias=False,
    )
    three = (nn.Conv2d(taken, inner, 1, bias=False), core, nn.Conv2d(outer, out, 1, bias=layer.bias is not None))
    return _filled(three, (parts.first, parts.core, parts.last), layer.bias)


def _pair(layer: Any, product: factors.Product) -> nn.Sequential:
    first, last = product.left.T, product.right.T
    (rank, taken), out, bias = first.shape, last.shape[0], layer.bias is not None
    if isinstance(layer, nn.Linear):
        return _filled((nn.Linear(taken, rank, bias=False), nn.Linear(rank, out, bias=bias)), (first, last), layer.bias)
    two = (
        nn.Conv2d(taken, rank, 1, stride=layer.stride, padding=layer.padding, bias=False),
        nn.Conv2d(rank, out, 1, bias=bias),
    )
    return _filled(two, (first[:, :, None, None], last[:, :, None, None]), layer.bias)


def _filled(layers: tuple[Any, ...], weights: tuple[tensor.Array, ...], bias: torch.Tensor | None) -> nn.Sequential:
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.copy()))
        if bias is not None:
            layers[-1].bias.copy_(bias)
    return nn.Sequential(*layers).eval()
