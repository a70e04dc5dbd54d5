"""Whether an exported model computes what its original framework computed: every trial of the draft, run again.

Called by `package.py` before the build, with the model loaded by the runtime as serving loads it, so at production's
optimization level. Must never widen a tolerance or leave a trial out to get a pass.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from windlass import errors
from windlass.packaging import draft, golden, verdicts
from windlass.runtimes import base
from windlass.types import contract, manifest, tensor

# Trees are compared on this many rows at least: a threshold that was rounded flips few of them.
LEAST_TREE_ROWS = 1000
_SHOWN = 4


def check(model: base.LoadedModel, tried: draft.Draft) -> dict[str, Any]:
    """The statistics of trials that all agree; `GateRefused` with the worst input, both outputs and the tolerance.

    They agree where |ours - theirs| <= rtol * |theirs| + atol * max|theirs| per output, the maximum being that of the
    trial or of the middle one of all trials, whichever is larger: one saturated row has no scale of its own. Integers,
    booleans and text must be equal, NaN and infinities in the same places.
    """
    if not tried.trials:
        raise errors.GateRefused("the capture recorded no trials, so nothing shows that the package computes the same.")
    rows = sum(_rows(trial.inputs, tried) for trial in tried.trials)
    if tried.trees and rows < LEAST_TREE_ROWS:
        raise errors.GateRefused(
            f"{rows} rows were tried: trees are compared on {LEAST_TREE_ROWS} at least, with rows near the splits."
        )
    limits = manifest.Limits(max_batch=tried.max_batch)
    accepts = contract.Contract(tried.signature, max_rows=limits.max_batch, max_elements=limits.max_elements)
    differences: dict[str, dict[str, float]] = {}
    scores, scale = _scores(tried), golden.usual_scale([trial.outputs for trial in tried.trials])
    agreed = decided = 0
    for trial in tried.trials:
        try:
            # What serving would refuse proves nothing.
            accepts.check(trial.inputs)
            outputs = model.run(trial.inputs, accepts.output_names)
        except errors.WindlassError as e:
            raise errors.GateRefused(f"parity: the package fails on '{trial.name}': {e.message}", hint=e.hint) from None
        worst = golden.worst(outputs, trial.outputs, tried.rtol, tried.atol, scale)
        if not worst.excess <= 1:
            raise _refused(trial, outputs, worst, tried)
        for name, theirs in trial.outputs.items():
            if name == scores and theirs.ndim == 2:
                decided += len(theirs)
                agreed += int(np.count_nonzero(outputs[name].argmax(axis=1) == theirs.argmax(axis=1)))
            _widen(differences.setdefault(name, {"absolute": 0.0, "relative": 0.0}), outputs[name], theirs)
    found = {
        "rows": rows,
        "trials": [trial.name for trial in tried.trials],
        "batch_sizes": sorted({_rows(trial.inputs, tried) for trial in tried.trials}),
        "worst_difference": differences,
        "rtol": tried.rtol,
        "atol": tried.atol,
        "synthetic": tried.synthetic,
        "framework": tried.framework,
        "isa": verdicts.isa(),
        "versions": {name: importlib.metadata.version(name) for name in ("windlass", "numpy", "onnxruntime")},
    }
    return {**found, "same_label": agreed / decided} if decided else found


def _scores(tried: draft.Draft) -> str:
    """The output whose highest score is the label that people read; empty if there is none."""
    return next((str(t.parameters.get("output", "")) for t in tried.transforms if t.kind == "classify"), "")


def _rows(inputs: tensor.Tensors, tried: draft.Draft) -> int:
    return len(next(iter(inputs.values()))) if tried.signature.batched else 1


def _widen(seen: dict[str, float], ours: tensor.Array, theirs: tensor.Array) -> None:
    """Keep the largest absolute difference, and the largest as a share of the output's largest magnitude."""
    if theirs.dtype.kind != "f":
        return
    finite = np.isfinite(theirs)
    if not finite.any():
        return
    apart = float(np.abs(ours[finite].astype(np.float64) - theirs[finite].astype(np.float64)).max())
    largest = float(np.abs(theirs[finite]).max())
    seen["absolute"] = max(seen["absolute"], apart)
    seen["relative"] = max(seen["relative"], apart / largest if largest else 0.0)


def _refused(
    trial: draft.Trial, outputs: tensor.Tensors, worst: golden.Difference, tried: draft.Draft
) -> errors.GateRefused:
    name = worst.output
    theirs, ours = trial.outputs[name], outputs.get(name)
    row = _worst_row(ours, theirs) if tried.signature.batched else None
    given = ", ".join(f"'{n}' {_summary(a if row is None else a[row])}" for n, a in trial.inputs.items())
    place = f"row {row} of '{trial.name}'" if row is not None else f"'{trial.name}'"
    got = "nothing" if ours is None else _summary(ours if row is None or ours.shape != theirs.shape else ours[row])
    return errors.GateRefused(
        f"parity: output '{name}' {worst.detail}. The worst input is {place}: {given}. "
        f"{tried.framework} gives {_summary(theirs if row is None else theirs[row])}, the package gives {got}. "
        f"The tolerance is {tried.rtol:g} relative + {tried.atol:g} of the output's largest.",
        hint="Nothing was packaged. Look for an operator that the export writes differently, or for inputs far outside "
        "what the model was trained on.",
    )


def _worst_row(ours: tensor.Array | None, theirs: tensor.Array) -> int:
    if ours is None or ours.shape != theirs.shape or not len(theirs):
        return 0
    if theirs.dtype.kind != "f":
        apart = (ours != theirs).astype(np.float64)
    else:
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        apart = np.where(np.isnan(ours) & np.isnan(theirs), 0.0, np.nan_to_num(apart, nan=np.inf))
    return int(apart.reshape(len(theirs), -1).max(axis=1).argmax())


def _summary(value: Any) -> str:
    """The shape, the first values, and the range of an array."""
    array = np.asarray(value)
    first = ", ".join(_shown(item) for item in array.ravel()[:_SHOWN])
    more = ", ..." if array.size > _SHOWN else ""
    span = ""
    if array.size > _SHOWN and array.dtype.kind in "fiu":
        span = f" (from {_shown(array.min())} to {_shown(array.max())})"
    return f"{list(array.shape)} [{first}{more}]{span}"


def _shown(item: Any) -> str:
    return f"{item:.7g}" if isinstance(item, (float, np.floating)) else str(item)[:40]
