"""OpenVINO on the CPU, where it is installed: the runtime of many edge devices.

Loaded by `parity.py` through the catalogue. Must never let it report to its makers, which importing it does unless its
reporter is missing.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np

from windlass.optimization import form as forms
from windlass.optimization.peers import base
from windlass.runtimes import onnx as served
from windlass.types import tensor

# A module that is None cannot be imported: openvino then takes the stub that it has for this.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino  # type: ignore[import-not-found]  # noqa: E402

# As the model is written: no bfloat16 and no quantization of its own.
_AS_WRITTEN = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_NUM_THREADS": 1}


class OpenVino:
    """Runs ONNX forms whose weights are in the one file."""

    name: ClassVar[str] = "openvino"
    pace: ClassVar[float] = 20.0

    @classmethod
    def refusal(cls, form: forms.Form) -> str:
        """It reads ONNX files."""
        if form.runtime != "onnx":
            return f"it does not run the format of '{form.runtime}'"
        return "" if set(form.files) == {served.MODEL_FILE} else "it does not read weights that lie beside the model"

    @classmethod
    def open(cls, form: forms.Form) -> base.Run:
        """The compiled model."""
        core: Any = openvino.Core()
        compiled = core.compile_model(core.read_model(form.files[served.MODEL_FILE]), "CPU", _AS_WRITTEN)

        def run(inputs: tensor.Tensors) -> tensor.Tensors:
            answers = compiled({each.any_name: inputs[each.any_name] for each in compiled.inputs})
            return {each.any_name: np.array(answers[each]) for each in compiled.outputs}

        return run
