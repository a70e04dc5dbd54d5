"""Instances with real threads: one run at a time whatever the callers do, and memory given back before it is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from windlass import errors
from windlass.serving.metrics import counters
from windlass.serving.scheduling import batcher, instance, stack
from windlass.types import inference, signature, tensor

X = signature.TensorSpec("x", "FP32", ("batch",))
SIGNATURE = signature.Signature((X,), (signature.TensorSpec("y", "FP32", ("batch",)),))


class Model:
    """Runs until it is let go; knows how many runs went on at once, and what happened in which order."""

    inputs = outputs = ()

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.running = self.most = self.runs = 0
        self.events: list[str] = []

    def run(self, inputs: tensor.Tensors, outputs: Any = None) -> tensor.Tensors:
        self.running += 1
        self.most = max(self.most, self.running)
        self.go.acquire(timeout=20)
        self.running -= 1
        self.runs += 1
        self.events.append("ran")
        return {"y": inputs["x"]}

    def unload(self) -> None:
        self.events.append("unloaded")


@pytest.mark.promise("P-34")
def test_calls_that_time_out_make_no_room_for_more_runs() -> None:
    async def drill() -> None:
        loop, model = asyncio.get_running_loop(), Model()
        place = instance.Threaded(loop, model)  # type: ignore[arg-type]
        plan = batcher.Plan(max_rows=1, max_queue=100)
        batch = batcher.Batcher(loop, place, plan, SIGNATURE, counters.Counters().runs_of("m", "1"), "1")
        infer = stack.compose(loop, batch.submit, timeout_s=0.01, timed=True)
        ended: list[Any] = []
        for _ in range(20):
            infer(
                inference.Call(
                    request=inference.InferRequest("m", {"x": np.zeros(1, np.float32)}),
                    on_reply=lambda _call, response, _final: ended.append(response),
                    on_fail=lambda _call, error: ended.append(error),
                    arrived=loop.time(),
                )
            )
        while len(ended) < 20:
            await asyncio.sleep(0.01)
        assert {type(end) for end in ended} <= {errors.DeadlineExceeded, errors.Overloaded}
        # All callers are gone; the one run that began goes on, and no other did.
        assert (model.running, model.most) == (1, 1)
        assert not model.events
        assert batch.queued_rows == 0
        model.go.release()
        while not model.events:
            await asyncio.sleep(0.001)
        assert (model.most, model.runs) == (1, 1)
        closed = asyncio.Event()
        place.close(closed.set)
        await asyncio.wait_for(closed.wait(), 10)
        assert model.events == ["ran", "unloaded"]

    asyncio.run(drill())


@pytest.mark.promise("P-38")
def test_the_end_is_told_when_the_run_is_over_and_the_memory_free() -> None:
    async def drill() -> list[str]:
        loop, model = asyncio.get_running_loop(), Model()
        place = instance.Threaded(loop, model)  # type: ignore[arg-type]
        place.run({"x": np.zeros(1, np.float32)}, lambda *_: model.events.append("answered"))
        closed = asyncio.Event()

        def told() -> None:
            model.events.append("closed")
            closed.set()

        place.close(told)
        await asyncio.sleep(0.02)
        assert model.events == []
        model.go.release()
        await asyncio.wait_for(closed.wait(), 10)
        return model.events

    events = asyncio.run(drill())
    assert sorted(events) == ["answered", "closed", "ran", "unloaded"]
    assert events[0] == "ran"
    assert events[-1] == "closed"


def test_an_inline_model_is_given_back_at_once() -> None:
    model = Model()
    instance.Inline(model).close(lambda: model.events.append("closed"))  # type: ignore[arg-type]
    assert model.events == ["unloaded", "closed"]
