"""How much worse a form answers the same rows than the original: a value, and bounds that hold for so many rows.

Called by `study.py` for each candidate, and once more to confirm the chosen one. Must never take a drop for nothing
because no row showed it: rows that are all answered alike still leave room for what they did not show.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import adversarial, data, findings, likeness, reading
from windlass.packaging import dataset, evaluation, metrics, session
from windlass.types import fields, tensor

Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]
ALPHA = 0.05
# Without any data the outputs must be the same but for a thirtieth of their size, in direction nearly to the degree,
# and every class with them: so much half precision and reordered sums change, with room. Beyond that only real rows
# can say whether a change matters.
TIGHT_DB = 30.0
TIGHT_COSINE = 0.9995
# What is kept of the original's raw outputs, for a look at single layers.
_KEPT_BYTES = 1 << 28


class Judge:
    """Compares forms with the original on the same rows; the original is asked once.

    `metric` is a name of `packaging.metrics`; without labels the original's own answers stand for them: `accuracy` is
    then called `agreement`, and vectors are compared by `cosine`. By default it is what fits the model; `notes` say
    where that was guessed. `higher` is whether more is better. `answers` are the original's raw outputs by batch, as
    many as fit in memory.
    """

    def __init__(
        self,
        parent: session.Session,
        rows: data.Rows,
        metric: str | None = None,
        *,
        seed: int = 0,
        slices: tuple[str, ...] = (),
    ) -> None:
        self._parent, self._rows, self._seed = parent, rows, seed
        self._attacked: Judge | None = None
        self.labelled = rows.truth is not None
        self.answers: tuple[tensor.Tensors, ...] = ()
        self._originals = self._ask_original()
        task = reading.task(parent.package.manifest, self._originals[0], metric, labelled=self.labelled)
        self._task = task
        self.metric, self.higher, self.notes = task.name, task.higher, task.notes
        self._base = self._given(self._originals)
        self._truth = self._base if rows.truth is None else reading.truth(parent.package.manifest, rows.truth, task)
        cut = [one for name in slices for one in evaluation.slices(dataset.taken(rows.columns, name), name)]
        self._slices = [one for one in cut if len(one.rows) >= evaluation.LEAST_SLICE]
        self.baseline = self._score()

    def judge(self, run: Run, *, level: float = 1 - ALPHA) -> findings.Judged:
        """What is found of a form that `run` runs (the parent's inputs to its outputs), one batch at a time.

        `level` is of each one-sided bound. Whatever `run` raises is passed on; `GateRefused` where answers are not
        finite though the original's are.
        """
        answered = [self._read(run(inputs), inputs) for inputs in self._rows.batches]
        alike = likeness.compare(zip(answered, self._originals, strict=True), self._task.scores)
        given = self._given(answered)
        found = self._drop(self.metric, given, np.arange(self._rows.rows), level)
        if self._rows.synthetic:
            # Rows that nobody sent bound nothing: all may be lost, unless the outputs are nearly the same.
            found = msgspec.structs.replace(found, high=found.drop if _tight(alike) else max(1.0, found.high))
        cut = []
        for one in self._slices:
            # R2 says nothing of a slice whose labels are all alike.
            with contextlib.suppress(errors.UsageError):
                cut.append(self._drop(one.name, given, one.rows, level))
        cut.sort(key=lambda drop: -drop.drop)
        attacked = self._attacked.judge(run, level=level).drop if self._attacked else None
        return findings.Judged(self.labelled, found, alike, tuple(cut), attacked, self._rows.synthetic)

    def likeness(self, run: Run, *, batches: int = 1) -> findings.Likeness:
        """The answers to the first batches alone, for a quick look."""
        first = self._rows.batches[:batches]
        answered = (self._read(run(inputs), inputs) for inputs in first)
        return likeness.compare(zip(answered, self._originals[:batches], strict=True), self._task.scores)

    def attack(self, *, size: float = 0.02) -> None:
        """Judge on adversarial rows too, as `adversarial.rows` makes them."""
        parent, names = self._parent, self._parent.contract.output_names
        attacked = adversarial.rows(
            lambda inputs: self._read(parent.model.run(inputs, names), inputs),
            self._rows,
            parent.contract.signature,
            scores=self._task.scores,
            size=size,
            seed=self._seed,
        )
        self._attacked = Judge(parent, attacked, self._task.of, seed=self._seed)

    def why_not(self, judged: findings.Judged, most: float | None) -> str:
        """Why a form is not taken within a drop of `most` (metric's unit; None: any), in a clause; else empty."""
        like, drop = judged.likeness, judged.drop
        if most is None:
            return ""
        if self._rows.synthetic:
            if _tight(like) and drop.high <= most:
                return ""
            return (
                f"its outputs differ from the original's (signal to noise {like.sqnr_db:.1f} dB, cosine "
                f"{like.cosine:.4f}), and without data nothing shows that this does no harm"
            )
        if drop.high <= most:
            return ""
        if drop.drop > most:
            return f"it loses {drop.drop:.4g} of {drop.name} on {drop.rows} rows, more than {most:.4g}"
        needed = self.rows_needed(most, judged=judged, level=drop.level)
        more = f"about {needed} rows like these would decide" if needed else "no number of rows would decide"
        return (
            f"it loses {drop.drop:.4g} of {drop.name} on {drop.rows} rows, and up to {drop.high:.4g} cannot be ruled "
            f"out at {100 * drop.level:.3g} %, more than {most:.4g}: {more}"
        )

    def rows_needed(self, most: float, *, level: float = 1 - ALPHA, judged: findings.Judged | None = None) -> int:
        """How many rows would show that a drop such as the one judged keeps `most` (metric's unit).

        Without `judged`: if not one row were answered worse. 0 if no number would.
        """
        rows = self._rows.rows
        room = most if judged is None else most - judged.drop.drop
        if room <= 0:
            return 0
        least = self._bounds(self._base, np.arange(rows), level)[2]
        fewest = 1 if self._task.classes else metrics.LEAST_ROWS
        half = least if judged is None else judged.drop.high - judged.drop.drop
        # What no row shows shrinks with the rows, what they do show with their root.
        power = 1 if half <= 1.01 * least else 2
        return max(fewest, math.ceil(rows * (half / room) ** power))

    def require(self, most: float, *, level: float = 1 - ALPHA) -> None:
        """`UsageError` with the number of rows needed, if so few could not show that a drop keeps `most`."""
        needed, rows = self.rows_needed(most, level=level), self._rows.rows
        if self._rows.synthetic or 0 < needed <= rows:
            return
        if not needed:
            raise errors.UsageError(
                f"no number of rows shows a drop of {most:.4g} or less.", hint="Allow a drop above 0, such as 0.5%."
            )
        raise errors.UsageError(
            f"{rows} rows cannot show that {self.metric} drops by {most:.4g} at the most: {needed} are needed, even "
            "if each were answered as before.",
            hint=f"Give about {math.ceil(10 * needed / rows) / 10:g} times as many rows, or allow a larger drop.",
        )

    def _ask_original(self) -> list[fields.Columns]:
        found: list[fields.Columns] = []
        kept: list[tensor.Tensors] = []
        room = _KEPT_BYTES
        for inputs in self._rows.batches:
            outputs = self._parent.model.run(inputs, self._parent.contract.output_names)
            room -= sum(values.nbytes for values in outputs.values())
            if room > 0 or not kept:
                kept.append(outputs)
            found.append(self._read(outputs, inputs))
        self.answers = tuple(kept)
        return found

    def _read(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        return reading.read(self._parent, outputs, inputs)

    def _given(self, answered: list[fields.Columns]) -> tensor.Array:
        """The answers as the metric compares them, `[rows]`; of vectors their cosine with the original's."""
        if self._task.of != reading.COSINE:
            manifest = self._parent.package.manifest
            return np.concatenate([evaluation.given(manifest, one, self._task.of) for one in answered])
        pairs = zip(answered, self._originals, strict=True)
        return np.concatenate([reading.cosines(ours, theirs) for ours, theirs in pairs])

    def _score(self) -> metrics.Score:
        rows = self._rows.rows
        if not self.labelled:
            best = 1.0 if self.higher else 0.0
            return metrics.Score(best, best, best, rows)
        truth, base, _ = self._numbered(self._base, np.arange(rows))
        return metrics.score(self._task.of, truth, base, seed=self._seed)

    def _drop(self, name: str, given: tensor.Array, rows: tensor.Array, level: float) -> findings.Drop:
        drop, low, high = self._bounds(given, rows, level)
        if not self.labelled:
            base = 1.0 if self.higher else 0.0
        elif len(rows) == self._rows.rows:
            base = self.baseline.value
        else:
            truth, old, _ = self._numbered(self._base[rows], rows)
            base = metrics.score(self._task.of, truth, old, seed=self._seed).value
        candidate = base - drop if self.higher else base + drop
        return findings.Drop(name, len(rows), base, candidate, drop, low, high, level)

    def _bounds(self, given: tensor.Array, rows: tensor.Array, level: float) -> tuple[float, float, float]:
        if self._task.of == reading.COSINE:
            # The mean of 1 - cosine, which for the original is 0.
            zero = np.zeros(len(rows))
            return metrics.drop("mae", zero, 1.0 - given[rows], zero, level=level, seed=self._seed)
        truth, new, old = self._numbered(given[rows], rows, self._base[rows])
        return metrics.drop(self._task.of, truth, new, old, level=level, seed=self._seed)

    def _numbered(
        self, given: tensor.Array, rows: tensor.Array, base: tensor.Array | None = None
    ) -> tuple[tensor.Array, tensor.Array, tensor.Array]:
        """Truth, these answers and those of the original: names of classes as the same numbers."""
        three = (self._truth[rows], given, given if base is None else base)
        if not self._task.classes:
            return three
        found = np.unique(np.concatenate(three).astype(str), return_inverse=True)[1].reshape(3, -1)
        return found[0], found[1], found[2]


def _tight(like: findings.Likeness) -> bool:
    return like.sqnr_db >= TIGHT_DB and like.cosine >= TIGHT_COSINE and like.agreement in (None, 1.0)


def truth(parent: session.Session, rows: data.Rows, metric: str | None = None) -> tensor.Array | None:
    """The labels as training takes them, `[rows]`: class numbers (int64), or values (float64); None without labels.

    The model is asked the first batch alone. `UsageError` if a label is none of the model's.
    """
    if rows.truth is None:
        return None
    inputs = rows.batches[0]
    outputs = parent.model.run(inputs, parent.contract.output_names)
    manifest = parent.package.manifest
    task = reading.task(manifest, reading.read(parent, outputs, inputs), metric, labelled=True)
    return reading.numbers(manifest, reading.truth(manifest, rows.truth, task), task)


def accepts(judged: findings.Judged, most: float | None) -> bool:
    """Whether the upper bound of the drop keeps `most` (metric's unit; None: any drop)."""
    return most is None or judged.drop.high <= most


def level(attempt: int) -> float:
    """The level for the n-th (1, 2, ...) form to be confirmed on the same rows; all together spend `ALPHA`."""
    return 1 - ALPHA * 0.8 * 0.2 ** (attempt - 1)
