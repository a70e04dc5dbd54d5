"""What a network is trained for: its labels, its teachers' answers, and how far it is from them.

Called by the training loop. Must never look at the holdout rows' labels but to measure.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import torch
from torch.nn import functional

from windlass import errors
from windlass.optimization.techniques import base
from windlass.optimization.training import networks
from windlass.types import tensor

Kind = Literal["classes", "values"]
_LEAST_PROBABILITY = 1e-7


class Rows(msgspec.Struct, frozen=True):
    """Rows with what is right for them: labels, or the teachers' answers, or both."""

    inputs: tensor.Tensors
    labels: tensor.Array | None
    teachers: tuple[tensor.Array, ...]

    def pick(self, which: tensor.Array | slice) -> Rows:
        """Some of the rows."""
        return Rows(
            {name: array[which] for name, array in self.inputs.items()},
            None if self.labels is None else self.labels[which],
            tuple(answer[which] for answer in self.teachers),
        )


class Objective(msgspec.Struct, frozen=True):
    """Which output is trained, and towards what. `spread` is the variance that squared errors are told in.

    `alpha` is the teachers' part of the loss, `temperature` softens what they say.
    """

    names: tuple[str, ...]
    output: str
    kind: Kind
    probabilities: bool
    spread: float
    alpha: float
    temperature: float
    no_skill: float

    def loss(self, network: torch.nn.Module, rows: Rows) -> torch.Tensor:
        """What training lowers: labels and teachers mixed."""
        answer = networks.call(network, self.names, rows.inputs)[self.output]
        if not rows.teachers:
            return self._labels(answer, rows.labels)
        if rows.labels is None:
            return self._teachers(answer, rows.teachers)
        taught = self._teachers(answer, rows.teachers)
        return self.alpha * taught + (1 - self.alpha) * self._labels(answer, rows.labels)

    def measured(self, network: torch.nn.Module, rows: Rows) -> float:
        """The mean loss of rows in eval mode: by the labels where there are any, else by the teachers."""
        total, count = 0.0, networks.rows(rows.inputs)
        with torch.no_grad():
            for start in range(0, count, networks.ROWS):
                some = rows.pick(slice(start, start + networks.ROWS))
                answer = networks.call(network, self.names, some.inputs)[self.output]
                wrong = (
                    self._teachers(answer, some.teachers) if some.labels is None else self._labels(answer, some.labels)
                )
                total += float(wrong) * len(answer)
        return total / count

    def _labels(self, answer: torch.Tensor, labels: tensor.Array | None) -> torch.Tensor:
        # Copies: torch takes no array that is read-only.
        if self.kind == "classes":
            right = torch.from_numpy(np.array(labels, np.int64))
            return functional.cross_entropy(scores(answer, probabilities=self.probabilities), right)
        right = torch.from_numpy(np.array(labels, np.float32))
        return functional.mse_loss(answer.reshape(right.shape), right) / self.spread

    def _teachers(self, answer: torch.Tensor, teachers: tuple[tensor.Array, ...]) -> torch.Tensor:
        said = [torch.from_numpy(np.array(teacher, np.float32)) for teacher in teachers]
        if self.kind == "values":
            return functional.mse_loss(answer, torch.stack(said).mean(0).reshape(answer.shape)) / self.spread
        heat = self.temperature
        soft = [torch.softmax(scores(s, probabilities=is_probabilities(s)) / heat, dim=1) for s in said]
        ours = torch.log_softmax(scores(answer, probabilities=self.probabilities) / heat, dim=1)
        # The gradients of softened answers shrink with the square of the temperature (Hinton et al., 2015, section 2).
        return functional.kl_div(ours, torch.stack(soft).mean(0), reduction="batchmean") * heat * heat


def choose(
    network: torch.nn.Module,
    lesson: base.Lesson,
    names: tuple[str, ...],
    *,
    loss: str,
    alpha: float,
    temperature: float,
) -> tuple[Objective, Rows, Rows]:
    """The objective of a lesson for this network, its rows, and the rows held out; `UsageError` where they do not fit.

    Without labels a tenth of the rows are held out, because only they have the teachers' answers.
    """
    taught, held = _split(lesson)
    kind = _kind(taught, loss)
    with torch.no_grad():
        few = {name: array[:4] for name, array in taught.inputs.items()}
        outputs = networks.call(network, names, few)
    if kind == "classes":
        output, classes = _scored(outputs, taught)
        _require_classes(taught.labels, classes, "labels")
        _require_classes(held.labels, classes, "holdout labels")
    else:
        output = networks.floating(outputs)
        _require_values(outputs[output], taught)
    for teacher in taught.teachers:
        if int(np.prod(teacher.shape[1:])) != int(np.prod(outputs[output].shape[1:])):
            raise errors.UsageError(
                f"a teacher answers with {list(teacher.shape[1:])} for a row, the network with "
                f"{list(outputs[output].shape[1:])}: they must be the same answers."
            )
    target = taught.labels if taught.labels is not None else np.mean(taught.teachers, axis=0)
    spread = float(np.var(target.astype(np.float64), axis=0).mean()) or 1.0 if kind == "values" else 1.0
    found = Objective(
        names=names,
        output=output,
        kind=kind,
        probabilities=kind == "classes" and is_probabilities(outputs[output]),
        spread=spread,
        alpha=alpha,
        temperature=temperature,
        no_skill=_no_skill(taught) if kind == "classes" else 1.0,
    )
    return found, taught, held


def scores(answer: torch.Tensor, *, probabilities: bool) -> torch.Tensor:
    """Logits `[rows, classes]` of an answer; one column is the score of the second of two classes."""
    if answer.ndim == 1:
        answer = answer[:, None]
    if probabilities:
        answer = answer.clamp_min(_LEAST_PROBABILITY)
        if answer.shape[1] == 1:
            answer = torch.cat([(1 - answer).clamp_min(_LEAST_PROBABILITY), answer], dim=1)
        return answer.log()
    if answer.shape[1] == 1:
        return torch.cat([torch.zeros_like(answer), answer], dim=1)
    return answer


def is_probabilities(answer: torch.Tensor) -> bool:
    """Whether answers are probabilities already: none negative, and each row sums to one."""
    if answer.ndim != 2 or not bool((answer >= 0).all()):
        return False
    if answer.shape[1] == 1:
        return bool((answer <= 1).all())
    return bool((answer.sum(1) - 1).abs().max() < 1e-3)


def _split(lesson: base.Lesson) -> tuple[Rows, Rows]:
    count = networks.rows(lesson.inputs)
    if not count:
        raise errors.UsageError("there are no rows to learn from.", hint="Give rows to train on.")
    if lesson.labels is None and not lesson.teachers:
        raise errors.UsageError("neither labels nor a teacher say what is right.", hint="Give labels or a teacher.")
    for what, array in (("labels", lesson.labels), *(("answers of a teacher", t) for t in lesson.teachers)):
        if array is None:
            continue
        if len(array) != count:
            raise errors.UsageError(f"there are {len(array)} {what} for {count} rows to learn from.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise errors.UsageError(f"the {what} hold values that are not finite (row {_first_infinite(array)}).")
    every = Rows(lesson.inputs, lesson.labels, lesson.teachers)
    held = networks.rows(lesson.holdout_inputs) if lesson.holdout_inputs else 0
    if lesson.labels is not None and lesson.holdout_labels is not None and held:
        if len(lesson.holdout_labels) != held:
            raise errors.UsageError(f"there are {len(lesson.holdout_labels)} holdout labels for {held} rows.")
        return every, Rows(lesson.holdout_inputs, lesson.holdout_labels, ())
    if count < 2:
        raise errors.UsageError("one row is too few to learn from: another must be held out.")
    apart = max(1, count // 10)
    return every.pick(slice(0, count - apart)), every.pick(slice(count - apart, count))


def _first_infinite(array: tensor.Array) -> int:
    return int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))


def _kind(taught: Rows, loss: str) -> Kind:
    if loss == "classes":
        return "classes"
    # Without labels nobody says whether the answers are classes: matching them serves both (Ba and Caruana, 2014).
    if loss == "auto" and taught.labels is not None and taught.labels.dtype.kind in "iub":
        return "classes"
    return "values"


def _scored(outputs: dict[str, torch.Tensor], taught: Rows) -> tuple[str, int]:
    """The output that holds a score for each class, and their number: the first with enough of them."""
    found = {
        name: max(2, value.shape[1] if value.ndim == 2 else 1)
        for name, value in outputs.items()
        if value.dtype.is_floating_point and value.ndim in (1, 2)
    }
    most = int(taught.labels.max()) if taught.labels is not None and taught.labels.dtype.kind in "iub" else 0
    fitting = [name for name, classes in found.items() if classes > most] or list(found)
    if fitting:
        return fitting[0], found[fitting[0]]
    told = ", ".join(f"'{name}' {list(value.shape)}" for name, value in outputs.items())
    raise errors.UsageError(f"the labels are classes, and no output of the network scores classes: {told}.")


def _require_classes(labels: tensor.Array | None, classes: int, what: str) -> None:
    if labels is None:
        return
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise errors.UsageError(f"the {what} are {labels.dtype} {list(labels.shape)}: one class number for each row.")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise errors.UsageError(
            f"the {what} hold class {int(labels[row])} (row {row}): the network scores {classes} classes, from 0."
        )


def _require_values(answer: torch.Tensor, taught: Rows) -> None:
    if taught.labels is not None and int(np.prod(taught.labels.shape[1:])) != int(np.prod(answer.shape[1:])):
        raise errors.UsageError(
            f"the network answers with {list(answer.shape[1:])} for a row, and the labels are "
            f"{list(taught.labels.shape[1:])}."
        )


def _no_skill(taught: Rows) -> float:
    """The cross-entropy of always answering with the classes' frequencies; without labels, the teachers' mean."""
    if taught.labels is not None:
        part = np.bincount(taught.labels.astype(np.int64)) / len(taught.labels)
        part = part[part > 0]
        return float(-(part * np.log(part)).sum())
    return float("inf")
