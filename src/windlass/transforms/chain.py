"""All the transforms of one package in order: a person's columns to model inputs, and outputs to an answer.

Built by `packaging/session.py` and `build.py`, used through `types.fields.Transformer`. Must never reorder what
a manifest says.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.transforms import base
from windlass.types import fields, manifest, tensor


class Chain:
    """A `types.fields.Transformer` over transforms in manifest order."""

    def __init__(self, transforms: Sequence[base.Transform]) -> None:
        self._pre = tuple(t for t in transforms if t.stage == "pre")
        self._post = tuple(t for t in transforms if t.stage == "post")
        self._needs = tuple(name for t in self._post for name in t.needs)
        self.fields: tuple[fields.Field, ...] = tuple(f for t in self._pre for f in t.reads)
        self.media: tuple[str, ...] = tuple(m for t in self._pre for m in t.media)
        self.inline_bytes: int = min((t.inline_bytes for t in self._pre), default=base.INLINE_ALWAYS)

    def declared(self) -> tuple[tuple[manifest.Field, ...], tuple[str, ...]]:
        """The fields and the media types as a manifest holds them."""
        return tuple(manifest.Field(f.name, f.kind, f.required, f.categories) for f in self.fields), self.media

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        """Model inputs from a person's columns, by the pre-transforms in order."""
        for transform in self._pre:
            columns = transform.apply(columns)
        return columns

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        """Answer columns from the model's outputs, by the post-transforms in order."""
        columns = dict(outputs)
        for name in self._needs:
            columns[name] = inputs[name]
        for transform in self._post:
            columns = transform.apply(columns)
        return columns
