"""16-bit weights: half the size; inputs, outputs and what is computed stay 32-bit floats.

Driven by `search` through the catalogue. x86 processors compute few operators on 16-bit floats, and onnxruntime would
cast around each: so only what is stored is cut, and made whole again once, when the model is loaded. Must never be
taken for a way to be quicker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import graphs
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base
from windlass.types import tensor

# Smaller constants are scales, shapes and biases: nothing is gained with them.
_LEAST = 256
_HALF_MAX = float(np.finfo(np.float16).max)
_KINDS = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


class Half:
    """The plugin."""

    name: ClassVar[str] = "half"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset(("size",))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """IEEE's 16 bits (11 of them precision) or bfloat16's (8, with the range of 32 bits)."""
        return (base.Dimension("kind", tuple(_KINDS)),)

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        if why := graphs.refusal(form):
            return why
        if not any(_worth(constant) for constant in graphs.constants(form)):
            return f"the graph has no 32-bit constant of {_LEAST} numbers or more."
        return ""

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        kind = given.complete(cls, form, parameters)["kind"]
        if why := cls.refusal(form, materials):
            raise errors.Unsupported(f"'{cls.name}' does not apply: {why}")
        model = graphs.read(form)
        writer = graphs.Writer(model)
        left, casts = [], []
        for constant in list(model.graph.initializer):
            if not _worth(constant):
                continue
            real = onnx.numpy_helper.to_array(constant)
            if kind == "float16" and float(np.abs(real).max(initial=0.0)) > _HALF_MAX:
                left.append(forms.Left(constant.name, "constant", f"it has numbers beyond {_HALF_MAX:.0f}."))
                continue
            stored = writer.name(f"{constant.name}/{kind}")
            casts.append(
                writer.node("Cast", [stored], constant.name, f"{constant.name}/cast", to=onnx.TensorProto.FLOAT)
            )
            constant.CopyFrom(_cut(real, kind, stored))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        step = forms.Step(cls.name, {"kind": kind})
        precision = "fp16" if kind == "float16" else "bf16"
        return graphs.made(form, model, step, expected=materials.signature, precision=precision, left=left)


def _worth(constant: onnx.TensorProto) -> bool:
    return constant.data_type == onnx.TensorProto.FLOAT and int(np.prod(constant.dims)) >= _LEAST


def _cut(real: tensor.Array, kind: str, name: str) -> onnx.TensorProto:
    if kind == "float16":
        return onnx.numpy_helper.from_array(real.astype(np.float16), name)
    # The upper half of the 32 bits, rounded to the nearest, ties to even; what is no number stays none.
    bits = np.ascontiguousarray(real, np.float32).view(np.uint32).astype(np.uint64)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return onnx.helper.make_tensor(name, _KINDS[kind], real.shape, upper.astype("<u2").tobytes(), raw=True)
