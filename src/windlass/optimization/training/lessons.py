"""What every technique that trains needs before it begins: whether it can, and what the network is to learn.

Called by the techniques that train. Must never train.
"""

from __future__ import annotations

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization.techniques import base


def refusal(form: forms.Form, materials: base.Materials, *, network: bool = True) -> str:
    """Why nothing can be trained from this form, in a sentence; empty where it can. `network`: its own is needed."""
    if network and form.network is None:
        return "it trains, and there is no live network behind this form (--model module:factory)."
    if materials.lesson is None:
        return "it trains, and there are no rows to learn from (--train)."
    return ""


def names(materials: base.Materials) -> tuple[str, ...]:
    """The inputs in the signature's order."""
    return tuple(spec.name for spec in materials.signature.inputs)


def lesson(materials: base.Materials) -> base.Lesson:
    """The lesson; `UsageError` where there is none."""
    if materials.lesson is None:
        raise errors.UsageError("there are no rows to learn from.", hint="Give them with --train.")
    return materials.lesson
