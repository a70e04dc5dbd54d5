"""How long a run takes here, at the batch sizes that matter: enough of them to say what the slowest hundredth is.

Used by `gate.py`. Must never state a p99 from too few runs.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import session
from windlass.types import tensor

# Ten of a thousand are slower than the p99: fewer would make it the luck of a few.
SAMPLES = 1000
LEAST = 200
_WARM = 20


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of one run (contract, model; no transport) with `rows` rows, over `samples` runs after warming."""

    rows: int
    samples: int
    p50_ms: float
    p99_ms: float


def measure(
    loaded: session.Session, inputs: tensor.Tensors, rows: int, *, clock: Callable[[], float], most_s: float = 10.0
) -> Latency:
    """One after another, as long as `most_s`; `GateRefused` if that is too short for a p99."""
    made = {name: np.resize(a, (rows, *a.shape[1:])) for name, a in inputs.items()}
    for _ in range(_WARM):
        loaded.run(made)
    taken: list[float] = []
    began = clock()
    while len(taken) < SAMPLES:
        start = clock()
        loaded.run(made)
        end = clock()
        taken.append(end - start)
        if end - began > most_s:
            break
    if len(taken) < LEAST:
        raise errors.GateRefused(
            f"in {most_s:g} s there were {len(taken)} runs with {rows} rows: a p99 needs {LEAST}.",
            hint="Give a smaller --batch, or leave out --max-latency-ms and measure with: windlass bench",
        )
    p50, p99 = np.quantile(taken, (0.5, 0.99)) * 1000
    return Latency(rows, len(taken), float(p50), float(p99))
