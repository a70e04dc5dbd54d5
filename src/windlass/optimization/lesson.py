"""What training learns from: a person's rows to train on, their labels, and what teachers answer.

Called by `study` where a live network and rows are given. Must never let a row be learned from and stop the training
early as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windlass import errors
from windlass.optimization import accuracy, data
from windlass.optimization.techniques import base
from windlass.packaging import archive, dataset, session
from windlass.types import tensor

_HOLDOUT = 0.1
_MOST_HOLDOUT = 2048
_LEAST_ROWS = 32


def of(
    parent: session.Session,
    train: dataset.Dataset,
    labels: str | None,
    teachers: Sequence[archive.Package],
    *,
    seed: int,
) -> base.Lesson:
    """The lesson of a data set; a tenth of its rows are held out. `UsageError` if the rows do not fit the model."""
    found = data.rows(parent, train, labels)
    if found.rows < _LEAST_ROWS:
        raise errors.UsageError(f"{found.rows} rows are too few to train on: at least {_LEAST_ROWS} are needed.")
    inputs = _whole(found.batches)
    truth = accuracy.truth(parent, found)
    if truth is not None and truth.dtype.kind == "f":
        truth = truth.astype(np.float32)
    answers = [_answers(teacher, found) for teacher in teachers]
    order = np.random.default_rng(seed).permutation(found.rows)
    held = order[: min(_MOST_HOLDOUT, max(1, int(_HOLDOUT * found.rows)))]
    learned = np.sort(order[len(held) :])
    held = np.sort(held)
    return base.Lesson(
        inputs={name: value[learned] for name, value in inputs.items()},
        labels=None if truth is None else truth[learned],
        holdout_inputs={name: value[held] for name, value in inputs.items()},
        holdout_labels=None if truth is None else truth[held],
        teachers=tuple(answer[learned] for answer in answers),
    )


def _whole(batches: Sequence[tensor.Tensors]) -> tensor.Tensors:
    try:
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    except ValueError:
        raise errors.UsageError("rows of different sizes cannot be trained on together.") from None


def _answers(teacher: archive.Package, rows: data.Rows) -> tensor.Array:
    """A teacher's scores for the rows, float32 `[rows, ...]`; it must take what the model takes."""
    opened = session.open(teacher)
    try:
        parts = []
        for batch in rows.batches:
            answered = opened.run(batch)
            scores = next((value for value in answered.values() if value.dtype.kind == "f" and value.ndim > 1), None)
            if scores is None:
                raise errors.UsageError(
                    f"the teacher '{teacher.manifest.name}' gives no scores to learn from.",
                    hint="A teacher answers with one number for each class, or with values.",
                )
            parts.append(scores.astype(np.float32))
        return np.concatenate(parts)
    finally:
        opened.close()
