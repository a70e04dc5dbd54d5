"""Which shares a canary takes: from a budget of harmed requests, and the regression that is to be caught within it.

Called by the canary's strategy when it is planned. Must never simulate: expectations are computed, so that the same
question has the same answer.
"""

from __future__ import annotations

LADDER = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0)


def choose(budget: float, regression: float, alpha: float = 0.01) -> tuple[float, ...]:
    """The steps (percent): `LADDER` up to the largest share whose expected bad events until abort are <= `budget`.

    `regression` is the relative risk to be caught (above 1). Raises `UsageError` where no share keeps the budget.
    """
    raise NotImplementedError
