"""`windlass check`: a version judged on people's own data before it is deployed, put on record as evidence.

Must never record what could not be decided, nor answer 0 for a version that was refused.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from windlass import errors, references
from windlass.cli import inspect, output, planes
from windlass.packaging import dataset, gate
from windlass.types import evidence, refs

_MARKS = {"passed": "ok", "failed": "FAILED", "undecided": "?", "noted": "note"}


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--data", "path", required=True, type=click.Path(path_type=Path), help="Rows: .csv, .npz, .json, .ndjson."
)
@click.option("--labels", required=True, help="The column of labels, or a file with one a line.")
@click.option("--metric", default="accuracy", help="accuracy, balanced_accuracy, f1, mae, rmse or r2.")
@click.option("--min", "least", type=float, help="The least that the metric may be.")
@click.option("--max", "most", type=float, help="The most that the metric may be (mae, rmse).")
@click.option("--slices", multiple=True, metavar="COLUMN", help="Look into each value of a column for the worst.")
@click.option("--min-slice", "least_slice", type=float, help="What each slice must keep.")
@click.option("--max-latency-ms", type=click.FloatRange(0), default=0.0, help="The p99 of a run, at most.")
@click.option("--batch", type=click.IntRange(1), default=1, help="Rows of a run whose latency is measured, beside 1.")
@click.option("--against", default="", metavar="REF", help="A version that it must not be worse than.")
@click.pass_obj
def check(
    context: output.Context,
    reference: str,
    path: Path,
    labels: str,
    metric: str,
    least: float | None,
    most: float | None,
    slices: tuple[str, ...],
    least_slice: float | None,
    max_latency_ms: float,
    batch: int,
    against: str,
) -> None:
    """Judge the version or package REF on a data set: a metric, its worst slices, unusual requests, latency.

    The finding is kept as evidence `evaluation` of the version. Exit code 4 if it is refused, or if there are too few
    rows to say.
    """
    data, column = data_set(path, labels)
    wanted = gate.Asked(column, metric, least, most, slices, least_slice, max_latency_ms, batch)
    report = gate.check(
        inspect.open_package(context, reference),
        data,
        wanted,
        against=inspect.open_package(context, against) if against else None,
        progress=context.say,
    )
    found: evidence.Evidence | None = None
    if report.verdict != "undecided":
        found = gate.evidence_of(report, wanted)
        _keep(context, refs.parse(reference), found)
    context.result({"verdict": report.verdict, **msgspec.to_builtins(report)}, lambda: _text(reference, report))
    if found is None:
        gate.evidence_of(report, wanted)
    elif found.verdict == "failed":
        raise errors.GateRefused(
            f"{reference} was refused: {found.statistics['reason']}.", hint="Mend the model, or ask for less."
        )


def data_set(path: Path, labels: str) -> tuple[dataset.Dataset, str]:
    """The data set, and the name of its column of labels, which may come from a file of its own."""
    if not path.is_file():
        raise errors.NotFound(f"There is no file {path}.", hint="Check the path given with --data.")
    data = dataset.read(path.read_bytes(), path.suffix.lower())
    file, _, inside = labels.partition("::")
    if labels in data.columns or not Path(file).is_file():
        return data, labels
    return dataset.with_labels(data, Path(file).read_bytes(), Path(file).suffix.lower(), inside)


def _keep(context: output.Context, ref: refs.Ref, found: evidence.Evidence) -> None:
    """A package in a file has no record to keep it on."""
    if ref.kind == "path":
        return
    with planes.registry(context) as registry:
        registry.add_evidence(found, actor=references.actor())


def _text(reference: str, report: gate.Report) -> str:
    rows = [(_MARKS[one.verdict], one.name, one.words) for one in report.checks]
    return f"{output.table(['', 'check', 'what was found'], rows)}\n\n{reference}: {report.verdict}"
