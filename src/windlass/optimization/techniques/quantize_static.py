"""Static int8: weights and activations as integers, with scales from calibration rows.

Driven by `search` through the catalogue. Unsigned activations with signed weights are the default: what x86 processors
multiply fastest. Must never run on rows that are not for calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windlass import errors
from windlass.optimization import calibration, graphs, pairs
from windlass.optimization import form as forms
from windlass.optimization import parameters as given
from windlass.optimization.techniques import base


class StaticQuantization:
    """The plugin."""

    name: ClassVar[str] = "quantize_static"
    trains: ClassVar[bool] = False
    gains: ClassVar[Mapping[str, float]] = {"Conv": 4.0, "MatMul": 4.0, "Gemm": 4.0, "FusedConv": 4.0}
    aims: ClassVar[frozenset[str]] = frozenset(("latency", "size", "memory"))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """Number types, what shares a scale, how ranges are found, and nodes to leave out (`exclude`).

        `reduce_range` keeps weights to 7 bits, which processors without VNNI need to be exact.
        """
        return (
            base.Dimension("activations", ("QUInt8", "QInt8")),
            base.Dimension("weights", ("QInt8", "QUInt8")),
            base.Dimension("per_channel", (True, False)),
            base.Dimension("calibrate", calibration.METHODS),
            base.Dimension("reduce_range", (False, True)),
            base.Dimension(given.EXCLUDE, ()),
        )

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply to this form; empty where it does."""
        why = pairs.unfit(form, pairs.PRODUCTS)
        if not why and not materials.calibration:
            why = "it needs rows to calibrate on."
        return why

    @classmethod
    def nodes(cls, form: forms.Form) -> tuple[str, ...]:
        """The nodes that it would quantize, in the order of the graph: what `exclude` may name."""
        return pairs.plan(graphs.prepared(form)).nodes

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes, with the step appended."""
        chosen = given.complete(cls, form, parameters)
        if (chosen["activations"], chosen["weights"]) == ("QInt8", "QUInt8"):
            raise errors.UsageError("onnxruntime has no products of signed activations with unsigned weights.")
        if why := cls.refusal(form, materials):
            raise errors.Unsupported(f"'{cls.name}' does not apply: {why}")
        model = graphs.prepared(form)
        whole = pairs.plan(model)
        exclude = given.excluded(chosen, whole.nodes)
        pairs.require(whole.nodes, exclude, cls.name)
        # All that any choice of nodes may need, measured once.
        ranges = calibration.ranges(model, whole.ranges, materials.calibration, chosen["calibrate"], key=form.digest)
        plan = pairs.plan(model, exclude)
        settings = pairs.Settings(
            activations=chosen["activations"],
            weights=chosen["weights"],
            per_channel=chosen["per_channel"],
            reduced=chosen["reduce_range"],
        )
        made = pairs.quantize(model, plan, ranges, settings)
        step = forms.Step(cls.name, chosen)
        notes = () if exclude else (_told(graphs.health(made)),)
        return graphs.made(
            form, made, step, expected=materials.signature, precision="int8", left=plan.left, notes=notes
        )


def _told(health: graphs.Health) -> str:
    told = f"{health.integer} operators run on integers"
    return f"{told}; {health.standalone} pairs quantize for nothing." if health.standalone else f"{told}."
