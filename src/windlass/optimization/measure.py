"""How quick and how large a form is, always beside the one it is compared with.

Called by studies and by `windlass optimize`. Must never time two forms one after the other, nor call a difference one
that chance explains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from windlass.optimization import findings, runnable
from windlass.optimization import form as forms
from windlass.types import tensor


class Method(msgspec.Struct, frozen=True):
    """How to time. A round is a block of each form; `repeats` rounds at least, `most_repeats` where it is not clear.

    A block is of as many runs as take `block_s`. `most_s` bounds the whole comparison, down to ten rounds.
    """

    repeats: int = 30
    most_repeats: int = 120
    block_s: float = 0.002
    most_s: float = 20.0
    seed: int = 0


def pair(
    baseline: runnable.Runnable,
    candidate: runnable.Runnable,
    inputs: tensor.Tensors,
    *,
    rows: int,
    threads: int,
    method: Method = Method(),
    clock: Callable[[], float] = time.perf_counter,
) -> findings.Timing:
    """Both forms on the same inputs in turn (A B, B A, ...); milliseconds of one run, the ratio and its interval.

    `rows` and `threads` are what the inputs hold and both were opened with: they are told, not set.
    """
    raise NotImplementedError


def footprint(
    form: forms.Form, inputs: tensor.Tensors, *, threads: int = 1, peak: bool = True, most_s: float = 120.0
) -> findings.Footprint:
    """Bytes of the files, as they are and deflated (zlib, level 6), and the peak memory of a child that runs them.

    `peak` False starts no child. The first lines of a child that failed are the `InternalError`'s.
    """
    raise NotImplementedError


def settings(
    form: forms.Form,
    batches: Mapping[int, tensor.Tensors],
    *,
    threads: Sequence[int],
    method: Method = Method(),
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[findings.Setting, ...]:
    """Each number of threads with each batch (rows -> inputs): median milliseconds of a run, rows a second."""
    raise NotImplementedError


def machine() -> dict[str, Any]:
    """Facts of this machine, as `windlass bench` tells them, with the instruction sets that verdicts are kept by."""
    raise NotImplementedError
