"""The manifest of a package: everything about a model but its bytes, and those by digest.

Written by `packaging/build.py`, read by `packaging/manifest.py` under strict rules. Holds no measurement and no
timestamp: what was measured is evidence, kept apart and keyed by this manifest's digest.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from windlass.types import signature

FORMAT_VERSION = 1


class BlobRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes by their SHA-256 (`sha256:<hex>`) and their size in bytes."""

    digest: str
    size: int


class TransformSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One transform: its kind (a name in the catalogue), its parameters, its files."""

    kind: str
    parameters: dict[str, Any] = {}
    blobs: dict[str, BlobRef] = {}


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The model's files and the runtime that runs them. `blobs` names each file as the model refers to it."""

    runtime: str
    blobs: dict[str, BlobRef]
    ir_version: int = 0
    opset: int = 0
    precision: str = "fp32"
    needs_isa: str = ""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stored inputs and the outputs they must give, checked at every load (tensor files)."""

    inputs: BlobRef
    outputs: BlobRef
    rtol: float
    atol: float


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows on which a package that was made of another must resemble it, on every processor (tensor files).

    Checked at a load where the instruction sets are not `isa`, those on which it was made. `answers` holds one tensor,
    named as the output that it is about: class numbers (INT64 `[rows]`) for `accuracy` (the true ones) and `agreement`
    (the parent's), the parent's values for `sqnr_db` (signal to noise, in decibels). The measure must reach `least`.
    """

    inputs: BlobRef
    answers: BlobRef
    measure: Literal["accuracy", "agreement", "sqnr_db"]
    least: float
    isa: str


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one request may hold: rows, elements over all inputs, bytes of body."""

    max_batch: int = 128
    max_elements: int = 16_777_216
    max_body: int = 16_777_216


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What people should know."""

    description: str = ""
    licence: str = ""
    owner: str = ""
    intended_use: str = ""


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that a person sends for each row, as `types.fields.Field` has it but for the prose.

    `categories` are the only ones taken; without any, a category may be any text.
    """

    name: str
    kind: Literal["text", "image", "number", "category"]
    required: bool = True
    categories: tuple[str, ...] = ()


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where it came from: framework and version, source commit, digests of data, the parent's digest, a recipe."""

    framework: str = ""
    source: str = ""
    source_commit: str = ""
    data: tuple[str, ...] = ()
    parent: str = ""
    recipe: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A package. The SHA-256 of its canonical JSON is the package's identity."""

    name: str
    kind: Literal["model", "pipeline"]
    signature: signature.Signature
    model: ModelSpec
    golden: Golden
    transforms: tuple[TransformSpec, ...] = ()
    # What people send, and the media types of a body that is one field's value: what the transforms say when loaded.
    fields: tuple[Field, ...] = ()
    media: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    limits: Limits = Limits()
    card: Card = Card()
    lineage: Lineage = Lineage()
    sample: Sample | None = None
    # Always written, even at its default, so that a reader knows the format before anything else.
    format_version: int = msgspec.field(default=FORMAT_VERSION)

    def blobs(self) -> dict[str, BlobRef]:
        """Every blob of the package, by digest."""
        every = [*self.model.blobs.values(), self.golden.inputs, self.golden.outputs]
        if self.sample is not None:
            every += [self.sample.inputs, self.sample.answers]
        for transform in self.transforms:
            every.extend(transform.blobs.values())
        return {ref.digest: ref for ref in every}
