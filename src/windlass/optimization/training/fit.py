"""One training loop for all techniques that train.

Called by the techniques that train. Must never change the network it was given, nor look at rows but the lesson's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from windlass.optimization.techniques import base


class Plan(msgspec.Struct, frozen=True):
    """How to train. `inputs` names what the network takes, in the signature's order.

    `steps` are batches of `batch` rows in all (0: `epochs` times the rows); fewer where `seconds` do not allow them.
    `loss`: `classes` is cross-entropy, `values` the mean squared error, `auto` tells by the labels. Of the loss `alpha`
    is the teachers' part, at `temperature` (Hinton, Vinyals and Dean, 2015). `threads` 0: as torch is set.
    `reference` are the holdout losses of a fit that went well, at equal parts of its steps: one that stays far above
    them is given up.
    """

    inputs: tuple[str, ...]
    seconds: float = 600.0
    seed: int = 0
    epochs: float = 5.0
    steps: int = 0
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    loss: Literal["auto", "classes", "values"] = "auto"
    alpha: float = 0.5
    temperature: float = 2.0
    threads: int = 0
    reference: tuple[float, ...] = ()


class Fitted(msgspec.Struct, frozen=True):
    """A trained copy of the network (eval mode, the best state on the holdout), and how it went.

    `history` are the holdout losses, evenly over the steps; `stopped` says in a sentence why it ended.
    """

    network: Any
    history: tuple[float, ...]
    steps: int
    seconds: float
    stopped: str


def fit(
    network: Any,
    lesson: base.Lesson,
    plan: Plan,
    *,
    kept: Path | None = None,
    on_step: Callable[[Any, float], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Fitted:
    """Train a copy of `network` on the lesson: AdamW (Loshchilov and Hutter, 2019) with a cosine schedule.

    `on_step` is called with the copy and the part of the steps done (0 to 1) before the first and after every step:
    masks are held there. `kept` is a folder for the state: the same call goes on from it, and ends with the same
    network as one that was not interrupted. `CaptureFailed` where the loss is not finite or the network does not run;
    `UsageError` where the lesson does not fit it.
    """
    raise NotImplementedError
