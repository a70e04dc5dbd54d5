"""How long a rollout will take to a verdict, and what it will cost if the new version is bad.

Called when a rollout is planned, before anything moves. Must never promise: these are expectations, for the rates given.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from windlass.rollout import evidence


class Forecast(msgspec.Struct, frozen=True):
    """`promote_s`: seconds until a healthy version is promoted; `abort_s`: until one that is `regression` times worse
    is aborted, `harmed` requests later. None: not within `horizon_s`."""

    promote_s: float | None
    abort_s: float | None
    harmed: float
    words: str


def expect(
    guard: evidence.Guard,
    steps: Sequence[tuple[float, float]],
    *,
    rate: float,
    errors: float,
    regression: float = 3.0,
    horizon_s: float = 86_400.0,
) -> Forecast:
    """`steps`: share (percent) and least seconds of each, the last one lasting; `rate`: requests a second in all.

    `errors`: the baseline's rate of bad events, of 1. Nothing is expected of no traffic.
    """
    raise NotImplementedError
