"""A runtime that answers each output with the input of the same place: the shipped fake.

For tests of the server, load tests and examples without a model. Its one file, `echo.json`, holds the tensors and an
optional time to spend per row. Must never be a model anybody trusts: it computes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from windlass import errors
from windlass.runtimes import base
from windlass.types import signature, strict_json, tensor

MODEL_FILE = "echo.json"


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outputs answer with the inputs in order. `fail_above`: a run fails if any input holds a larger number."""

    inputs: tuple[signature.TensorSpec, ...]
    outputs: tuple[signature.TensorSpec, ...]
    run_ms: float = 0.0
    row_ms: float = 0.0
    fail_above: float | None = None


class EchoModel:
    """Gives back what it gets, after the time that its file asks for."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.inputs = behaviour.inputs
        self.outputs = behaviour.outputs
        self._behaviour = behaviour
        self._sources = {out.name: given.name for out, given in zip(self.outputs, self.inputs, strict=True)}

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The inputs, under the outputs' names."""
        behaviour = self._behaviour
        first = inputs[self.inputs[0].name]
        if behaviour.fail_above is not None and (first > behaviour.fail_above).any():
            raise errors.InternalError("the model's run failed: a value is above what echo was told to take")
        pause = behaviour.run_ms + behaviour.row_ms * (len(first) if first.ndim else 1)
        if pause > 0:
            time.sleep(pause / 1000)
        names = [spec.name for spec in self.outputs] if outputs is None else outputs
        return {name: inputs[self._sources[name]] for name in names}

    def unload(self) -> None:
        """Nothing is held."""


class EchoRuntime:
    """The plugin."""

    name: ClassVar[str] = "echo"
    platform: ClassVar[str] = "windlass_echo"
    carries_code: ClassVar[bool] = False

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """A JSON object; only a manifest's word makes it an echo model."""
        return head[:1] == b"{"

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> EchoModel:  # noqa: ARG003 - the seam's signature
        """The model that `echo.json` describes."""
        if MODEL_FILE not in files:
            raise errors.CorruptPackage(f"the package has no '{MODEL_FILE}' for the echo runtime")
        try:
            behaviour = strict_json.decode(bytes(files[MODEL_FILE]), Behaviour, what=MODEL_FILE)
        except errors.InvalidInput as e:
            raise errors.CorruptPackage(e.message) from None
        if len(behaviour.inputs) != len(behaviour.outputs):
            raise errors.CorruptPackage("an echo model has as many outputs as inputs")
        return EchoModel(behaviour)
