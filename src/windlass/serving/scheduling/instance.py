"""Where a model runs: inline on the loop, or on a thread of its own.

Made by the pool, driven by a batcher. A short run is cheaper on the loop than a hand-off to a thread; a long one would
keep the loop from reading. Must never run two batches of one model at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from windlass import errors
from windlass.runtimes import base
from windlass.serving.scheduling import batcher
from windlass.types import tensor

log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody waits for the end."""


def timed(model: base.LoadedModel, inputs: tensor.Tensors) -> tuple[batcher.Outcome, float]:
    """One run, its outcome and its seconds; a runtime's own exceptions become `InternalError`."""
    started = time.perf_counter()
    outcome: batcher.Outcome
    try:
        outcome = model.run(inputs)
    except errors.WindlassError as e:
        outcome = e
    except BaseException as e:  # noqa: BLE001 - a runtime may raise anything; its callers must all be answered
        outcome = errors.InternalError(f"the model's run failed: {e}")
    return outcome, time.perf_counter() - started


def _unload(model: base.LoadedModel) -> None:
    """Give the model back; one that fails at that must not fail whoever was answered last, or waits for the end."""
    try:
        model.unload()
    except Exception:
        log.exception("a model could not be unloaded")


class Inline:
    """Runs on the loop's thread."""

    def __init__(self, model: base.LoadedModel) -> None:
        self.busy = False
        self._model = model

    def run(self, inputs: tensor.Tensors, done: batcher.OnRun) -> None:
        """Run now."""
        outcome, seconds = timed(self._model, inputs)
        done(outcome, seconds)

    def close(self, closed: Callable[[], None] = _nothing) -> None:
        """Give the model back; `closed` is called when its memory is free."""
        _unload(self._model)
        closed()


class Threaded:
    """Runs on one thread of its own, so that the loop goes on reading meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, model: base.LoadedModel) -> None:
        self.busy = False
        self._loop = loop
        self._model = model
        self._work: queue.SimpleQueue[tuple[tensor.Tensors, batcher.OnRun] | None] = queue.SimpleQueue()
        self._closed: Callable[[], None] = _nothing
        self._thread = threading.Thread(target=self._serve, name="instance", daemon=True)
        self._thread.start()

    def run(self, inputs: tensor.Tensors, done: batcher.OnRun) -> None:
        """Hand the batch to the thread; `done` is called on the loop."""
        self.busy = True
        self._work.put((inputs, done))

    def close(self, closed: Callable[[], None] = _nothing) -> None:
        """End the thread after the run it is in, then give the model back; then `closed` is called on the loop."""
        self._closed = closed
        self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            inputs, done = item
            outcome, seconds = timed(self._model, inputs)
            self._loop.call_soon_threadsafe(self._finished, outcome, seconds, done)
            del item, inputs, outcome, done
        _unload(self._model)
        # A loop that is closed has nobody to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._closed)

    def _finished(self, outcome: batcher.Outcome, seconds: float, done: batcher.OnRun) -> None:
        self.busy = False
        done(outcome, seconds)
