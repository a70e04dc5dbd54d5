"""The gate before a deployment: a package loaded as serving loads it, judged on people's own data, as evidence.

Called by `windlass check` in a process of its own, and by jobs. Must never pass what it could not judge: too few rows
are neither a pass nor a failure, and are said with the number that would do.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import archive, budget, dataset, edges, evaluation, metrics, session, verdicts
from windlass.types import evidence, fields, signature, tensor

_EXAMPLE_ROWS = 8


class Asked(msgspec.Struct, frozen=True):
    """What is demanded. `least` or `most` bounds the metric, `least_slice` each slice; a latency of 0 has no budget.

    `label` names the column of labels, `slices` the columns to look into. `drop`: how much worse than the version
    compared with is taken, in the metric's unit.
    """

    label: str
    metric: str = "accuracy"
    least: float | None = None
    most: float | None = None
    slices: tuple[str, ...] = ()
    least_slice: float | None = None
    max_latency_ms: float = 0.0
    batch: int = 1
    drop: float = 0.0


class Check(msgspec.Struct, frozen=True):
    """One check. `undecided`: there are too few rows to say; `noted`: nothing was demanded."""

    name: str
    verdict: Literal["passed", "failed", "undecided", "noted"]
    words: str
    numbers: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True):
    """All checks of one package on one data set, and the machine they ran on."""

    digest: str
    data: str
    rows: int
    checks: tuple[Check, ...]
    machine: dict[str, Any]

    @property
    def verdict(self) -> Literal["passed", "failed", "undecided"]:
        """Failed if any check failed, else undecided if any is."""
        found = {check.verdict for check in self.checks}
        return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"


def check(
    package: archive.Package,
    data: dataset.Dataset,
    asked: Asked,
    *,
    against: archive.Package | None = None,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Run every check. `UsageError` if the data set does not fit, `GateRefused` if the package does not even load."""
    metrics.named(asked.metric)
    labels = dataset.taken(data.columns, asked.label)
    columns = {name: values for name, values in data.columns.items() if name != asked.label}
    cut = {name: dataset.taken(data.columns, name) for name in asked.slices}
    progress("loading it, and computing its golden outputs")
    loaded = _open(package)
    try:
        checks = [_golden(loaded)]
        progress(f"asking it {data.rows} rows")
        judged = _judged(loaded, columns, labels, asked)
        found = metrics.score(asked.metric, judged.truth, judged.answers)
        checks += [_threshold(asked, found), *_slices(asked, judged, cut)]
        if against is not None:
            progress("asking the version to compare with")
            checks.append(_compared(asked, judged, against, columns, labels))
        progress("asking what is unusual")
        rows = slice(0, min(_EXAMPLE_ROWS, data.rows, loaded.contract.max_rows))
        inputs = evaluation.prepare(loaded, columns, rows)
        checks += _edges(edges.probe(loaded, inputs, _as_people_send(loaded, columns, rows)))
        if asked.max_latency_ms:
            progress("measuring how long it takes")
            checks += _latency(loaded, inputs, asked, clock)
    finally:
        loaded.close()
    return Report(package.digest, data.digest, data.rows, tuple(checks), machine())


def evidence_of(report: Report, asked: Asked) -> evidence.Evidence:
    """The report as it is put on record; only one that is decided says anything of the package."""
    verdict = report.verdict
    if verdict == "undecided":
        raise errors.GateRefused(
            f"nothing was decided: {_first(report, 'undecided')}.", hint="Give more rows, or ask for less."
        )
    statistics = {
        "asked": msgspec.to_builtins(asked),
        "checks": msgspec.to_builtins(report.checks),
        "data": report.data,
        "rows": report.rows,
        "machine": report.machine,
    }
    if verdict == "failed":
        statistics["reason"] = _first(report, "failed")
    return evidence.Evidence(report.digest, "evaluation", verdict, statistics)


def machine() -> dict[str, Any]:
    """What says whether a figure of here holds elsewhere."""
    return {
        "system": platform.system(),
        "cpu": platform.machine(),
        "cores": os.cpu_count() or 0,
        "isa": verdicts.isa(),
        "software": verdicts.software(),
    }


def _first(report: Report, verdict: str) -> str:
    return next(check.words for check in report.checks if check.verdict == verdict).rstrip(".")


def _open(package: archive.Package) -> session.Session:
    apart = session.carries_code(package.manifest.model.runtime)
    return session.open(package, where="apart" if apart else "here")


def _golden(loaded: session.Session) -> Check:
    seen = loaded.resemblance
    if seen is not None:
        words = f"it was made on another processor, and resembles its parent here: {seen.words}"
        return Check("golden outputs", "passed", words, msgspec.to_builtins(seen))
    excess = loaded.golden_excess or 0.0
    words = f"it computes its golden outputs here: the largest error is {excess:.3g} of what is allowed"
    return Check("golden outputs", "passed", words, {"excess": excess})


def _judged(loaded: session.Session, columns: fields.Columns, labels: tensor.Array, asked: Asked) -> evaluation.Judged:
    answered = evaluation.answers(loaded, columns)
    return evaluation.judged(loaded.package.manifest, answered, labels, asked.metric)


def _threshold(asked: Asked, found: metrics.Score) -> Check:
    """Passed where the whole interval keeps the limit, failed where the value does not; else there are too few rows."""
    said = f"{asked.metric} is {found.value:.4g} over {found.rows} rows (95 %: {found.low:.4g} to {found.high:.4g})"
    numbers = _plain(found)
    limits = [(limit, sign) for limit, sign in ((asked.least, 1), (asked.most, -1)) if limit is not None]
    if not limits:
        return Check(asked.metric, "noted", f"{said}; no limit was given", numbers)
    for limit, sign in limits:
        word = "at least" if sign > 0 else "at most"
        if sign * found.value < sign * limit or np.isnan(found.value):
            return Check(asked.metric, "failed", f"{said}: {word} {limit:g} is asked", numbers)
        end = found.low if sign > 0 else found.high
        if sign * end < sign * limit or (found.rows < metrics.LEAST_ROWS and asked.metric != "accuracy"):
            needed = metrics.rows_needed(asked.metric, found, limit)
            more = f"about {needed} rows like these would" if needed else "no number of rows would"
            words = f"{said}: too few rows to show {word} {limit:g}, {more}"
            return Check(asked.metric, "undecided", words, {**numbers, "rows_needed": needed})
    told = " and ".join(f"{'at least' if sign > 0 else 'at most'} {limit:g}" for limit, sign in limits)
    return Check(asked.metric, "passed", f"{said}: {told} is asked", numbers)


def _slices(asked: Asked, judged: evaluation.Judged, cut: fields.Columns) -> Iterable[Check]:
    """The worst slice of each column. One fails where its whole interval is on the wrong side of the limit."""
    higher = metrics.named(asked.metric).higher
    for name, values in cut.items():
        found = []
        for one in evaluation.slices(values, name):
            if len(one.rows) < evaluation.LEAST_SLICE:
                continue
            # R2 says nothing of a slice whose labels are all alike.
            with contextlib.suppress(errors.UsageError):
                score = metrics.score(asked.metric, judged.truth[one.rows], judged.answers[one.rows])
                found.append((score.value, one.name, score))
        if not found:
            words = f"no value of '{name}' has {evaluation.LEAST_SLICE} rows: nothing is said of its slices"
            yield Check(f"slices of {name}", "noted", words)
            continue
        _, worst, score = min(found) if higher else max(found)
        words = f"the worst slice is {worst}: {score.value:.4g} over {score.rows} rows"
        numbers = {slice_name: _plain(one) for _, slice_name, one in found}
        limit = asked.least_slice
        if limit is None:
            yield Check(f"slices of {name}", "noted", words, numbers)
            continue
        beyond = score.high < limit if higher else score.low > limit
        verdict: Literal["failed", "passed"] = "failed" if beyond else "passed"
        yield Check(f"slices of {name}", verdict, f"{words}; {limit:g} is asked of each", numbers)


def _compared(
    asked: Asked,
    judged: evaluation.Judged,
    against: archive.Package,
    columns: fields.Columns,
    labels: tensor.Array,
) -> Check:
    """Fails where the rows show that it is worse than the other version by more than what is taken."""
    other = _open(against)
    try:
        theirs = _judged(other, columns, labels, asked)
    finally:
        other.close()
    if theirs.names != judged.names:
        raise errors.UsageError("the version to compare with has other labels.", hint="Compare like with like.")
    value, low, high = metrics.difference(asked.metric, judged.truth, judged.answers, theirs.answers)
    words = (
        f"it is {value:+.4g} better than the version compared with, on the same rows (95 %: {low:+.4g} to {high:+.4g})"
    )
    ends = {key: _finite(one) for key, one in (("value", value), ("low", low), ("high", high))}
    numbers = {**ends, "digest": against.digest}
    return Check("comparison", "failed" if high < -asked.drop else "passed", words, numbers)


def _edges(cases: tuple[edges.Case, ...]) -> Iterable[Check]:
    for case in cases:
        if case.verdict != "passed":
            words = f"{case.name}: {case.outcome}, {case.expected} is expected. {case.words}".strip()
            yield Check("unusual requests", case.verdict, words, msgspec.to_builtins(case))
    passed = sum(case.verdict == "passed" for case in cases)
    refused = sum(case.verdict == "passed" and case.outcome == "refused" for case in cases)
    words = f"{passed} of {len(cases)} unusual requests went as they should: {refused} were refused with a sentence"
    yield Check("unusual requests", "passed" if passed else "noted", words, {"cases": [case.name for case in cases]})


def _latency(
    loaded: session.Session, inputs: tensor.Tensors, asked: Asked, clock: Callable[[], float]
) -> Iterable[Check]:
    for rows in sorted({1, asked.batch}):
        if rows > loaded.contract.max_rows:
            raise errors.UsageError(
                f"the package takes {loaded.contract.max_rows} rows at once, not {rows}.",
                hint="Give a smaller --batch.",
            )
        if rows > 1 and not loaded.contract.signature.batched:
            raise errors.UsageError("the model takes no batches.", hint="Leave out --batch.")
        found = budget.measure(loaded, inputs, rows, clock=clock)
        words = f"with {rows} rows p50 is {found.p50_ms:.3g} ms and p99 {found.p99_ms:.3g} ms over {found.samples} runs"
        kept: Literal["passed", "failed"] = "passed" if found.p99_ms <= asked.max_latency_ms else "failed"
        numbers = msgspec.to_builtins(found)
        yield Check("latency", kept, f"{words}; {asked.max_latency_ms:g} ms is asked", numbers)


def _plain(score: metrics.Score) -> dict[str, Any]:
    """Its fields; JSON has no NaN."""
    return {name: _finite(value) for name, value in msgspec.structs.asdict(score).items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _as_people_send(loaded: session.Session, columns: fields.Columns, rows: slice) -> fields.Columns:
    """The rows as fields, where that is how the data set holds them."""
    known = loaded.transformer.fields
    names = {field.name for field in known if field.required}
    if not known or not names <= set(columns) or _tensors_given(loaded.contract.signature, columns):
        return {}
    return evaluation.as_fields(known, columns, rows)


def _tensors_given(found: signature.Signature, columns: fields.Columns) -> bool:
    return {spec.name for spec in found.inputs} <= set(columns)
