"""Trains a smaller network on a teacher's answers (Hinton, Vinyals, Dean, 2015).

Found through the catalogue, driven by a study. Must never change a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windlass.optimization import form as forms
from windlass.optimization.techniques import base


class Distill:
    """The plugin."""

    name: ClassVar[str] = "distill"
    trains: ClassVar[bool] = True
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset({"latency", "size", "memory"})

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """What may be varied for this form."""
        raise NotImplementedError

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """Why it does not apply; empty where it does."""
        raise NotImplementedError

    @classmethod
    def apply(cls, form: forms.Form, parameters: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form it makes."""
        raise NotImplementedError
