"""Which output a list of labels belongs to, and what its numbers are: the `classify` transform for a captured model.

Called by the capture sources when labels are known. Must never decide silently: what was decided comes back as a note.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base
from windlass.types import signature, tensor


def transforms(
    options: base.Options, spec: signature.Signature, trials: Sequence[draft.Trial]
) -> tuple[tuple[draft.TransformDraft, ...], tuple[str, ...]]:
    """The user's transforms, and `classify` after them where labels were given without it; with notes."""
    if not options.labels or any(t.kind == "classify" for t in options.transforms):
        return options.transforms, ()
    made, note = classify(options.labels, spec, trials)
    return (*options.transforms, made), (note,)


def classify(
    labels: Sequence[str], spec: signature.Signature, trials: Sequence[draft.Trial]
) -> tuple[draft.TransformDraft, str]:
    """The transform for the one output with a score per label, and a sentence on what was decided.

    Scores that are at least 0 and sum to 1 in every trial are probabilities already; others are taken as logits.
    Two labels may also belong to an output of one column. `UsageError` if no output, or more than one, fits.
    """
    fitting = [o for o in spec.outputs if _fits(o, len(labels))]
    if len(fitting) != 1:
        shapes = ", ".join(f"'{o.name}' {list(o.shape)}" for o in spec.outputs)
        raise errors.UsageError(
            f"{len(labels)} labels were given: {len(fitting) or 'no'} output(s) of {shapes} have as many columns.",
            hint="Give as many labels as the model has classes, and one output of scores.",
        )
    output = fitting[0]
    scores = [trial.outputs[output.name] for trial in trials]
    activation = _activation(scores, one_column=len(output.shape) < 2 or output.shape[1] == 1)
    meaning = "probabilities" if activation == "none" else f"logits ({activation})"
    parameters = {"output": output.name, "activation": activation, "labels": list(labels)}
    return draft.TransformDraft("classify", parameters), f"output '{output.name}' is read as {meaning}."


def _fits(output: signature.TensorSpec, count: int) -> bool:
    if not output.datatype.startswith("FP"):
        return False
    if len(output.shape) == 2 and output.shape[1] == count:
        return True
    return count == 2 and (len(output.shape) == 1 or (len(output.shape) == 2 and output.shape[1] == 1))


def _activation(scores: Sequence[tensor.Array], *, one_column: bool) -> str:
    known = [s for s in scores if np.isfinite(s).all()]
    if one_column:
        return "none" if all(((s >= 0) & (s <= 1)).all() for s in known) else "sigmoid"
    whole = all((s >= 0).all() and np.allclose(s.sum(axis=-1), 1.0, atol=1e-3) for s in known)
    return "none" if whole else "softmax"
