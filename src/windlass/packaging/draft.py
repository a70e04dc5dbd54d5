"""A draft: all that capture learned of a model, before it is checked and built into a package.

Made by each file of `capture/` (for sources that carry code, in a sandboxed child that hands it back as data), checked
by `parity.py`, turned into a package by `build.py`. Must hold data only: no callable, no framework object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from windlass.types import manifest, signature, tensor

# A model reproduces its framework when |ours - theirs| <= rtol * |theirs| + atol * max|theirs|, per output.
RTOL = 1e-3
ATOL = 1e-5


class Trial(msgspec.Struct, frozen=True):
    """Inputs, and the outputs that the original framework gave for them. `name` says what was tried."""

    name: str
    inputs: tensor.Tensors
    outputs: tensor.Tensors


class Sample(msgspec.Struct, frozen=True):
    """What a `manifest.Sample` holds, before it has digests: `answers` is one tensor by its output's name."""

    inputs: tensor.Tensors
    answers: tensor.Tensors
    measure: Literal["accuracy", "agreement", "sqnr_db"]
    least: float


class TransformDraft(msgspec.Struct, frozen=True):
    """A transform before its files have digests."""

    kind: str
    parameters: Mapping[str, Any] = {}
    files: Mapping[str, bytes] = {}


class Draft(msgspec.Struct, frozen=True):
    """A captured model. `files` are named as the model refers to them (`model.onnx`, external data beside it).

    `trials` cover batch 1, 2, 3, an odd size and the maximum, real rows where given, and edge cases; `synthetic` is
    True when no real example was given. `trees` asks for the stricter check around split thresholds.
    `needs_isa` is `verdicts.isa()` of where it was compiled, empty for what any machine runs.
    `notes` are sentences for the person who packages.
    """

    files: Mapping[str, bytes]
    signature: signature.Signature
    trials: tuple[Trial, ...]
    framework: str
    runtime: str = "onnx"
    transforms: tuple[TransformDraft, ...] = ()
    labels: tuple[str, ...] = ()
    max_batch: int = 128
    synthetic: bool = False
    trees: bool = False
    rtol: float = RTOL
    atol: float = ATOL
    precision: str = "fp32"
    needs_isa: str = ""
    lineage: manifest.Lineage = manifest.Lineage()
    sample: Sample | None = None
    notes: tuple[str, ...] = ()
