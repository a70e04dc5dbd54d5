"""A form made ready to run, as a server would run it.

Opened by measuring, judging, profiling and parity. Must never run code that a form carries in this process, unless
this process made it.
"""

from __future__ import annotations

from typing import Literal, Protocol

from windlass.optimization import form as forms
from windlass.types import tensor

Level = Literal["none", "basic", "extended", "all"]


class Runnable(Protocol):
    """A form in memory; from one thread at a time."""

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """All outputs by name; `InternalError` if the run fails."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def open(  # noqa: A001 - read as runnable.open
    form: forms.Form, *, threads: int = 1, level: Level | None = None, made_here: bool = False
) -> Runnable:
    """The form, loaded. `level`: onnxruntime's graph optimizations (None: as the form's options say, as served).

    A runtime that carries code runs in a confined process, as it is served; with `made_here`, in this one: only for a
    program that this process compiled itself. `CorruptPackage` or `Unsupported` as the runtime says.
    """
    raise NotImplementedError
