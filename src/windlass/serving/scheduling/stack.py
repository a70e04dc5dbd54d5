"""The layers in front of a batcher, in their one order: deadline, then the batcher.

Composed by the pool for each endpoint. A layer that is not configured is absent, not switched off inside.
Must never know a protocol.
"""

from __future__ import annotations

import asyncio

from windlass import errors
from windlass.types import inference


def deadline(
    loop: asyncio.AbstractEventLoop, below: inference.Infer, *, default_s: float, timed: bool
) -> inference.Infer:
    """End a call when its time is up, whether it waits or runs; its run, if any, is not interrupted.

    `default_s` 0 leaves calls without a timeout of their own alone. `timed` False is for models that run on the loop:
    nothing could fire while they run, and the batcher ends the calls whose time is up before their run.
    """

    def expire(call: inference.Call) -> None:
        call.fail(errors.DeadlineExceeded("the deadline passed before there was an answer"))

    def infer(call: inference.Call) -> None:
        timeout = call.request.timeout_s
        if timeout is None:
            timeout = default_s
        if timeout:
            # Calls count from their last byte, which came a little before this turn's clock.
            call.deadline = call.arrived + timeout
            if timed:
                call.timer = loop.call_later(timeout, expire, call)
        below(call)

    return infer


def compose(
    loop: asyncio.AbstractEventLoop, batch: inference.Infer, *, timeout_s: float, timed: bool
) -> inference.Infer:
    """The stack of one endpoint."""
    return deadline(loop, batch, default_s=timeout_s, timed=timed)
