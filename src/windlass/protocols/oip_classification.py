"""The classification extension: a tensor of scores as its highest classes, `value:index[:label]`.

Called by the encoders of the Open Inference Protocol. Must never sort more than one row at a time with another's.
"""

from __future__ import annotations

import numpy as np

from windlass import errors
from windlass.types import tensor


def top_classes(scores: tensor.Array, k: int, labels: tuple[str, ...], name: str, *, batched: bool) -> tensor.Array:
    """BYTES [rows, k] (or [k] for a model that does not batch), highest first; k is at most the number of classes.

    Equal scores keep their order, NaN comes last. `InvalidInput` if the output does not hold numbers.
    """
    if scores.dtype.kind not in "fiub":
        raise errors.InvalidInput(f"the output '{name}' holds no numbers: it cannot be asked for as classes")
    rows = scores.reshape(scores.shape[0] if batched else 1, -1)
    k = min(k, rows.shape[1])
    result = np.empty((rows.shape[0], k), dtype=object)
    for row, values in enumerate(rows):
        # Negated as float64, so that ties keep their order and unsigned numbers do not wrap.
        order = np.argsort(-values.astype(np.float64), kind="stable")[:k]
        for place, index in enumerate(order.tolist()):
            text = f"{values[index]!s}:{index}"
            if index < len(labels):
                text = f"{text}:{labels[index]}"
            result[row, place] = text.encode()
    return result if batched else result[0]
