"""A batcher with everything fake around it: a loop whose turns and clock are told, an instance that runs a function.

Used by the batcher's unit tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.serving.metrics import counters
from windlass.serving.scheduling import batcher, stack
from windlass.types import inference, signature, tensor


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """A loop whose turns and seconds are told."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._later: list[tuple[float, int, FakeTimer, Callable[..., None], tuple[Any, ...]]] = []
        self._ids = itertools.count()

    def time(self) -> float:
        return self.now

    @property
    def idle(self) -> bool:
        return not self._soon and all(timer.cancelled for _, _, timer, _, _ in self._later)

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._soon.append((callback, arguments))

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> FakeTimer:
        timer = FakeTimer()
        self._later.append((self.now + seconds, next(self._ids), timer, callback, arguments))
        return timer

    def turn(self) -> None:
        due = sorted(entry for entry in self._later if entry[0] <= self.now)
        self._later = [entry for entry in self._later if entry[0] > self.now]
        for _, _, timer, callback, arguments in due:
            if not timer.cancelled:
                callback(*arguments)
        soon, self._soon = self._soon, []
        for callback, arguments in soon:
            callback(*arguments)


class FakeInstance:
    """Runs a function; inline at once, else when `finish` is told."""

    def __init__(self, model: Callable[[tensor.Tensors], tensor.Tensors], *, inline: bool) -> None:
        self.busy = False
        self.batches: list[tensor.Tensors] = []
        self._model = model
        self._inline = inline
        self._pending: tuple[tensor.Tensors, batcher.OnRun] | None = None

    def run(self, inputs: tensor.Tensors, done: batcher.OnRun) -> None:
        if self.busy:
            raise AssertionError("a busy instance was given a batch")
        self.batches.append(inputs)
        if self._inline:
            done(self._outcome(inputs), 1e-4)
        else:
            self.busy = True
            self._pending = (inputs, done)

    def finish(self) -> None:
        if self._pending is None:
            return
        (inputs, done), self._pending = self._pending, None
        self.busy = False
        done(self._outcome(inputs), 1e-4)

    def _outcome(self, inputs: tensor.Tensors) -> batcher.Outcome:
        try:
            return self._model(inputs)
        except errors.WindlassError as e:
            return e


class Asked:
    """A call and what came of it."""

    def __init__(
        self,
        inputs: tensor.Tensors,
        contracted: signature.Signature,
        now: float,
        identity: str = "local",
        **options: Any,
    ) -> None:
        self.outcomes: list[inference.InferResponse | errors.WindlassError] = []
        first = next(iter(inputs.values()))
        rows = len(first) if contracted.batched else 1
        key = tuple(array.shape[1:] for array in inputs.values()) if contracted.batched else ()
        request = inference.InferRequest(model="m", inputs=inputs, rows=rows, key=key, **options)
        self.call = inference.Call(
            request=request,
            on_reply=lambda _call, response, _final: self.outcomes.append(response),
            on_fail=lambda _call, error: self.outcomes.append(error),
            arrived=now,
            identity=identity,
            priority=request.priority,
        )

    @property
    def outcome(self) -> inference.InferResponse | errors.WindlassError:
        (only,) = self.outcomes
        return only


class Bench:
    """A batcher with everything fake around it."""

    def __init__(
        self,
        contracted: signature.Signature,
        model: Callable[[tensor.Tensors], tensor.Tensors],
        *,
        max_rows: int,
        inline: bool = True,
        max_queue: int = 1_000,
        delay_s: float = 0.0,
        timeout_s: float = 0.0,
    ) -> None:
        self.loop = FakeLoop()
        self.instance = FakeInstance(model, inline=inline)
        self.series = counters.Counters().runs_of("m", "1")
        plan = batcher.Plan(max_rows=max_rows, max_queue=max_queue, delay_s=delay_s)
        self.batch = batcher.Batcher(
            self.loop,  # type: ignore[arg-type]
            self.instance,
            plan,
            contracted,
            self.series,
            "1",
            clock=self.loop.time,
        )
        self.infer = stack.compose(self.loop, self.batch.submit, timeout_s=timeout_s, timed=not inline)  # type: ignore[arg-type]
        self.contracted = contracted
        self.asked: list[Asked] = []

    def ask(self, inputs: tensor.Tensors, **options: Any) -> Asked:
        asked = Asked(inputs, self.contracted, self.loop.now, **options)
        self.asked.append(asked)
        self.infer(asked.call)
        return asked

    def settle(self) -> None:
        for _ in range(10_000):
            self.loop.turn()
            self.instance.finish()
            if self.loop.idle and not self.instance.busy and all(asked.call.done for asked in self.asked):
                return
            self.loop.now += 0.001
        raise AssertionError("some calls were never answered")


@pytest.fixture(scope="session")
def make_bench() -> type[Bench]:
    """A new bench for a signature, a model and the rows of its largest batch."""
    return Bench
