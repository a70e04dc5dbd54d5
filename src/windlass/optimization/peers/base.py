"""What a peer is: another way to run a form, whose answers show whether ours are those of the form itself.

Implemented by each file beside this one, found through the catalogue, asked by `parity.py`. Must never send anything
from this machine, nor be served with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias

from windlass.optimization import form as forms
from windlass.types import tensor

Run: TypeAlias = Callable[[tensor.Tensors], tensor.Tensors]


class Peer(Protocol):
    """The plugin. `pace` is how many times as long as onnxruntime it may take for a row, at worst."""

    name: ClassVar[str]
    pace: ClassVar[float]

    @classmethod
    def refusal(cls, form: forms.Form) -> str:
        """Why it cannot run this form, in a sentence; empty where it can be tried. Quick: nothing is run."""
        ...

    @classmethod
    def open(cls, form: forms.Form) -> Run:
        """The form made ready: arrays by input name to all outputs by name. Whatever it raises is told."""
        ...
