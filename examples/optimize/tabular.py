"""A wide table whose classes a small network cannot tell: a random network of three layers says them, with noise.

Used by `train.py` and by the benchmarks; needs numpy only. Must never depend on anything but its seed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

COLUMNS, CLASSES = 64, 8
_USED, _HIDDEN = 16, 12
_NOISE = 0.15


def make(rows: int, *, seed: int) -> tuple[Array, Array]:
    """Columns `[rows, 64]` (float32, of correlated normals) and their classes `[rows]` (int64)."""
    rule, random = np.random.default_rng(7), np.random.default_rng(seed)
    mixing = rule.normal(0, 1, (COLUMNS, COLUMNS)) / np.sqrt(COLUMNS)
    first = rule.normal(0, 1.5, (_USED, _HIDDEN)) / np.sqrt(_USED)
    second = rule.normal(0, 2.0, (_HIDDEN, CLASSES)) / np.sqrt(_HIDDEN)
    causes = random.normal(0, 1, (rows, COLUMNS))
    scores = np.tanh(2 * causes[:, :_USED] @ first) @ second
    scores += random.normal(0, _NOISE, scores.shape)
    columns = causes @ (np.eye(COLUMNS) + 0.3 * mixing)
    return columns.astype(np.float32), scores.argmax(axis=1).astype(np.int64)
