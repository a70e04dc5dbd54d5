"""Warm-up as measurement: how long a model's runs take, and from it the batch size, the threads and the placement.

Called by the loader on its own thread, before a model takes traffic. Must never guess what it can time.
"""

from __future__ import annotations

import statistics
import time

import msgspec
import numpy as np

from windlass.runtimes import base
from windlass.types import tensor

# A run shorter than this is cheaper on the event loop than a hand-off to a thread and back.
INLINE_BELOW_S = 300e-6
# More rows are worth it only while each doubling brings at least this much throughput.
_WORTH = 1.05
_BUDGET_S = 0.6
_USUAL_ROWS = 8


class Timing(msgspec.Struct, frozen=True):
    """Seconds of one run by rows; `best_rows` is where more rows no longer bring more throughput.

    `shapes` are those of the inputs that were run, without the batch.
    """

    seconds: dict[int, float]
    best_rows: int
    shapes: dict[str, tuple[int, ...]] = {}

    @property
    def usual_s(self) -> float:
        """The run at the usual batch, which decides the placement."""
        return self.seconds[min((n for n in self.seconds if n >= _USUAL_ROWS), default=max(self.seconds))]

    @property
    def rows_per_s(self) -> float:
        """Throughput at the best batch."""
        return self.best_rows / self.seconds[self.best_rows]


def repeat_rows(inputs: tensor.Tensors, rows: int) -> tensor.Tensors:
    """A batch of `rows` rows from a smaller or larger one, by repeating it."""
    return {name: np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:]))) for name, array in inputs.items()}


def timing(model: base.LoadedModel, inputs: tensor.Tensors, *, batched: bool, max_rows: int) -> Timing:
    """Run 1, 2, 4 ... rows, some times each after one run that warms up, until more rows stop paying."""
    seconds: dict[int, float] = {}
    best = 1
    rows = 1
    started = time.perf_counter()
    while rows <= max_rows:
        batch = repeat_rows(inputs, rows) if batched else inputs
        model.run(batch)
        seconds[rows] = _median(model, batch)
        if rows / seconds[rows] > _WORTH * best / seconds[best]:
            best = rows
        elif rows >= 4 * best and rows >= _USUAL_ROWS:
            break
        if not batched or time.perf_counter() - started > _BUDGET_S:
            break
        if rows < max_rows < 2 * rows:
            rows = max_rows
        else:
            rows *= 2
    return Timing(seconds, best, {name: array.shape[1:] for name, array in inputs.items()})


def _median(model: base.LoadedModel, batch: tensor.Tensors) -> float:
    times: list[float] = []
    begun = time.perf_counter()
    while not times or len(times) < _runs_in(time.perf_counter() - begun):
        started = time.perf_counter()
        model.run(batch)
        times.append(time.perf_counter() - started)
    return max(statistics.median(times), 1e-7)


def _runs_in(seconds: float) -> int:
    """How many runs a measurement that has taken so long may have: nine short ones, three longer, one slow one."""
    return 9 if seconds < 0.01 else 3 if seconds < _BUDGET_S else 1
