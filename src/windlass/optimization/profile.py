"""Where the time of one run of a model goes, and how much each technique could gain at most.

Called by `windlass profile` and at the start of a study. Must never judge a technique by anything but its bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from windlass.optimization import findings
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.types import tensor


def profile(
    form: forms.Form,
    inputs: tensor.Tensors,
    *,
    rows: int,
    techniques: Sequence[type[base.Technique]],
    threads: int = 1,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> findings.Profile:
    """One run on these inputs, by operator as onnxruntime runs them (fused), for about `seconds`.

    A form in another runtime is measured as a whole, without operators.
    """
    raise NotImplementedError


def installed() -> tuple[type[base.Technique], ...]:
    """The techniques of the catalogue whose libraries are here, by name."""
    raise NotImplementedError
