"""Which layers a technique hurts most, and the form that leaves just enough of them as they are.

Called by `study.py` for a technique that can leave nodes out. Must never exclude a layer that was not needed to keep
the budget where fewer do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from windlass.optimization import findings
from windlass.optimization import form as forms
from windlass.types import tensor

Answers: TypeAlias = Callable[[forms.Form], tuple[tensor.Tensors, ...]]
Make: TypeAlias = Callable[[tuple[str, ...]], forms.Form]


class Fallen(msgspec.Struct, frozen=True):
    """The form with `excluded` left as they are; `judged` of it, and whether it is `accepted`."""

    form: forms.Form
    excluded: tuple[str, ...]
    judged: findings.Judged
    accepted: bool
    layers: tuple[findings.Layer, ...]
    tried: int


def layers(
    nodes: Mapping[str, str],
    make: Make,
    answers: Answers,
    original: Sequence[tensor.Tensors],
    *,
    us: Mapping[str, float],
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[findings.Layer, ...]:
    """Each node's sensitivity, most sensitive first: signal to noise of the outputs when it alone is quantized.

    `nodes` are operators by name, `us` their microseconds (absent: 0); `make(excluded)` is the form with these left
    out, `answers(form)` its outputs for the batches that `original` answers. Stops early when `go_on` says no.
    """
    raise NotImplementedError


def fall_back(
    found: Sequence[findings.Layer],
    make: Make,
    judge: Callable[[forms.Form], findings.Judged],
    accept: Callable[[findings.Judged], bool],
    *,
    most: float = 0.5,
    go_on: Callable[[], bool] = lambda: True,
) -> Fallen | None:
    """Leaves out the fewest layers, by loss per microsecond lost, until `accept` says yes.

    At most a share `most` of the layers is left out. None: nothing could be tried; `accepted` False: the form that
    came nearest.
    """
    raise NotImplementedError
