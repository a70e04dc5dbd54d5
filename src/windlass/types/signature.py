"""The signature of a model: its named tensors, their datatypes, shapes and meaning.

Written by capture, kept in the manifest, compiled into a `Contract` by serving.
Must never depend on a framework: it is what stays when the framework is gone.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BATCH = "batch"


class Dimension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A symbolic dimension: the sizes it accepts, and how requests of different sizes share a batch.

    With `mask` set, the dimension is ragged: shorter rows are padded with zeros, and the input named by `mask`
    is zero where the padding is.
    """

    minimum: int = 1
    maximum: int | None = None
    mask: str = ""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One named tensor. `shape` holds sizes, or the names of symbolic dimensions (`batch` is the batch's)."""

    name: str
    datatype: str
    shape: tuple[int | str, ...]
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    missing: Literal["allow", "refuse"] = "allow"
    pii: str = ""
    meaning: str = ""


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All inputs and outputs of a model; `dimensions` says more about symbolic ones (absent: any size >= 1)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dimensions: dict[str, Dimension] = {}

    @property
    def batched(self) -> bool:
        """True when axis 0 of every tensor is the batch, so that requests may share a run."""
        tensors = self.inputs + self.outputs
        return bool(self.inputs) and all(t.shape and t.shape[0] == BATCH for t in tensors)

    def dimension(self, name: str) -> Dimension:
        """What is known of a symbolic dimension."""
        return self.dimensions.get(name, Dimension())
