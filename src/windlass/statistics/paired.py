"""How much worse one thing does than another on the same rows: a bound from weights, that allows for what was not seen.

Called by packaging/metrics.py. Must never give a bound of nothing because the rows at hand showed nothing.

The Bayesian bootstrap (Rubin, The Bayesian bootstrap, 1981) weighs rows by independent gammas. Here one that counts
against the candidate is weighed in beside them, which for a share that was lost gives Clopper & Pearson's exact upper
limit (1934), and for lost less won the melded limit of two exact ones (Fay, Proschan & Brittain, Combining one-sample
confidence procedures for inference in the two-sample case, Biometrics 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
LEAST_DRAWS = 2000
_MOST_DRAWS = 20_000
# Draws beyond the quantile, so that it is no matter of few of them.
_BEYOND = 50
_AT_ONCE = 1 << 20


def upper(
    worse: Callable[[Numbers], Numbers], counts: npt.ArrayLike, extra: npt.ArrayLike, *, level: float, seed: int
) -> float:
    """The one-sided upper bound, at `level`, of how much worse it is.

    `worse` takes weights `[draws, kinds]` (each at least 0, in no unit) and gives `[draws]`. `counts` are the rows of
    each kind, `[kinds]`, `extra` what is weighed in beside them: kinds of 0 rows are allowed there.
    """
    shapes = np.asarray(counts, np.float64) + np.asarray(extra, np.float64)
    needed = max(LEAST_DRAWS, math.ceil(_BEYOND / (1 - level)))
    draws = min(max(needed, _AT_ONCE // len(shapes)), max(needed, _MOST_DRAWS))
    at_once = max(1, min(draws, _AT_ONCE // len(shapes)))
    random = np.random.default_rng(seed)
    found = [worse(random.standard_gamma(shapes, size=(at_once, len(shapes)))) for _ in range(0, draws, at_once)]
    return float(np.nanquantile(np.concatenate(found), level))
