"""A batcher that was told to wait for more: it waits no longer than it must, and refuses nobody while it waits."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import numpy as np

from windlass.serving.metrics import counters
from windlass.serving.scheduling import batcher
from windlass.types import inference, signature, tensor

ROWS = 4
SIGNATURE = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch",)),), (signature.TensorSpec("y", "FP32", ("batch",)),)
)


class Instance:
    """Answers at once with what it was given."""

    def __init__(self) -> None:
        self.busy = False
        self.sizes: list[int] = []

    def run(self, inputs: tensor.Tensors, done: batcher.OnRun) -> None:
        self.sizes.append(len(inputs["x"]))
        done({"y": inputs["x"]}, 1e-4)


def test_a_batch_that_becomes_full_does_not_wait_for_the_end_of_the_delay() -> None:
    loop, instance = mock.Mock(spec=asyncio.AbstractEventLoop), Instance()
    series = counters.Counters().runs_of("m", "1")
    plan = batcher.Plan(max_rows=ROWS, max_queue=2 * ROWS, delay_s=10.0)
    batch = batcher.Batcher(loop, instance, plan, SIGNATURE, series, "1")
    outcomes: list[Any] = []

    def ask() -> None:
        request = inference.InferRequest("m", {"x": np.zeros(1, np.float32)})
        batch.submit(
            inference.Call(
                request=request,
                on_reply=lambda _call, response, _final: outcomes.append(response),
                on_fail=lambda _call, error: outcomes.append(error),
            )
        )

    for _ in range(ROWS - 1):
        ask()
    loop.call_later.assert_called_once()
    loop.call_soon.assert_not_called()
    for _ in range(2):
        ask()
    loop.call_soon.assert_called_once()
    loop.call_soon.call_args.args[0]()
    assert instance.sizes == [ROWS, 1]
    assert [type(outcome) for outcome in outcomes] == [inference.InferResponse] * (ROWS + 1)
    # The wait is over: the next request begins another.
    loop.call_later.return_value.cancel.assert_called_once()
    ask()
    assert loop.call_later.call_count == 2
