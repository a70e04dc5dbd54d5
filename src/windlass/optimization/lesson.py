"""What training learns from: a person's rows to train on, their labels, and what teachers answer.

Called by `study` where a live network and rows are given. Must never let a row be learned from that stops the training
early, or that forms are judged on.
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
    judged: data.Split,
    seed: int,
) -> tuple[base.Lesson, tuple[str, ...]]:
    """The lesson of a data set, a tenth of its rows held out; and in sentences what was left out of it.

    Rows that are judged on are not learned from. `UsageError` if the rows do not fit the model, or are too few.
    """
    found = data.rows(parent, train, labels)
    kept = data.unseen(found, judged)
    if len(kept) < _LEAST_ROWS:
        raise errors.UsageError(f"{len(kept)} rows are too few to train on: at least {_LEAST_ROWS} are needed.")
    shared = found.rows - len(kept)
    notes = (f"{shared} rows to train on are judged on as well: they were not learned from.",) if shared else ()
    inputs = _whole(found.batches)
    truth = accuracy.truth(parent, found)
    if truth is not None and truth.dtype.kind == "f":
        truth = truth.astype(np.float32)
    answers = [_answers(teacher, found) for teacher in teachers]
    order = np.random.default_rng(seed).permutation(kept)
    held = order[: min(_MOST_HOLDOUT, max(1, int(_HOLDOUT * len(kept))))]
    learned = np.sort(order[len(held) :])
    held = np.sort(held)
    made = base.Lesson(
        inputs={name: value[learned] for name, value in inputs.items()},
        labels=None if truth is None else truth[learned],
        holdout_inputs={name: value[held] for name, value in inputs.items()},
        holdout_labels=None if truth is None else truth[held],
        teachers=tuple(answer[learned] for answer in answers),
    )
    return made, notes


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
