"""The chosen form as a package: built, checked and probed like any other, with the study as its evidence.

Called by the commands when a study has chosen. The package keeps what its parent says to people (fields, labels,
limits, card) and adds a sample that says on another processor whether it still resembles its parent. Must never
release a form that answers otherwise than the one that was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import data, findings, record, runnable, sampling
from windlass.optimization import form as forms
from windlass.packaging import archive, build, draft, samples, session
from windlass.packaging import package as packages
from windlass.packaging import verdicts as instruction_sets
from windlass.runtimes import base
from windlass.types import manifest, refs, tensor

_Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]
# The largest batch that is tried: more rows show nothing else, and cost time and memory.
_MOST_TRIED = 32
_ODD = 17


def release(
    parent: archive.Package,
    chosen: forms.Form,
    report: findings.Report,
    rows: data.Rows,
    *,
    verdicts: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    allow_weaker: bool = False,
) -> packages.Packaged:
    """The package of the chosen form with its evidence (parity with itself, probation, the study), to be pushed.

    `rows` are those that confirmed it: the golden ones and the sample are drawn of them. The values of
    `report.data["digests"]` become the lineage's data, `report.recipe` its recipe. `verdicts` is where probation keeps
    its own; `allow_weaker` runs the sandbox with what walls this machine has. `GateRefused` if a check says no.
    """
    progress("Asking the original and the chosen form")
    value = parent.manifest
    batch, truth = _gathered(rows)
    opened = runnable.open(chosen)
    try:
        trials = _trials(opened.run, rows, batch, value)
        sample = None
        if value.signature.batched:
            parents, ours = _parents_answers(parent, batch), _in_parts(opened.run, batch, value)
            asked = sampling.Asked(batch, parents, ours, truth)
            sample = sampling.draw(asked, value, most_drop=_most_drop(report), decides=_decides(report))
    finally:
        opened.close()
    made = packages.checked(
        _drafted(parent, chosen, report, trials, sample),
        name=_name(parent, report),
        card=value.card,
        limits=value.limits,
        progress=progress,
        verdicts=verdicts,
        allow_weaker=allow_weaker,
    )
    parity, *rest = made.evidence
    told = {**parity.statistics, "parent": parent.digest, **_likeness(report)}
    found = (msgspec.structs.replace(parity, statistics=told), *rest, record.evidence_of(made.package.digest, report))
    return made._replace(evidence=found)


def _name(parent: archive.Package, report: findings.Report) -> str:
    """The model's name in the registry, which may be another than the one in its package."""
    ref = refs.parse(report.reference)
    return parent.manifest.name if ref.kind == "path" else ref.name


def _chosen(report: findings.Report) -> findings.Judged | None:
    """What was found of the chosen form's answers: on the rows that confirmed it, if they did."""
    chosen = next((each for each in report.candidates if each.digest == report.chosen), None)
    return None if chosen is None else chosen.confirmed or chosen.judged


def _likeness(report: findings.Report) -> dict[str, Any]:
    judged = _chosen(report)
    if judged is None:
        return {}
    return {"likeness": record.plain(judged.likeness), "drop": record.plain(judged.drop)}


def _decides(report: findings.Report) -> bool:
    judged = _chosen(report)
    return judged is not None and judged.likeness.agreement is not None


def _most_drop(report: findings.Report) -> float:
    asked = report.asked.get("max_drop")
    return float(asked) if isinstance(asked, int | float) else 0.0


def _gathered(rows: data.Rows) -> tuple[tensor.Tensors, tensor.Array | None]:
    """Rows of one shape in one batch, with their labels: the middle one's shape, as texts lie from short to long."""
    if not rows.batches:
        raise errors.GateRefused("there are no rows to check the chosen form with.")
    wanted = _shapes(rows.batches[len(rows.batches) // 2])
    alike, numbers, at = [], [], 0
    for each in rows.batches:
        count = len(next(iter(each.values())))
        if _shapes(each) == wanted:
            alike.append(each)
            numbers.append(np.arange(at, at + count))
        at += count
    batch = {name: np.concatenate([each[name] for each in alike])[: samples.MOST_ROWS] for name in wanted}
    truth = None if rows.truth is None else rows.truth[np.concatenate(numbers)[: samples.MOST_ROWS]]
    return batch, truth


def _shapes(batch: tensor.Tensors) -> dict[str, tuple[int, ...]]:
    """Of one row of each input."""
    return {name: array.shape[1:] for name, array in batch.items()}


def _parents_answers(parent: archive.Package, batch: tensor.Tensors) -> tensor.Tensors:
    model = session.load_model(parent.manifest.model.runtime, parent.model_files(), base.Options())
    try:
        return _in_parts(model.run, batch, parent.manifest)
    finally:
        model.unload()


def _in_parts(run: _Run, batch: tensor.Tensors, value: manifest.Manifest) -> tensor.Tensors:
    """The answers to a batch, asked in parts that the package takes."""
    step = min(value.limits.max_batch, _MOST_TRIED)
    parts = [run(_cut(batch, slice(at, at + step))) for at in range(0, len(next(iter(batch.values()))), step)]
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def _trials(run: _Run, rows: data.Rows, batch: tensor.Tensors, value: manifest.Manifest) -> tuple[draft.Trial, ...]:
    """Real rows and what the form answers: few rows first, which become the golden ones, then other sizes, the longest
    texts among them.
    """
    if not value.signature.batched:
        requests = enumerate(rows.batches[: build.GOLDEN_ROWS], 1)
        return tuple(draft.Trial(f"request {number} of the data", each, run(each)) for number, each in requests)
    most = min(value.limits.max_batch, len(next(iter(batch.values()))), _MOST_TRIED)
    sizes = dict.fromkeys(min(size, most) for size in (build.GOLDEN_ROWS, 1, 2, 3, _ODD, most))
    parts = {f"{size} rows of the data": _cut(batch, slice(0, size)) for size in sizes}
    last = _cut(rows.batches[-1], slice(0, most))
    if _shapes(last) != _shapes(batch):
        parts["the longest rows of the data"] = last
    return tuple(draft.Trial(name, part, run(part)) for name, part in parts.items())


def _cut(batch: tensor.Tensors, rows: slice) -> tensor.Tensors:
    return {name: array[rows] for name, array in batch.items()}


def _drafted(
    parent: archive.Package,
    chosen: forms.Form,
    report: findings.Report,
    trials: tuple[draft.Trial, ...],
    sample: draft.Sample | None,
) -> draft.Draft:
    """The parent's words around the form's files."""
    value = parent.manifest
    given = report.data.get("digests", {})
    digests = {str(each) for each in (given.values() if isinstance(given, dict) else given)}
    transforms = [draft.TransformDraft(t.kind, t.parameters, parent.transform_files(t)) for t in value.transforms]
    lineage = msgspec.structs.replace(
        value.lineage,
        parent=parent.digest,
        recipe=report.recipe,
        data=tuple(sorted(each for each in digests if refs.DIGEST.fullmatch(each))),
    )
    return draft.Draft(
        files=chosen.files,
        signature=value.signature,
        trials=trials,
        framework="the form that was measured",
        runtime=chosen.runtime,
        transforms=tuple(transforms),
        labels=value.labels,
        max_batch=value.limits.max_batch,
        rtol=value.golden.rtol,
        atol=value.golden.atol,
        precision=chosen.precision,
        needs_isa=instruction_sets.isa() if chosen.runtime == "aoti" else "",
        lineage=lineage,
        sample=sample,
        notes=chosen.notes,
    )
