"""What a capture source is: it turns one framework's model into a `Draft`, as ONNX unless told otherwise.

Implemented by each file beside this one, found through the catalogue, called by `packaging/package.py`: directly for
live objects and formats without code, in a sandboxed child otherwise. Must never fall back to a weaker loader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from windlass.packaging import draft
from windlass.types import tensor


class Options(msgspec.Struct, frozen=True):
    """What the user said. `example` are real inputs by name (one array under `""` when the model has one input).

    `dynamic` names further dynamic axes: input name -> {axis: dimension name}; axis 0 is `batch` unless
    `batched` is False. `input_names`/`output_names` override what the framework calls them. `runtime` is what runs the
    package: ONNX, or by name the framework's own program as it is, which carries code.
    """

    example: tensor.Tensors | None = None
    labels: tuple[str, ...] = ()
    transforms: tuple[draft.TransformDraft, ...] = ()
    dynamic: dict[str, dict[int, str]] = {}
    batched: bool = True
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    max_batch: int = 128
    seed: int = 0
    runtime: str = "onnx"


class CaptureSource(Protocol):
    """The plugin: one framework. `carries_code` means that reading a file of it may run what the file says.

    `max_batch` is the most rows of one request where the user does not say.
    """

    name: ClassVar[str]
    carries_code: ClassVar[bool]
    max_batch: ClassVar[int]

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """Whether this is the one for a live object or a path. Must not import the framework to say no."""
        ...

    @classmethod
    def capture(cls, source: Any | Path, options: Options) -> draft.Draft:
        """The draft; `CaptureFailed` says which operator and line, and what to try; `InvalidInput` on a bad example."""
        ...
