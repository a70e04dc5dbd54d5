"""Fields and columns: what a person sends and reads, before and after the transforms.

Shared by transforms (which turn columns into tensors and back) and protocols (which turn a body into columns).
Columns are arrays whose axis 0 is the row; text, bytes and categories are object arrays, a missing value is None
in an object array and NaN in a float one. Must never hold a parameter of a transform.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec

from windlass.types import tensor

Columns: TypeAlias = dict[str, tensor.Array]


class Field(msgspec.Struct, frozen=True):
    """One thing that a person sends for each row.

    `text`: object array of str. `image`: object array of bytes (an encoded picture). `number`: float64.
    `category`: object array of str. `required` False lets the column be absent or hold missing values.
    """

    name: str
    kind: Literal["text", "image", "number", "category"]
    required: bool = True
    categories: tuple[str, ...] = ()
    meaning: str = ""


class Transformer(Protocol):
    """All the transforms of one package, in order. `fields` is empty when people may send tensors only.

    `media` are the media types of a body that is one field's whole value (`image/png`, `text/plain`).
    Bodies of up to `inline_bytes` may be prepared on the event loop; larger ones go to a thread.
    """

    @property
    def fields(self) -> tuple[Field, ...]: ...
    @property
    def media(self) -> tuple[str, ...]: ...
    @property
    def inline_bytes(self) -> int: ...

    def prepare(self, columns: Columns) -> tensor.Tensors:
        """Model inputs from a person's columns; `InvalidInput` names the field and row."""
        ...

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> Columns:
        """A person's answer columns from the model's outputs (and the inputs that some transforms need)."""
        ...
