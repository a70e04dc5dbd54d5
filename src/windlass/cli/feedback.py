"""`windlass feedback`: tells how good answers turned out to be, from a file of labels or scores.

Must never guess a score: a row that has none is refused with its number.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import click
import msgspec

from windlass import errors
from windlass.cli import output, planes
from windlass.packaging import dataset
from windlass.records import feedback as rows
from windlass.types import fields, tensor

_COLUMNS = ("request", "key", "score", "label", "prediction", "time")


@click.command()
@click.argument("name")
@click.option("--input", "path", type=click.Path(path_type=Path), help="A table: .csv, .ndjson, .json, .npz.")
@click.pass_obj
def feedback(context: output.Context, name: str, path: Path | None) -> None:
    """Put scores of the deployment NAME on record, or show what is known of them.

    Columns: `request` (its id) or `key` (its sticky key); `score` from 0 to 1, or `label` and `prediction`, which score
    1 where they are equal; `time` (seconds since the epoch or ISO 8601) if it is known. The same row again changes
    nothing; another score is a revision.
    """
    with planes.deployments(context) as deployments:
        if path is None:
            standing = deployments.feedback(name)
            context.result(standing, lambda: _standing(standing))
            return
        if not path.is_file():
            raise errors.NotFound(f"There is no file {path}.", hint="Check the path given with --input.")
        given = read(dataset.read(path.read_bytes(), path.suffix.lower()).columns)
        rows.check(given[: rows.MOST])
        parts = [deployments.take_feedback(name, given[at : at + rows.MOST]) for at in range(0, len(given), rows.MOST)]
    total = rows.Added(*(sum(getattr(one, field) for one in parts) for field in rows.Added.__struct_fields__))
    context.result(
        total, lambda: f"{total.new} new, {total.revised} revised, {total.duplicate} known, of {total.received}"
    )


def read(columns: fields.Columns) -> tuple[rows.Given, ...]:
    """The scores of a table; `UsageError` says which column or row is wrong."""
    for name in columns:
        if name not in _COLUMNS:
            raise errors.UsageError(f"the table has an unknown column '{name}'.", hint=f"Known: {', '.join(_COLUMNS)}.")
    size = len(next(iter(columns.values())))
    empty: list[Any] = [None] * size
    texts = {
        name: dataset.texts(columns[name]).tolist() if name in columns else empty
        for name in ("request", "key", "label", "prediction", "time")
    }
    scores = _scores(columns, texts)
    return tuple(
        rows.Given(
            score=scores[row],
            request=texts["request"][row] or "",
            key=texts["key"][row] or "",
            label=texts["label"][row] or "",
            at=_time(texts["time"][row], row),
        )
        for row in range(size)
    )


def _scores(columns: fields.Columns, texts: dict[str, list[str | None]]) -> list[float]:
    if "score" in columns:
        found: tensor.Array = dataset.numbers(columns["score"], "score")
        for row, score in enumerate(found.tolist()):
            if not 0 <= score <= 1:
                raise errors.UsageError(f"row {row} has the score {score}: scores are from 0 to 1, and 1 is best.")
        return [float(score) for score in found.tolist()]
    if "label" not in columns or "prediction" not in columns:
        raise errors.UsageError("the table has neither 'score' nor 'label' and 'prediction'.")
    made = []
    for row, (label, prediction) in enumerate(zip(texts["label"], texts["prediction"], strict=True)):
        if label is None or prediction is None:
            raise errors.UsageError(f"row {row} has no {'label' if label is None else 'prediction'}.")
        made.append(1.0 if label == prediction else 0.0)
    return made


def _time(text: str | None, row: int) -> float:
    if text is None:
        return 0.0
    try:
        return msgspec.convert(text, float, strict=False)
    except msgspec.ValidationError:
        pass
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise errors.UsageError(f"row {row} has no time that can be read: '{text[:40]}'.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _standing(found: rows.Standing) -> str:
    told = f"{found.labels} scored: {found.joined} joined to an arm, {found.unjoined} not"
    lines = [f"{told}; {found.late} too late to count, {found.revised} revisions"]
    if found.arms:
        arms = [(arm, one.scores, f"{one.mean:.4f}") for arm, one in sorted(found.arms.items())]
        lines += ["", output.table(["version", "scores", "mean"], arms)]
    return "\n".join(lines)
