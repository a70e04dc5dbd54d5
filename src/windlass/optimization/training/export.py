"""A live network back to a form: exported as any captured module is, and tried against it.

Called by the techniques that train. Must never return a form whose inputs and outputs are not the parent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.packaging import draft, parity, session
from windlass.packaging.capture import base as capture
from windlass.packaging.capture import torch_module, torch_original
from windlass.runtimes import base as runtimes
from windlass.types import signature, tensor

# Rows of an example, and of the largest batch that is tried: the batch is free in the graph all the same.
_ROWS = 64
_MAX_BATCH = 32


def to_form(
    network: Any, parent: forms.Form, step: forms.Step, materials: base.Materials, *, notes: tuple[str, ...] = ()
) -> forms.Form:
    """The form of `network` (which stays as it is), with `step` after the parent's steps, the network beside the files.

    `CaptureFailed` or `GateRefused` where torch cannot export it, its answers differ from the network's own, or its
    signature is not `materials.signature`.
    """
    wanted = materials.signature
    rows = example(wanted, materials)
    keywords = torch_original.call_names(network, rows, ())
    drafted = torch_module.TorchModule.capture(
        network,
        capture.Options(
            example=rows,
            dynamic=dynamic(wanted),
            batched=wanted.batched,
            input_names=() if keywords is not None else tuple(rows),
            output_names=tuple(spec.name for spec in wanted.outputs),
            max_batch=_MAX_BATCH,
            seed=materials.seed,
        ),
    )
    _require_same(drafted.signature, wanted)
    _try(drafted)
    return msgspec.structs.replace(
        parent,
        files=dict(drafted.files),
        runtime=drafted.runtime,
        precision=drafted.precision,
        steps=(*parent.steps, step),
        network=network,
        left=(),
        notes=(*parent.notes, *notes),
    )


def example(wanted: signature.Signature, materials: base.Materials) -> tensor.Tensors:
    """Real rows by name in the signature's order."""
    batches = materials.calibration
    if not batches and materials.lesson is not None:
        batches = (materials.lesson.inputs,)
    if not batches:
        raise errors.UsageError("there are no rows to try the network on.", hint="Give calibration rows.")
    found = {}
    for spec in wanted.inputs:
        if spec.name not in batches[0]:
            raise errors.UsageError(f"the rows hold no '{spec.name}', which the model takes.")
        parts = [batch[spec.name] for batch in batches]
        # Batches of texts have each their own length.
        alike = wanted.batched and all(part.shape[1:] == parts[0].shape[1:] for part in parts)
        found[spec.name] = np.concatenate(parts)[:_ROWS] if alike else parts[0]
    least = min(len(array) for array in found.values()) if wanted.batched else 0
    return {name: array[:least] for name, array in found.items()} if wanted.batched else found


def dynamic(wanted: signature.Signature) -> dict[str, dict[int, str]]:
    """The free dimensions of the inputs, but for the batch."""
    found: dict[str, dict[int, str]] = {}
    for spec in wanted.inputs:
        axes = {axis: d for axis, d in enumerate(spec.shape) if isinstance(d, str) and d != signature.BATCH}
        if axes:
            found[spec.name] = axes
    return found


def _require_same(ours: signature.Signature, theirs: signature.Signature) -> None:
    for side, mine, wanted in (("input", ours.inputs, theirs.inputs), ("output", ours.outputs, theirs.outputs)):
        found, expected = _told(mine), _told(wanted)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise errors.CaptureFailed(
                    f"the network's {side} '{name}' is {found.get(name, 'absent')}: the package says "
                    f"{expected.get(name, 'there is none')}.",
                    hint="The network must take and give what the package does: is it the one that was packaged?",
                )


def _told(specs: Sequence[signature.TensorSpec]) -> dict[str, str]:
    """Each tensor's datatype and shape by its name, free sizes as `?`: their names are the exporter's own."""
    return {
        spec.name: f"{spec.datatype}[{', '.join('?' if isinstance(d, str) else str(d) for d in spec.shape)}]"
        for spec in specs
    }


def _try(drafted: draft.Draft) -> None:
    model = session.load_model(drafted.runtime, drafted.files, runtimes.Options())
    try:
        parity.check(model, drafted)
    finally:
        model.unload()
