"""A live network back to a form: exported as any captured module is, and tried against it.

Called by the techniques that train. Must never return a form whose inputs and outputs are not the parent's.
"""

from __future__ import annotations

from typing import Any

from windlass.optimization import form as forms
from windlass.optimization.techniques import base


def to_form(
    network: Any, parent: forms.Form, step: forms.Step, materials: base.Materials, *, notes: tuple[str, ...] = ()
) -> forms.Form:
    """The form of `network` (copied), with `step` after the parent's steps and the network kept beside the files.

    `CaptureFailed` where torch cannot export it, its answers differ from the network's own, or its signature is not
    `materials.signature`.
    """
    raise NotImplementedError


def answers(network: Any, inputs: dict[str, Any], output: str = "") -> Any:
    """What a network (copied, eval mode) answers: float32 `[rows, ...]` of one output (`""`: the first of floats)."""
    raise NotImplementedError
