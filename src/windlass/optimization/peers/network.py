"""The live torch network behind a form, asked as its author would: eagerly, in eval mode.

Loaded by `parity.py` through the catalogue. Must never change the network.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx

from windlass.optimization import form as forms
from windlass.optimization.peers import base
from windlass.packaging.capture import torch_original
from windlass.runtimes import onnx as served
from windlass.types import tensor


class Network:
    """Runs forms that have a network of the same precision."""

    name: ClassVar[str] = "torch"
    pace: ClassVar[float] = 20.0

    @classmethod
    def refusal(cls, form: forms.Form) -> str:
        """A network of floats is no peer of a graph of integers."""
        if form.network is None:
            return "there is no live network behind it (give it with --model)"
        if form.precision != "fp32":
            return f"the network is in fp32, this form in {form.precision}"
        return "" if form.runtime == "onnx" else f"it does not know the inputs of a form of '{form.runtime}'"

    @classmethod
    def open(cls, form: forms.Form) -> base.Run:
        """A copy of the network, whose outputs bear the graph's names in their order."""
        graph = onnx.ModelProto.FromString(form.files[served.MODEL_FILE]).graph
        weights = {each.name for each in graph.initializer}
        inputs = tuple(each.name for each in graph.input if each.name not in weights)
        return cls.named(form.network, inputs, tuple(each.name for each in graph.output))

    @classmethod
    def named(cls, network: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> base.Run:
        """A copy of a network, whose inputs and outputs bear these names in their order."""
        ready, _ = torch_original.ready(network)

        def run(given: tensor.Tensors) -> tensor.Tensors:
            ordered = {name: given[name] for name in inputs}
            keywords = torch_original.call_names(ready, ordered, ())
            answers = torch_original.Original(ready, inputs, keywords).run(ordered)
            return dict(zip(outputs, answers.values(), strict=True))

        return run
