"""Many questions at once: which of them may be said to be answered.

Called by rollout/. Must never be given e-values that were chosen because they are large.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def discoveries(log_e: npt.ArrayLike, alpha: float) -> tuple[int, ...]:
    """Which hypotheses to reject so that of those rejected a part of at most `alpha` is expected to be true.

    e-BH: the k largest e-values, for the largest k whose k-th is at least K / (alpha k); holds however the e-values
    depend on each other (Wang & Ramdas, False discovery rate control with e-values, JRSS-B 2022). Ascending indices.
    """
    values = np.atleast_1d(np.asarray(log_e, dtype=np.float64))
    if not values.size:
        return ()
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(1, values.size + 1)
    enough = np.flatnonzero(values[order] >= np.log(values.size) - np.log(alpha * ranks))
    return tuple(sorted(int(i) for i in order[: enough[-1] + 1])) if enough.size else ()
