"""A person's rows in three parts that share none: to calibrate on, to compare candidates on, to confirm one on.

Called by `study.py` before anything is tried. Must never let copies of one row fall into two parts, nor guess a value
that is not there.
"""

from __future__ import annotations

import msgspec

from windlass.packaging import dataset, session
from windlass.types import fields, tensor

# Ranges settle with far fewer rows than accuracy.
MOST_CALIBRATION = 512


class Rows(msgspec.Struct, frozen=True):
    """Rows as the model takes them, in `batches`; `truth` and `columns` (of slices) hold theirs in the same order.

    `truth` are labels as the data set has them, `[rows]`, or None. `digest` is `sha256:<hex>` over which rows of which
    data set they are. `synthetic`: nobody sent them.
    """

    batches: tuple[tensor.Tensors, ...]
    truth: tensor.Array | None
    columns: fields.Columns
    digest: str
    rows: int
    synthetic: bool = False


class Split(msgspec.Struct, frozen=True):
    """Disjoint parts. Candidates are compared on `search`; the chosen one is confirmed once on `final`.

    `notes` say in sentences what a reader of the report should know of them.
    """

    calibration: Rows
    search: Rows
    final: Rows
    seed: int
    notes: tuple[str, ...] = ()


def split(
    parent: session.Session,
    data: dataset.Dataset,
    labels: str | None = None,
    *,
    slices: tuple[str, ...] = (),
    seed: int = 0,
) -> Split:
    """The parts of a data set, by a seeded shuffle stratified by label; rows of equal inputs stay together.

    `labels` and `slices` name columns. `UsageError` names the first column and row that the model does not take, or
    says how many rows are too few.
    """
    raise NotImplementedError


def rows(parent: session.Session, data: dataset.Dataset, labels: str | None = None) -> Rows:
    """All rows of a data set in their order, such as those to train on; `UsageError` as `split`."""
    raise NotImplementedError


def synthetic(parent: session.Session, *, seed: int = 0) -> Split:
    """Parts without any data: the golden rows, and rows drawn around them. Their limits are said in `notes`."""
    raise NotImplementedError
