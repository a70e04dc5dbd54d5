"""A live network, ready to be asked or trained: a copy of its own on the CPU, called with named numpy arrays.

Called by the training loop and by the techniques that train. Must never change the network it was given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch

from windlass import errors
from windlass.packaging.capture import torch_original
from windlass.types import tensor

# Rows of one run where nothing is learned: enough to be quick, few enough to fit in memory.
ROWS = 256


def copied(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with weights of its own, in single precision on the CPU, in eval mode.

    Where the network was frozen altogether, as for use, every floating weight may be trained.
    """
    try:
        clone = copy.deepcopy(network)
    except Exception as e:  # noqa: BLE001 - a user's module may hold anything
        raise errors.CaptureFailed(
            f"the network cannot be copied: {torch_original.first_line(e)}.",
            hint="Keep locks, files and the like out of the module: training works on a copy.",
        ) from None
    clone = clone.cpu().float().eval()
    weights = [p for p in clone.parameters() if p.dtype.is_floating_point]
    if not any(p.requires_grad for p in weights):
        for parameter in weights:
            parameter.requires_grad = True
    return clone


def call(network: torch.nn.Module, names: tuple[str, ...], inputs: tensor.Tensors) -> dict[str, torch.Tensor]:
    """The outputs by name for these rows, with their graph of gradients if those are on.

    `names` are the inputs in the signature's order; `CaptureFailed` with the line of the module if it refuses them.
    """
    missing = [name for name in names if name not in inputs]
    if missing:
        raise errors.UsageError(f"the rows hold no '{missing[0]}': the network takes {', '.join(names)}.")
    example = {name: inputs[name] for name in names}
    original = torch_original.Original(network, names, torch_original.call_names(network, example, ()))
    tensors = original.tensors(example)
    try:
        answer: dict[str, torch.Tensor] = original.module.named(*tensors)
    except errors.WindlassError:
        raise
    except Exception as e:  # noqa: BLE001 - a user's module may raise anything
        shapes = ", ".join(f"{n} {list(a.shape)} {a.dtype}" for n, a in example.items())
        raise errors.CaptureFailed(
            f"the network fails on {shapes}: {torch_original.first_line(e)}{torch_original.where(e)}.",
            hint="The network must take what the package takes, in the same order or under the same names.",
        ) from None
    return answer


def answers(network: torch.nn.Module, names: tuple[str, ...], inputs: tensor.Tensors, output: str = "") -> tensor.Array:
    """What a network answers in eval mode: float32 `[rows, ...]` of one output (`""`: the first of floats)."""
    ready, _ = torch_original.ready(network)
    parts = []
    with torch.inference_mode():
        for chunk in batches(inputs, names):
            outputs = call(ready, names, chunk)
            parts.append(outputs[output or floating(outputs)].numpy().astype(np.float32))
    return np.concatenate(parts)


def floating(outputs: dict[str, torch.Tensor]) -> str:
    """The name of the first output that holds floats."""
    for name, value in outputs.items():
        if value.dtype.is_floating_point:
            return name
    raise errors.UsageError("the network answers with no floating-point output, so there is nothing to train.")


def settle(network: torch.nn.Module, names: tuple[str, ...], inputs: tensor.Tensors) -> None:
    """Batch normalization of changed weights learns the mean and variance of what passes ("PreciseBN": Wu and Johnson,
    2021), in place; all else stays as it is. `inputs` are real rows, more than one.
    """
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms or rows(inputs) < 2:
        return
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None: the plain mean over the batches.
        norm.train().momentum = None
    try:
        with torch.no_grad():
            for batch in batches(inputs, names):
                if rows(batch) > 1:
                    call(network, names, batch)
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training).momentum = momentum


def rows(inputs: tensor.Tensors) -> int:
    """How many rows there are; `UsageError` where the inputs disagree."""
    counts = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"'{name}' {count}" for name, count in counts.items()) or "none"
        raise errors.UsageError(f"the inputs to learn from have different numbers of rows: {told}.")
    return next(iter(counts.values()))


def batches(inputs: tensor.Tensors, names: tuple[str, ...], size: int = ROWS) -> Iterator[tensor.Tensors]:
    """The rows in their order, at most `size` at a time."""
    for start in range(0, rows(inputs), size):
        yield {name: inputs[name][start : start + size] for name in names if name in inputs}
