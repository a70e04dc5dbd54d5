"""What a runtime is: it loads the verified bytes of one format and runs tensors through them.

Implemented by each file beside this one and found through the catalogue. Must never open a path or an address: all
the bytes it gets were checked against their digests before it was called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, TypeAlias

import msgspec

from windlass.types import signature, tensor

Files: TypeAlias = Mapping[str, bytes | memoryview]


class Options(msgspec.Struct, frozen=True):
    """How to run: `threads` inside one run (0: the runtime's default).

    `optimize` False runs the model as it is written, which is what an optimized run is compared with.
    """

    threads: int = 1
    optimize: bool = True


class LoadedModel(Protocol):
    """A model in memory. `run` may be called from any one thread at a time."""

    inputs: tuple[signature.TensorSpec, ...]
    outputs: tuple[signature.TensorSpec, ...]

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all) for inputs that passed the contract; `InternalError` if the run fails."""
        ...

    def unload(self) -> None:
        """Give the memory back; the model is not used again."""
        ...


class Runtime(Protocol):
    """The plugin: one format. `carries_code` formats run only in a sandboxed process."""

    name: ClassVar[str]
    platform: ClassVar[str]
    carries_code: ClassVar[bool]

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """Whether a file that begins with these bytes (up to 4 KiB) may be this format."""
        ...

    @classmethod
    def load(cls, files: Files, options: Options) -> LoadedModel:
        """The model from its verified files; `CorruptPackage` if they are not this format."""
        ...
