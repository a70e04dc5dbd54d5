"""What a transform is: declarative, parameters and files only, columns in and columns out.

Implemented by each file beside this one and found through the catalogue. Must never run code from a package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from windlass.types import fields

INLINE_ALWAYS = 1 << 62


class Transform(Protocol):
    """One transform of one package, loaded and ready; shared by all requests, on any thread.

    A `pre` transform takes its `reads` fields from a person's columns and puts model inputs in their place.
    A `post` transform reads the model's outputs (and the model inputs named in `needs`, which are laid beside the
    outputs before it runs) and puts answer columns in their place. Columns it does not know pass through.
    `media`: media types of a body that is one field's value. `inline_bytes`: the body size up to which it is quick.
    """

    stage: Literal["pre", "post"]
    reads: tuple[fields.Field, ...]
    media: tuple[str, ...]
    needs: tuple[str, ...]
    inline_bytes: int

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """New columns; the ones given are left as they are. `InvalidInput` names the field and the row."""
        ...


class TransformKind(Protocol):
    """The plugin: a kind of transform, made from a manifest's parameters and files."""

    name: ClassVar[str]

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Transform:
        """The transform; `InvalidInput` on a parameter that is unknown, missing or out of range."""
        ...
