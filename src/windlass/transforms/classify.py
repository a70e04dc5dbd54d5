"""Class scores to an answer that a person reads: the label, its score, and the best few.

Loaded through the catalogue, after the model. Must never change a score's meaning: the parameters say what the
model's numbers are, nothing is guessed from their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from windlass import errors
from windlass.transforms import parameters as params
from windlass.types import fields, tensor


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`output` is `[rows, classes]`, or `[rows]` / `[rows, 1]` for the second of two classes.

    `activation` turns it into scores. `labels` name the classes (absent: "0", "1", ...).
    """

    output: Annotated[str, msgspec.Meta(min_length=1)]
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    labels: tuple[str, ...] = ()
    top_k: Annotated[int, msgspec.Meta(ge=1)] = 5


class Classify:
    """Gives the columns `label` (object array of str), `score` (float64) and `scores` (object array of dict).

    `scores` maps the `top_k` best labels to their scores, best first; equal scores keep the order of the classes.
    """

    name: ClassVar[str] = "classify"
    stage: Literal["pre", "post"] = "post"
    reads: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    inline_bytes = 1 << 20

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Classify:
        """The transform; `InvalidInput` on wrong parameters or any file."""
        params.require_files(files, (), transform=cls.name)
        known = params.decode(Parameters, parameters, transform=cls.name)
        if len(set(known.labels)) != len(known.labels) or len(known.labels) == 1:
            raise errors.InvalidInput("transform 'classify' needs two labels or more, each once")
        return cls(known)

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """Columns with the scores replaced by `label`, `score` and `scores`."""
        known = self._parameters
        output = columns.get(known.output)
        if output is None or output.dtype.kind not in "fiu":
            raise errors.InvalidInput(f"classify needs the numeric output '{known.output}'")
        scores = _scores(output, known.activation)
        labels = known.labels or tuple(str(index) for index in range(scores.shape[1]))
        if scores.shape[1] != len(labels):
            raise errors.InvalidInput(f"output '{known.output}' has {scores.shape[1]} classes, {len(labels)} labels")
        # The model's own numbers decide, since two of them may round to one score.
        several = output.ndim == 2 and output.shape[1] > 1
        by = output.astype(np.float64) if several else scores
        best = np.argsort(-by, axis=1, kind="stable")[:, : known.top_k]
        rows = len(scores)
        label = np.empty(rows, object)
        ranked = np.empty(rows, object)
        for row, (order, values) in enumerate(zip(best.tolist(), scores.tolist(), strict=True)):
            label[row] = labels[order[0]]
            ranked[row] = {labels[index]: _shown(values[index]) for index in order}
        answer = {name: column for name, column in columns.items() if name != known.output}
        score = np.array([next(iter(row.values())) for row in ranked.tolist()], np.float64)
        return {**answer, "label": label, "score": score, "scores": ranked}


def _shown(score: float) -> float:
    """The seven digits that FP32 holds, without the noise that its widening adds."""
    return float(f"{score:.7g}")


def _scores(output: tensor.Array, activation: str) -> tensor.Array:
    """`[rows, classes]` float64 scores; one column becomes two, `[1 - p, p]`."""
    values = output.astype(np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        raise errors.InvalidInput(f"classify needs scores of shape [rows, classes], not {list(output.shape)}")
    if activation == "softmax":
        if values.shape[1] == 1:
            raise errors.InvalidInput("classify cannot take the softmax of one column: use activation 'sigmoid'")
        shifted = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
    if activation == "sigmoid":
        # Both branches of exp stay below one, so that nothing overflows.
        small = np.exp(-np.abs(values))
        values = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    if values.shape[1] == 1:
        return np.concatenate([1 - values, values], axis=1)
    return values
