"""Whole distributions, compared by their histograms: bands that hold for all values and all times together.

Called by rollout/. Must never be given histograms with different bounds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def band(count: float, alpha: float) -> float:
    """How far an empirical distribution function of `count` values lies from the true one, at any time, anywhere.

    A time-uniform Dvoretzky-Kiefer-Wolfowitz bound: 0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n), Howard &
    Ramdas, Sequential estimation of quantiles, Bernoulli 2022, equation 9. 1.0 where that says nothing.
    """
    if count < 1:
        return 1.0
    return min(1.0, 0.85 * float(np.sqrt((np.log(np.log(np.e * count)) + 0.8 * np.log(1612.0 / alpha)) / count)))


def above(
    candidate: npt.ArrayLike, baseline: npt.ArrayLike, alpha: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lower and upper ends, by bound, of the part of candidate's values above it less the baseline's.

    Counts of histograms over the same bounds, the last counts above them all; of alpha, each arm spends a half.
    """
    shares = []
    width = 0.0
    for counts in (np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)):
        total = float(counts.sum())
        shares.append(1.0 - np.cumsum(counts)[:-1] / max(total, 1.0))
        width += band(total, alpha / 2.0)
    middle = shares[0] - shares[1]
    return np.maximum(middle - width, -1.0), np.minimum(middle + width, 1.0)
