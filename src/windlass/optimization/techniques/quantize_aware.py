"""Static int8 whose rounding the network was trained to bear.

Driven by `search` through the catalogue. Must never change the network it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windlass.optimization import form as forms
from windlass.optimization.techniques import base


class QuantizationAware:
    """The plugin."""

    name: ClassVar[str] = "quantize_aware"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {"Conv": 4.0, "MatMul": 4.0, "Gemm": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:  # noqa: ARG003
        """What may be varied for this form."""
        raise NotImplementedError

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        raise NotImplementedError

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        raise NotImplementedError
