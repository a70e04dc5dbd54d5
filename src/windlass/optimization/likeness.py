"""How like a form's answers are to the original's, without labels: agreement, signal to noise, cosine, worst error.

Called by `accuracy.py` and `sensitivity.py`. Must never pass over an answer that is not finite where the original's is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from windlass import errors
from windlass.optimization import findings
from windlass.types import tensor

# Decibels of answers that are equal, or nearly: JSON has no infinity.
MOST_DB = 150.0


def compare(pairs: Iterable[tuple[tensor.Tensors, tensor.Tensors]], classes: str = "") -> findings.Likeness:
    """Over batches of (the form's answers, the original's); of several outputs the least like says.

    `classes` names the output `[rows, classes]` whose highest score is the answer; empty: the answers are no classes,
    except for text, integers and booleans, which agree or not. `GateRefused` if an answer is not finite where the
    original's is.
    """
    sums: dict[str, _Sums] = {}
    rows = decided = agreed = 0
    for ours, theirs in pairs:
        rows += len(next(iter(theirs.values())))
        for name, original in theirs.items():
            found = ours[name]
            if found.shape != original.shape:
                raise errors.GateRefused(f"the output '{name}' is {list(found.shape)}, not {list(original.shape)}.")
            if name == classes:
                decided += len(original)
                agreed += int((found.argmax(axis=1) == original.argmax(axis=1)).sum())
            if original.dtype.kind == "f":
                sums.setdefault(name, _Sums()).add(name, found, original)
            elif not classes:
                decided += len(original)
                agreed += int((found == original).reshape(len(original), -1).all(axis=1).sum())
    agreement = agreed / decided if decided else None
    if not sums:
        equal = agreement == 1.0
        return findings.Likeness(rows, agreement, MOST_DB if equal else 0.0, agreement or 0.0, 0.0 if equal else 1.0)
    least = sums.values()
    return findings.Likeness(
        rows,
        agreement,
        min(one.decibels() for one in least),
        min(one.cosine / one.rows for one in least),
        max(one.worst / one.largest if one.largest else float(one.worst > 0) for one in least),
    )


def cosines(ours: tensor.Array, theirs: tensor.Array) -> tensor.Array:
    """Cosine similarity of each row, `[rows]`; rows that are both nothing are the same."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(lengths > 0, (a * b).sum(axis=1) / lengths, (a == b).all(axis=1))
    return np.asarray(np.clip(found, -1.0, 1.0))


class _Sums:
    """What adds up over the batches of one output."""

    def __init__(self) -> None:
        self.signal = self.noise = self.cosine = self.worst = self.largest = 0.0
        self.rows = 0

    def add(self, name: str, ours: tensor.Array, theirs: tensor.Array) -> None:
        finite = np.isfinite(theirs)
        if not np.isfinite(ours[finite]).all():
            raise errors.GateRefused(f"the output '{name}' is not finite where the original's is.")
        a, b = (np.where(finite, values, 0).astype(np.float64) for values in (ours, theirs))
        error = np.abs(a - b)
        self.signal += float((b**2).sum())
        self.noise += float((error**2).sum())
        self.cosine += float(cosines(a, b).sum())
        self.rows += len(b)
        self.worst = max(self.worst, float(error.max(initial=0.0)))
        self.largest = max(self.largest, float(np.abs(b).max(initial=0.0)))

    def decibels(self) -> float:
        if self.noise <= self.signal * 10 ** (-MOST_DB / 10):
            return MOST_DB
        return max(-MOST_DB, 10 * float(np.log10(self.signal / self.noise))) if self.signal else -MOST_DB
