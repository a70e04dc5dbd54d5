"""What a technique is: it makes one form of a model from another, by name and parameters.

Implemented by each file beside this one, found through the catalogue, driven by `search`. Must never measure, judge or
choose, nor change the form or network it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from windlass.optimization import form as forms
from windlass.types import signature, tensor


class Dimension(msgspec.Struct, frozen=True):
    """A parameter that a search may set; `choices` are JSON values, the first is the default (none: it is free)."""

    name: str
    choices: tuple[Any, ...]


class Lesson(msgspec.Struct, frozen=True):
    """What training learns from: rows as the network takes them (axis 0 is the row), and their labels.

    `labels` are class numbers (int64) or values (float32), `[rows]`; None: only a teacher says what is right.
    `holdout` are rows apart from them, which stop training early. `teachers` hold each teacher's answers (logits or
    values, float32 `[rows, ...]`) for `inputs`.
    """

    inputs: tensor.Tensors
    labels: tensor.Array | None
    holdout_inputs: tensor.Tensors
    holdout_labels: tensor.Array | None
    teachers: tuple[tensor.Array, ...] = ()


class Materials(msgspec.Struct, frozen=True):
    """What a technique may use. `calibration` are batches of real rows; `folder` is its own for temporary files.

    `student` makes an untrained network for distillation; `budget_s` bounds the training of one form, `kept` is where
    it keeps its state so that it can go on after an interruption.
    """

    signature: signature.Signature
    calibration: tuple[tensor.Tensors, ...]
    folder: Path
    lesson: Lesson | None = None
    student: Callable[[], Any] | None = None
    seed: int = 0
    budget_s: float = 600.0
    kept: Path | None = None
    say: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic


class Technique(Protocol):
    """The plugin. `trains`: it needs a lesson and time, and most a live network: `refusal` says so.

    `gains`: by operator of the ONNX graph, the most that it may run faster by (Amdahl's bound is told from them);
    empty where it cannot be said beforehand. `aims` says what it is for.
    """

    name: ClassVar[str]
    trains: ClassVar[bool]
    gains: ClassVar[Mapping[str, float]]
    aims: ClassVar[frozenset[str]]  # of "latency", "size", "memory"

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[Dimension, ...]:
        """What may be varied for this form."""
        ...

    @classmethod
    def refusal(cls, form: forms.Form, materials: Materials) -> str:
        """Why it does not apply to this form, in a sentence; empty where it does. Quick: nothing is run."""
        ...

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: Materials) -> forms.Form:
        """The form it makes, with the step appended; the same bytes for the same inputs and seed.

        `Unsupported` or `CaptureFailed` says why it cannot be made; `UsageError` names a wrong parameter.
        """
        ...
