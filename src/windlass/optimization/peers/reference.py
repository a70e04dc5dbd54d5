"""onnx's reference evaluator: each operator as its specification says, in numpy, without any fusion.

Loaded by `parity.py` through the catalogue. Must never be given a model that takes minutes: its pace says so.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import reference

from windlass.optimization import form as forms
from windlass.optimization.peers import base
from windlass.runtimes import onnx as served
from windlass.types import tensor


class Reference:
    """Runs ONNX forms whose weights are in the one file."""

    name: ClassVar[str] = "onnx reference"
    pace: ClassVar[float] = 100.0

    @classmethod
    def refusal(cls, form: forms.Form) -> str:
        """It knows the operators of the ONNX standard only."""
        if form.runtime != "onnx":
            return f"it does not run the format of '{form.runtime}'"
        if set(form.files) != {served.MODEL_FILE}:
            return "it does not read weights that lie beside the model"
        graph = onnx.ModelProto.FromString(form.files[served.MODEL_FILE]).graph
        foreign = sorted({node.op_type for node in graph.node if node.domain not in ("", "ai.onnx")})
        return f"it does not know {', '.join(foreign)}, which are no operators of the standard" if foreign else ""

    @classmethod
    def open(cls, form: forms.Form) -> base.Run:
        """The evaluator."""
        evaluator: Any = reference.ReferenceEvaluator(form.files[served.MODEL_FILE])

        def run(inputs: tensor.Tensors) -> tensor.Tensors:
            with np.errstate(all="ignore"):
                answers = evaluator.run(None, inputs)
            return dict(zip(evaluator.output_names, (np.asarray(one) for one in answers), strict=True))

        return run
