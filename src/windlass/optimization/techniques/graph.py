"""The graph optimized once, offline: constants folded, operators fused, as onnxruntime does at each load.

Driven by `search` through the catalogue. What is served runs no faster for it, but starts faster, and may be smaller.
Must never write what holds on one kind of processor only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import graphs
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base


class GraphOptimization:
    """The plugin."""

    name: ClassVar[str] = "graph"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset(("size",))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """How far: `extended` fuses into operators of onnxruntime's own, `basic` keeps to ONNX's."""
        return (base.Dimension("level", ("extended", "basic")),)

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        if any(step.technique == cls.name for step in form.steps):
            return "the graph was optimized already."
        return graphs.refusal(form)

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        level = given.complete(cls, form, parameters)["level"]
        if why := cls.refusal(form, materials):
            raise errors.Unsupported(f"'{cls.name}' does not apply: {why}")
        model = graphs.optimized(graphs.read(form), level)
        made = graphs.made(form, model, forms.Step(cls.name, {"level": level}), expected=materials.signature)
        if made.digest == form.digest:
            raise errors.Unsupported(f"'{cls.name}' does not apply: there is nothing to fold or fuse.")
        return made
