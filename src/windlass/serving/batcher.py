"""Natural batching: what arrived together runs together, and nothing waits for more unless it was told to.

Calls come from the layers above (`submit`), runs go to an instance. An idle instance runs what arrived in this turn of
the loop; a busy one finds, when it comes back, what queued meanwhile. Requests of one shape share a run; requests
with ragged dimensions are bucketed by size and padded. Must never close a batch early because shapes are mixed, and
never block the loop beyond an inline run.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
import numpy as np

from windlass import errors
from windlass.serving import counters
from windlass.types import contract, inference, signature, tensor

log = logging.getLogger(__name__)
Outcome: TypeAlias = tensor.Tensors | errors.WindlassError
OnRun: TypeAlias = Callable[[Outcome, float], None]


class Instance(Protocol):
    """Where runs happen: on the loop or on a thread of its own. `busy` instances are not given another run."""

    busy: bool

    def run(self, inputs: tensor.Tensors, done: OnRun) -> None:
        """Run, then call `done(outputs or error, seconds)` on the loop; inline instances call it before returning."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """How to batch: at most `max_rows` a run, `max_queue` rows waiting, `delay_s` to wait for more (0: never)."""

    max_rows: int
    max_queue: int
    delay_s: float = 0.0


def bucket_of(size: int) -> int:
    """The bucket of a ragged size: the next power of two from 16 on, so that padding less than doubles the work."""
    return max(16, 1 << (size - 1).bit_length())


class _Ragged:
    """Which axes of which inputs may be padded, from the signature."""

    def __init__(self, contracted: signature.Signature) -> None:
        ragged = {name for name, known in contracted.dimensions.items() if known.mask}
        # Axis in the shape key, which leaves out the batch.
        self.axes = tuple(
            tuple(axis - 1 for axis, d in enumerate(spec.shape) if d in ragged) for spec in contracted.inputs
        )
        self.names = tuple(spec.name for spec in contracted.inputs)
        self.symbols = tuple(
            (name, index, axis)
            for name in sorted(ragged)
            for index, spec in enumerate(contracted.outputs)
            for axis, d in enumerate(spec.shape)
            if d == name
        )
        self.outputs = tuple(spec.name for spec in contracted.outputs)
        self.sources = {
            d: (spec.name, axis)
            for spec in contracted.inputs
            for axis, d in enumerate(spec.shape)
            if isinstance(d, str) and d in ragged
        }

    def bucket(self, key: contract.ShapeKey) -> contract.ShapeKey:
        """The key with ragged sizes rounded up to their bucket."""
        return tuple(
            tuple(bucket_of(size) if axis in axes else size for axis, size in enumerate(shape))
            for shape, axes in zip(key, self.axes, strict=True)
        )

    def join(self, calls: Sequence[inference.Call]) -> tensor.Tensors:
        """One batch from requests of one bucket, each input padded with zeros to the largest of them."""
        joined: tensor.Tensors = {}
        for name, axes in zip(self.names, self.axes, strict=True):
            parts = [call.request.inputs[name] for call in calls]
            if not axes or len({part.shape[1:] for part in parts}) == 1:
                joined[name] = np.concatenate(parts)
                continue
            largest = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True))
            batch = np.zeros((sum(len(part) for part in parts), *largest), dtype=parts[0].dtype)
            start = 0
            for part in parts:
                batch[(slice(start, start + len(part)), *(slice(0, n) for n in part.shape[1:]))] = part
                start += len(part)
            joined[name] = batch
        return joined

    def trim(self, outputs: tensor.Tensors, call: inference.Call) -> tensor.Tensors:
        """Cut the padding off outputs that have a ragged dimension."""
        for symbol, index, axis in self.symbols:
            name = self.outputs[index]
            if name in outputs:
                source, source_axis = self.sources[symbol]
                size = call.request.inputs[source].shape[source_axis]
                cut = [slice(None)] * outputs[name].ndim
                cut[axis] = slice(0, size)
                outputs[name] = outputs[name][tuple(cut)]
        return outputs


class Batcher:
    """The queue in front of one loaded model; an `Infer`. Lives on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        instance: Instance,
        plan: Plan,
        contracted: signature.Signature,
        series: counters.Runs,
        version: str,
        clock: Callable[[], float] = time.perf_counter,
        answered_one: Callable[[], None] | None = None,
    ) -> None:
        """`answered_one` is told when a turn of the loop answered one call and no more."""
        self._clock = clock
        self._answered_one = answered_one
        self._loop = loop
        self._instance = instance
        self._plan = plan
        self._series = series
        self._version = version
        self._batched = contracted.batched
        self._input_names = tuple(spec.name for spec in contracted.inputs)
        ragged = _Ragged(contracted)
        self._ragged = ragged if any(ragged.axes) else None
        self._queues: dict[contract.ShapeKey, collections.deque[inference.Call]] = {}
        # Halves of a batch that failed, each run before anything that is queued.
        self._retries: collections.deque[list[inference.Call]] = collections.deque()
        self._scheduled = False
        # Runs out when `delay_s` is over, unless a batch is full before.
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        # Whether a call that waits is held, so that it leaves at once when it ends early.
        self._held = False
        self.queued_rows = 0

    def submit(self, call: inference.Call) -> None:
        """Take a call; it is answered from a later turn of the loop, or refused now if the queue is full."""
        request = call.request
        rows = request.rows
        if self.queued_rows + rows > self._plan.max_queue and self.queued_rows:
            call.fail(errors.Overloaded(f"the queue of model '{request.model}' is full"))
            return
        key = self._key(call)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = collections.deque()
        queue.append(call)
        self.queued_rows += rows
        if self._instance.busy:
            call.held_by(self._forget)
            self._held = True
        elif not self._scheduled:
            if self._plan.delay_s > 0 and self.queued_rows < self._plan.max_rows:
                if self._timer is None:
                    self._timer = self._loop.call_later(self._plan.delay_s, self._flush)
            else:
                self._scheduled = True
                self._loop.call_soon(self._flush)

    def _key(self, call: inference.Call) -> contract.ShapeKey:
        """What a call must have in common with those it shares a run with: its shapes, and its priority."""
        key = call.request.key if self._ragged is None else self._ragged.bucket(call.request.key)
        return key if call.priority == inference.INTERACTIVE else ((-call.priority,), *key)

    def _flush(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushing = True
        try:
            ran = self._drain()
        finally:
            self._flushing = False
        if ran == 1 and self._answered_one is not None:
            self._answered_one()

    def _drain(self) -> int:
        """Run what is queued as long as the instance takes it; how many calls that were."""
        ran = 0
        while not self._instance.busy:
            if self._retries:
                left = [call for call in self._retries.popleft() if not call.done]
                if left:
                    self._run(left)
            elif self._queues:
                calls = self._take()
                if calls:
                    ran += len(calls)
                    self._run(calls)
            else:
                break
        return ran

    def _take(self) -> list[inference.Call]:
        """The next batch: from the bucket whose first call has the earliest deadline, or came first."""
        queues = self._queues
        if len(queues) == 1:
            key, queue = next(iter(queues.items()))
        else:
            key, queue = min(queues.items(), key=lambda item: _urgency(item[1][0]))
        limit = self._plan.max_rows if self._batched else 1
        if self.queued_rows <= limit and len(queues) == 1:
            # The usual case: all that is queued fits, and nothing in it has to be looked at more closely.
            calls = [call for call in queue if call.deadline is None and not call.done]
            if len(calls) == len(queue):
                for call in calls if self._held else ():
                    call.held_by(None)
                self._held = False
                self.queued_rows = 0
                del queues[key]
                return calls
        taken = rows = 0
        calls = []
        while queue:
            call = queue[0]
            if call.done or (call.deadline is not None and call.deadline <= self._clock()):
                queue.popleft()
                self.queued_rows -= call.request.rows
                call.held_by(None)
                call.fail(errors.DeadlineExceeded("the deadline passed before there was an answer"))
                continue
            rows += call.request.rows
            if calls and rows > limit:
                break
            taken = rows
            call.held_by(None)
            calls.append(queue.popleft())
        self.queued_rows -= taken
        if not queue:
            del queues[key]
        return calls

    def _forget(self, call: inference.Call) -> None:
        """A held call ended while it waited: it leaves at once and never reaches the model."""
        key = self._key(call)
        queue = self._queues[key]
        queue.remove(call)
        if not queue:
            del self._queues[key]
        self.queued_rows -= call.request.rows

    def _run(self, calls: list[inference.Call]) -> None:
        started = self._clock()
        try:
            inputs = self._join(calls)
        except Exception as e:  # noqa: BLE001 - whatever goes wrong, every call gets its one answer
            self._finish(calls, _unexpected(e), 0.0, started)
            return
        self._instance.run(inputs, lambda outcome, run_s: self._finish(calls, outcome, run_s, started))

    def _join(self, calls: list[inference.Call]) -> tensor.Tensors:
        if len(calls) == 1:
            return calls[0].request.inputs
        if self._ragged is not None:
            return self._ragged.join(calls)
        return {name: np.concatenate([c.request.inputs[name] for c in calls]) for name in self._input_names}

    def _finish(self, calls: list[inference.Call], outcome: Outcome, run_s: float, started: float) -> None:
        if isinstance(outcome, errors.WindlassError) and len(calls) > 1:
            # One poisoned row fails alone: halve the batch until it is by itself.
            half = len(calls) // 2
            self._retries.extendleft((calls[half:], calls[:half]))
            calls = []
        if not self._flushing:
            # A thread came back: its next run starts before these answers are written.
            self._flush()
        if not calls:
            return
        if isinstance(outcome, errors.WindlassError):
            calls[0].fail(outcome)
        else:
            try:
                self._answer(calls, outcome, run_s, started)
            except Exception as e:  # noqa: BLE001 - a fault while answering one must not silence the others
                failure = _unexpected(e)
                for call in calls:
                    call.fail(failure)

    def _answer(self, calls: list[inference.Call], outputs: tensor.Tensors, run_s: float, started: float) -> None:
        series = self._series
        rows = sum(call.request.rows for call in calls) if len(calls) > 1 else calls[0].request.rows
        for array in outputs.values():
            if self._batched and len(array) != rows:
                raise errors.InternalError(f"the model gave {len(array)} rows for {rows}")
        waited = [started - call.arrived for call in calls]
        series.ran(rows, run_s, waited, time.time())
        version = self._version
        start = 0
        arrays = list(outputs.items())
        for call, queued in zip(calls, waited, strict=True):
            own = outputs
            if len(calls) > 1:
                stop = start + call.request.rows
                own = {}
                for name, array in arrays:
                    own[name] = array[start:stop]
                start = stop
            if self._ragged is not None:
                own = self._ragged.trim(dict(own), call)
            call.reply(inference.InferResponse(own, version, rows, queued, run_s))


def _urgency(call: inference.Call) -> tuple[int, float]:
    return (call.priority, call.arrived if call.deadline is None else min(call.deadline, call.arrived + 1e6))


def _unexpected(error: Exception) -> errors.WindlassError:
    if isinstance(error, errors.WindlassError):
        return error
    log.exception("a batch failed outside the model", exc_info=error)
    return errors.InternalError("the batch failed outside the model")
