"""A study: from a version and a budget to the best form that was measured and proven, or to leaving it alone.

Run by `windlass optimize` and `windlass.optimize`. Must never choose a form that is slower, out of budget or not
confirmed on rows that no choice has seen, nor register anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from windlass.optimization import budget, findings, recipe
from windlass.optimization import form as forms
from windlass.packaging import archive, dataset


class Job(msgspec.Struct, frozen=True):
    """What a study is asked.

    `labels` names the column of labels; without `data` the study is label-free on the package's own rows. `techniques`
    are names (empty: all that apply). `trials` above 0 asks for the search by optuna, else it is greedy. `batches` are
    the rows of one run that are measured, the first is the one that budgets are about. `network` is the live torch
    module behind the package, `student` makes an untrained one, `teachers` answer the rows of `train`. `kept` is the
    folder of the journal (None: nothing is kept).
    """

    parent: archive.Package
    reference: str
    budget: budget.Budget = budget.Budget()
    data: dataset.Dataset | None = None
    labels: str | None = None
    metric: str | None = None
    slices: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    seconds: float = 600.0
    trials: int = 0
    seed: int = 0
    batches: tuple[int, ...] = (1,)
    threads: int = 1
    network: Any = None
    student: Callable[[], Any] | None = None
    teachers: tuple[archive.Package, ...] = ()
    train: dataset.Dataset | None = None
    replay: recipe.Recipe | None = None
    kept: Path | None = None


class Result(msgspec.Struct, frozen=True):
    """The report, the chosen form (None: keep the version as it is) and the rows that confirmed it."""

    report: findings.Report
    form: forms.Form | None
    confirmed_on: Any = None


def run(
    job: Job,
    *,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """The whole study. `UsageError` if the data do not fit or are too few, `GateRefused` if the version does not load.

    A budget that nothing meets is no error here: the report's verdict is `missed`.
    """
    raise NotImplementedError
