"""How much worse a form answers the same rows than the original: a value, and bounds that hold for so many rows.

Called by `study.py` for each candidate, and once more to confirm the chosen one. Must never take a drop for nothing
because no row showed it: rows that are all answered alike still leave room for what they did not show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from windlass.optimization import data, findings
from windlass.packaging import metrics, session
from windlass.types import tensor

Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]
ALPHA = 0.05


class Judge:
    """Compares forms with the original on the same rows; the original is asked once.

    `metric` is a name of `packaging.metrics`, or without labels `agreement` (classes), `r2` (values) or `cosine`
    (vectors), each of the form's answers against the original's; by default what fits the model and the labels.
    `higher` is whether more of it is better; `truth` holds class numbers (int64), values (float64), or is None.
    """

    metric: str
    higher: bool
    labelled: bool
    baseline: metrics.Score
    truth: tensor.Array | None
    answers: tuple[tensor.Tensors, ...]

    def __init__(
        self,
        parent: session.Session,
        rows: data.Rows,
        metric: str | None = None,
        *,
        seed: int = 0,
        slices: tuple[str, ...] = (),
    ) -> None:
        raise NotImplementedError

    def judge(self, run: Run, *, level: float = 1 - ALPHA) -> findings.Judged:
        """What is found of a form that `run` runs (the parent's inputs to its outputs), one batch at a time.

        `level` (0.95 at least) is of each one-sided bound. Whatever `run` raises is passed on.
        """
        raise NotImplementedError

    def likeness(self, run: Run, *, batches: int = 1) -> findings.Likeness:
        """The answers to the first batches alone, for a quick look."""
        raise NotImplementedError

    def attack(self, *, size: float = 0.02) -> None:
        """Judge on adversarial rows too: noise of at most `size` of an input's range, chosen against the original."""
        raise NotImplementedError

    def rows_needed(self, most: float, *, level: float = 1 - ALPHA, judged: findings.Judged | None = None) -> int:
        """How many rows would show that a drop such as the one judged keeps `most` (metric's unit).

        Without `judged`: if not one row were answered worse. 0 if no number would.
        """
        raise NotImplementedError

    def require(self, most: float, *, level: float = 1 - ALPHA) -> None:
        """`UsageError` with the number of rows needed, if so few could not show that a drop keeps `most`."""
        raise NotImplementedError


def accepts(judged: findings.Judged, most: float) -> bool:
    """Whether the upper bound of the drop keeps `most` (metric's unit)."""
    return judged.drop.high <= most


def level(attempt: int) -> float:
    """The level for the n-th (1, 2, ...) form to be confirmed on the same rows; all together spend `ALPHA`."""
    return 1 - ALPHA * 0.8 * 0.2 ** (attempt - 1)
