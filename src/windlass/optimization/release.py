"""The chosen form as a package: built, checked and probed like any other, with the study as its evidence.

Called by the commands when a study has chosen. The package keeps what its parent says to people (fields, labels,
limits, card) and adds a sample that says on another machine whether it still resembles its parent. Must never release
a form that answers other than it was measured to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from windlass.optimization import findings
from windlass.optimization import form as forms
from windlass.packaging import archive
from windlass.packaging import package as packages
from windlass.types import evidence, tensor


def release(
    parent: archive.Package,
    chosen: forms.Form,
    report: findings.Report,
    batches: Sequence[tensor.Tensors],
    *,
    truth: tensor.Array | None = None,
    verdicts: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    allow_weaker: bool = False,
) -> packages.Packaged:
    """The package of the chosen form with its evidence (parity with itself, probation, the study), to be pushed.

    `batches` are real rows as the model takes them; `truth` their classes (int64 `[rows]`) where they are known.
    `report.data["digests"]` (a dict or list of `sha256:...`) become the lineage's data, `report.recipe` its recipe.
    `GateRefused` if a check says no: nothing was registered then.
    """
    raise NotImplementedError


def kept(report: findings.Report) -> evidence.Evidence:
    """A study that changed nothing, as evidence of the version that it was about: passed unless a budget was missed."""
    raise NotImplementedError


def reports(found: Iterable[evidence.Evidence]) -> tuple[findings.Report, ...]:
    """The studies among a version's evidence, the oldest first; those that cannot be read any more are left out."""
    raise NotImplementedError
