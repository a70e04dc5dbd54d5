"""A network that rounds as its integer form will, so that training can make up for it (Jacob et al., CVPR 2018).

Called by the technique that trains for integers. The gradient passes through the rounding as if it were not there
(Bengio, Leonard and Courville, 2013). Must never round otherwise than the integer form does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize

from windlass.optimization import integers
from windlass.types import tensor

LAYERS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
_LEVELS = 255
_WHOLE = 127
# How much of the old range stays when a batch shows another.
_SLOWNESS = 0.95
_PARALLEL = 1e-5
_ROUNDED = "rounded_input"


class _Weights(torch.nn.Module):  # type: ignore[misc]
    """Signed 8 bits, symmetric, a scale for each output channel."""

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = real.abs().flatten(1).amax(1) / _WHOLE
            scale = scale.clamp_min(torch.finfo(torch.float32).tiny).reshape(-1, *[1] * (real.ndim - 1))
            error = (real / scale).round().clamp(-_WHOLE, _WHOLE) * scale - real
        return real + error


class _Activations(torch.nn.Module):  # type: ignore[misc]
    """Unsigned 8 bits over a range that follows what is seen until it is held."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.measuring = False
        self.held = False

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        if self.measuring or (self.training and not self.held):
            self._follow(real.detach())
        if self.measuring:
            return real
        point = integers.point(float(self.low), float(self.high), "QUInt8")
        return torch.fake_quantize_per_tensor_affine(real, point.scale, point.zero, 0, _LEVELS)

    def _follow(self, real: torch.Tensor) -> None:
        low, high = real.min().clamp_max(0.0), real.max().clamp_min(0.0)
        if self.measuring:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, 1 - _SLOWNESS)
            self.high.lerp_(high, 1 - _SLOWNESS)


def _round_input(layer: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, _ROUNDED)(given[0]), *given[1:])


def add(network: torch.nn.Module, layers: Iterable[str]) -> None:
    """Round the weights and the inputs of these layers from now on, in place."""
    for name in layers:
        layer = network.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", _Weights())
        layer.add_module(_ROUNDED, _Activations().train(layer.training))
        layer.register_forward_pre_hook(_round_input)


def remove(network: torch.nn.Module, layers: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Take the rounding away again, in place, and tell the ranges of the inputs that it had: [low, high] by layer."""
    found = {}
    for name in layers:
        layer = network.get_submodule(name)
        rounded = getattr(layer, _ROUNDED)
        found[name] = (float(rounded.low), float(rounded.high))
        delattr(layer, _ROUNDED)
        for key, hook in list(layer._forward_pre_hooks.items()):  # noqa: SLF001 - copies of a network lose the handles
            if hook is _round_input:
                del layer._forward_pre_hooks[key]  # noqa: SLF001
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return found


def measure(network: torch.nn.Module, *, on: bool) -> None:
    """While on, inputs are not rounded, and their ranges grow to what is seen."""
    for module in network.modules():
        if isinstance(module, _Activations):
            module.measuring = on


def hold(network: torch.nn.Module, *, held: bool) -> None:
    """Whether ranges stay as they are from now on."""
    for module in network.modules():
        if isinstance(module, _Activations):
            module.held = held


def matched(network: torch.nn.Module, weights: Mapping[str, tensor.Array]) -> dict[str, str]:
    """Which layer's weights these are: from the names of operators (weights `[outputs, ...]`) to those of layers.

    What differs by a factor for each output is the same layer's: normalization is folded into the graph's weights. It
    is so for rounding, too, because each output has a scale of its own.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LAYERS)}
    ours = {name: _directions(layer.weight.detach().numpy()) for name, layer in layers.items()}
    found: dict[str, str] = {}
    for node, theirs in weights.items():
        direction = _directions(theirs)
        alike = [name for name, own in ours.items() if _parallel(own, direction)]
        # Layers that began alike stay apart; one that is used twice has two operators.
        fresh = [name for name in alike if name not in found.values()]
        if alike:
            found[node] = (fresh or alike)[0]
    return found


def _directions(weights: tensor.Array) -> tensor.Array:
    """Each output's weights `[outputs, rest]` at length one, or zero."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    unit: tensor.Array = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
    return unit


def _parallel(one: tensor.Array, other: tensor.Array) -> bool:
    """Whether all rows point the same way or the opposite one; a row of one number says nothing."""
    if one.shape != other.shape or one.shape[1] < 2:
        return False
    cosines = np.abs((one * other).sum(axis=1))
    empty = ~one.any(axis=1) & ~other.any(axis=1)
    return bool(((cosines > 1 - _PARALLEL) | empty).all())
