"""A version that is asked the same as the others, when there is slack, and whose answers are compared and never sent.

Given answered requests by `question.py` on the loop; asks and compares on a thread of its own, at the lowest
priority, in batches with long pauses between them. Must never run, decode or compare on the loop, hold a request
that waits for its answer, or let its queue grow.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from windlass import errors, telemetry
from windlass.serving.metrics import counters
from windlass.serving.routing import arms, classes, comparing, differing, disagreements, loader
from windlass.serving.scheduling import instance
from windlass.types import directory, inference, spec, tensor

log = logging.getLogger(__name__)
QUEUE_REQUESTS = 256
QUEUE_BYTES = 32 * 1024 * 1024
BATCH_ROWS = 64
PAUSE_S, LONGEST_PAUSE_S = 0.02, 5.0
# While this thread is in Python the loop waits for it: it is so for at most one part in so many.
_AWAY = 200
_WRITE_S = 5.0
_CLOSING_S = 2.0
_LOWEST = 19
Mirror: TypeAlias = Callable[[inference.InferRequest, inference.InferResponse, directory.Again], None]


class _Pair(msgspec.Struct, frozen=True):
    """A request that was answered by `arm`; `again` decodes it where the shadow reads bodies otherwise.

    `reader` finds the class of that answer (None: it has none), `epoch` is the number of the rollout.
    """

    arm: str
    request: inference.InferRequest
    response: inference.InferResponse
    again: directory.Again | None
    size: int
    reader: classes.Reader | None
    epoch: int


class Counts:
    """Cumulative, one slot each. The first three are written by the loop, the others by the shadow's thread.

    `classed` are compared requests of one row to which both gave a class, `class_differed` those with two classes.
    `scored` are rows whose outputs look like scores, `same_top` those of them where the highest is the same.
    """

    def __init__(self, series: counters.Counters, endpoint: str, name: str) -> None:
        self.mirrored, self.dropped, self.skipped, self.compared, self.disagreed, self.failed = (
            series.counter(telemetry.SHADOWED, endpoint, name, result)
            for result in ("mirrored", "dropped", "skipped", "compared", "disagreed", "failed")
        )
        self.classed, self.class_differed = (
            series.counter(telemetry.SHADOWED, endpoint, name, result) for result in ("classed", "class_differed")
        )
        self.scored, self.same_top = (
            series.counter(telemetry.SHADOW_ROWS, endpoint, name, result) for result in ("scored", "same_top")
        )


class Shadow:
    """One shadow of one endpoint. `uses` counts the routings that have it; `settings` may change meanwhile."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: spec.Endpoint,
        loaded: loader.Loaded,
        counts: Counts,
        store: disagreements.Store,
        log: differing.Log,
        *,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`endpoint` has the shadow's arm only, and the shadow's settings."""
        self.identity = arms.identity(endpoint)
        self.loaded = loaded
        self.settings = endpoint.shadow or spec.Shadow(endpoint.arms[0])
        self.counts = counts
        self.max_difference = 0.0
        self.uses = directory.Lease()
        self._loop = loop
        self._view = arms.view_of(endpoint, loaded, _never)
        self._batched = self._view.signature.batched
        self._store = store
        self._log = log
        self._reader = classes.reader(loaded.session.package.manifest)
        self._uniform = uniform
        self._clock = clock
        self._queue: collections.deque[_Pair] = collections.deque()
        # Bytes taken by the loop and let go by the thread: each is written by one of them.
        self._taken = self._let_go = 0
        self._ended = threading.Event()
        self._closed: Callable[[], None] | None = None
        self._told = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Ask and compare from now on."""
        self._thread = threading.Thread(target=self._serve, name="shadow", daemon=True)
        self._thread.start()

    def close(self, closed: Callable[[], None]) -> None:
        """End after the batch it is in; `closed` is called on the loop once the memory is free."""
        self._closed = closed
        self._ended.set()
        if self._thread is None:
            self.loaded.session.close()
            closed()

    def finish(self) -> None:
        """End now, whoever uses it, and write what there is to be kept: the process ends."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_CLOSING_S)

    def mirror_of(self, primary: loader.Loaded, arm: str, epoch: int) -> Mirror:
        """What takes the answered requests of an arm; called on the loop, and back at once."""
        same = _reads_alike(primary, self.loaded)
        reader = classes.reader(primary.session.package.manifest)
        counts, queue, uniform = self.counts, self._queue, self._uniform

        def mirror(request: inference.InferRequest, response: inference.InferResponse, again: directory.Again) -> None:
            if uniform() * 100 >= self.settings.share:
                counts.skipped[0] += 1
                return
            if len(queue) >= QUEUE_REQUESTS:
                counts.dropped[0] += 1
                return
            size = sum(array.nbytes for part in (request.inputs, response.outputs) for array in part.values())
            if self._taken - self._let_go + size > QUEUE_BYTES:
                counts.dropped[0] += 1
                return
            counts.mirrored[0] += 1
            self._taken += size
            queue.append(_Pair(arm, request, response, None if same else again, size, reader, epoch))

        return mirror

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        pause = PAUSE_S
        written = self._clock()
        while not self._ended.wait(pause):
            try:
                pause = min(max(PAUSE_S, _AWAY * self.turn()), LONGEST_PAUSE_S)
                self._log.write()
                if self._clock() - written > _WRITE_S:
                    self._store.write()
                    written = self._clock()
            except Exception:  # a shadow that stumbles must neither end nor be silent
                log.exception("the shadow of '%s' failed", self._view.name)
        with contextlib.suppress(OSError):
            self._store.write()
        self._log.close()
        self._queue.clear()
        self.loaded.session.close()
        if self._closed is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self._closed)

    def turn(self) -> float:
        """Ask and compare one batch of what is queued; the seconds that this took, without the model's runs."""
        started = self._clock()
        groups: dict[Any, list[_Pair]] = {}
        rows = 0
        while self._queue and rows < BATCH_ROWS:
            pair = self._queue.popleft()
            self._let_go += pair.size
            rows += pair.request.rows
            try:
                pair = self._decoded(pair)
            except Exception as e:  # noqa: BLE001 - its own transforms may raise anything
                self._failed(1, e)
                continue
            groups.setdefault(_shapes(pair), []).append(pair)
        ran = 0.0
        for group in groups.values():
            for batch in [group] if self._batched else [[pair] for pair in group]:
                try:
                    ran += self._ask(batch)
                except Exception as e:  # noqa: BLE001 - answers that cannot be compared
                    self._failed(len(batch), e)
        return self._clock() - started - ran

    def _failed(self, requests: int, error: Exception) -> None:
        """Count what could not be compared; the first one that nobody expected is told."""
        self.counts.failed[0] += requests
        if not self._told and not isinstance(error, errors.WindlassError):
            self._told = True
            log.error("the shadow of '%s' stumbles", self._view.name, exc_info=error)

    def _decoded(self, pair: _Pair) -> _Pair:
        if pair.again is None:
            return pair
        return msgspec.structs.replace(pair, request=pair.again(self._view), again=None)

    def _ask(self, batch: Sequence[_Pair]) -> float:
        """Run a batch and compare; if it fails, each request by itself. The seconds of the runs."""
        inputs = _joined([pair.request.inputs for pair in batch])
        outcome, seconds = instance.timed(self.loaded.session.model, inputs)
        if isinstance(outcome, errors.WindlassError):
            if len(batch) > 1:
                return seconds + sum(self._ask([pair]) for pair in batch)
            self._failed(1, outcome)
            return seconds
        rows = sum(pair.request.rows for pair in batch) if self._batched else 1
        settings, counts = self.settings, self.counts
        answers = _joined([pair.response.outputs for pair in batch])
        found = comparing.compare(answers, outcome, rows=rows, atol=settings.atol, rtol=settings.rtol)
        counts.compared[0] += len(batch)
        self.max_difference = max(self.max_difference, float(found.size.max()))
        self._classify(batch, answers, outcome, rows)
        if found.same_top is not None:
            counts.scored[0] += rows
            counts.same_top[0] += int(found.same_top.sum())
        if found.differs.any():
            self._keep(batch, found, outcome)
        return seconds

    def _classify(self, batch: Sequence[_Pair], answers: tensor.Tensors, outcome: tensor.Tensors, rows: int) -> None:
        """Compare the classes of the requests of one row: a label is told of a request, not of a row."""
        theirs = batch[0].reader
        if theirs is None or self._reader is None:
            return
        answered, mirrored = theirs.read(answers, rows), self._reader.read(outcome, rows)
        if answered is None or mirrored is None:
            return
        at = 0
        for pair in batch:
            if pair.request.rows == 1:
                self.counts.classed[0] += 1
                if answered[at] != mirrored[at]:
                    self.counts.class_differed[0] += 1
                    names = pair.arm, self.settings.arm.name
                    self._log.add(pair.request.id, names, (answered[at], mirrored[at]), pair.epoch)
            at += pair.request.rows

    def _keep(self, batch: Sequence[_Pair], found: comparing.Comparison, outputs: tensor.Tensors) -> None:
        start = 0
        for pair in batch:
            part = slice(start, start + pair.request.rows) if self._batched else slice(None)
            start += pair.request.rows
            if not found.differs[part].any():
                continue
            self.counts.disagreed[0] += 1
            about = disagreements.Disagreement(
                request=pair.request.id,
                arm=pair.arm,
                shadow=self.settings.arm.name,
                difference=float(found.size[part].max()),
            )
            theirs = {name: array[part] for name, array in outputs.items()} if self._batched else outputs
            self._store.add(about, pair.request.inputs, pair.response.outputs, theirs)


def _never(call: inference.Call) -> None:
    call.fail(errors.InternalError("a shadow is never asked by callers"))


def _reads_alike(one: loader.Loaded, two: loader.Loaded) -> bool:
    """Whether two versions make the same tensors of the same body."""
    ours, theirs = one.session.package.manifest, two.session.package.manifest
    return (ours.transforms, ours.signature.inputs, ours.signature.dimensions) == (
        theirs.transforms,
        theirs.signature.inputs,
        theirs.signature.dimensions,
    )


def _shapes(pair: _Pair) -> tuple[Any, ...]:
    """Equal for requests whose inputs and answers may be joined, and whose classes are read alike."""
    every = (*pair.request.inputs.items(), *pair.response.outputs.items())
    return (pair.reader, *((name, array.shape[1:], array.dtype) for name, array in every))


def _joined(parts: Sequence[tensor.Tensors]) -> tensor.Tensors:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
