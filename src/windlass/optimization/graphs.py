"""ONNX graphs as techniques need them: read from a form, prepared for quantization, and made into a form again.

Called by the techniques that work on the graph. Must never run a model, nor change the form it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import onnx

from windlass.optimization import form as forms
from windlass.types import signature


class Health(msgspec.Struct, frozen=True):
    """Quantized pairs that do nothing: `standalone` QuantizeLinear nodes that feed no quantized operator."""

    quantized: int
    standalone: int


def read(form: forms.Form) -> onnx.ModelProto:
    """The graph of an ONNX form with its weights inside; the caller may change it.

    `Unsupported` if the form is no ONNX, or does not fit into one protobuf message (2 GB).
    """
    raise NotImplementedError


def prepared(form: forms.Form) -> onnx.ModelProto:
    """The graph ready to be quantized: shapes inferred, constants and batch normalization folded, every node named.

    The same names each time; what it computes is the same within float rounding. The caller may change it.
    """
    raise NotImplementedError


def made(
    form: forms.Form,
    model: onnx.ModelProto,
    step: forms.Step,
    *,
    expected: signature.Signature,
    precision: str | None = None,
    left: Sequence[forms.Left] = (),
    notes: Sequence[str] = (),
) -> forms.Form:
    """The form after one more step: files in the one spelling of a package, checked by a package's rules.

    `Unsupported` if it breaks one (a size burned in, another signature).
    """
    raise NotImplementedError


def weights(model: onnx.ModelProto) -> Mapping[str, onnx.TensorProto]:
    """The graph's constants by name."""
    raise NotImplementedError


def health(model: onnx.ModelProto) -> Health:
    """How many operators run on integers and how many quantized pairs were left standing alone."""
    raise NotImplementedError


def refusal(form: forms.Form) -> str:
    """Why a technique that works on ONNX graphs cannot work on this form; empty where it can. Reads no weights."""
    raise NotImplementedError


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    raise NotImplementedError
