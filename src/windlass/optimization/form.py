"""A form of a model: its files, what runs them, and the steps that led from the original to it.

Made by techniques from another form, measured and judged by a study. Must never be changed: another form is another
value.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import msgspec

from windlass.runtimes import base
from windlass.types import strict_json


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One technique with its parameters (JSON values), as a recipe holds it."""

    technique: str
    parameters: dict[str, Any] = {}


class Left(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node of the graph that stayed as it was, and why."""

    node: str
    operator: str
    why: str


class Form(msgspec.Struct, frozen=True, dict=True):
    """One way to hold a model. `files` are named as the model refers to them, as in a package.

    `network` is the live torch module behind the files where there is one (forms that training made, or the user's
    own): techniques that train start from it. `left` lists what a technique could not or should not touch.
    """

    files: dict[str, bytes]
    runtime: str = "onnx"
    precision: str = "fp32"
    options: base.Options = base.Options()
    steps: tuple[Step, ...] = ()
    network: Any = None
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """`sha256:<hex>` over the runtime, its options and the files: equal forms compute the same."""
        told = [self.runtime, msgspec.to_builtins(self.options), self.precision]
        names = [[name, hashlib.sha256(data).hexdigest()] for name, data in sorted(self.files.items())]
        return f"sha256:{hashlib.sha256(strict_json.canonical([*told, names])).hexdigest()}"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(len(data) for data in self.files.values())

    @property
    def name(self) -> str:
        """What people call it: its techniques in their order."""
        return " + ".join(step.technique for step in self.steps) or "original"
