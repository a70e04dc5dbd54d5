"""Natural batching: what arrived together runs together, and nothing waits for more unless it was told to.

Calls come from the layers above (`submit`), runs go to an instance. An idle instance runs what arrived in this turn of
the loop; a busy one finds, when it comes back, what queued meanwhile. Requests of one shape share a run; requests
with ragged dimensions are bucketed by size and padded. Must never close a batch early because shapes are mixed, let
in what would wait for longer than it is worth, or block the loop beyond an inline run.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from windlass import errors
from windlass.serving.metrics import counters
from windlass.serving.scheduling import admission, measure, queues, ragged, slo, suspects
from windlass.types import contract, inference, signature, tensor

log = logging.getLogger(__name__)
Outcome: TypeAlias = tensor.Tensors | errors.WindlassError
OnRun: TypeAlias = Callable[[Outcome, float], None]
# Of runs on the loop one in so many is learned from: more would cost single requests what it can never save them.
_SAMPLED = 16


class Instance(Protocol):
    """Where runs happen: on the loop, or on a thread or in a process of its own.

    `busy` instances are not given another run. A run that was begun is never taken back: a call that ends meanwhile
    does not make room, so that no more than one run goes on at any time.
    """

    busy: bool

    def run(self, inputs: tensor.Tensors, done: OnRun) -> None:
        """Run, then call `done(outputs or error, seconds)` on the loop; inline instances call it before returning."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """How to batch: at most `max_rows` a run at first, `max_queue` rows waiting, `delay_s` to wait for more (0: never).

    Learning may bring a run up to `most_rows` (0: `max_rows`), from what warm-up measured (`timing`) on. A call whose
    predicted wait is above `max_queue_s` is refused (0: `admission` has the default);
    `slo_p99_s` is the time in which 99 of 100 answers are to be given (0: none).
    """

    max_rows: int
    max_queue: int
    delay_s: float = 0.0
    most_rows: int = 0
    max_queue_s: float = 0.0
    slo_p99_s: float = 0.0
    timing: measure.Timing | None = None


class _Failed(msgspec.Struct, frozen=True):
    """A part of a batch that failed, to be run again; `runs` is how many more runs that cost up to now."""

    calls: list[inference.Call]
    key: contract.ShapeKey
    runs: int


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
        self._ragged = ragged.Ragged(contracted)
        self._padded = bool(self._ragged)
        self._costs = _costs(plan, self._ragged)
        # What arrived in this turn for an idle instance: the usual case, in which nobody has to be told from anybody.
        self._lane: list[inference.Call] = []
        self._lane_key: contract.ShapeKey = contract.NO_KEY
        self._lane_rows = 0
        # Everything else that waits.
        self._queues = queues.Queues()
        self._admission = admission.Admission(
            self._queues, self._costs, max_rows=plan.max_queue, max_wait_s=plan.max_queue_s, clock=clock
        )
        # Halves of a batch that failed, each run before anything that is queued.
        self._failed: collections.deque[_Failed] = collections.deque()
        self._suspects = suspects.Suspects()
        self._scheduled = False
        # Runs out when `delay_s` is over, unless a batch is full before.
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._runs = 0

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a run."""
        return self._lane_rows + self._queues.rows

    @property
    def refused(self) -> dict[str, int]:
        """Calls and requests refused, by reason."""
        return self._admission.refused

    @property
    def longest_wait_s(self) -> float:
        """The predicted wait above which calls are refused; without end where only the target bounds it."""
        return self._admission.longest_wait_s

    @property
    def preferred_rows(self) -> int:
        """The rows of a full run, as learned; of the bucket that was measured at warm-up where there are several."""
        return self._costs.rows(self._costs.key)

    # Letting calls in

    def submit(self, call: inference.Call) -> None:
        """Take a call; it is answered from a later turn of the loop, or refused now if it would wait too long."""
        request = call.request
        key = self._ragged.bucket(request.key) if self._padded else request.key
        lane = self._lane
        busy = self._instance.busy
        waiting = self._lane_rows + self._queues.rows
        if waiting and not busy and waiting + request.rows > self._plan.max_queue and not self._flushing:
            # Nobody is read from while these run, so nobody need be refused.
            self._flush()
            busy, lane = self._instance.busy, self._lane
        if busy or self._queues.rows or (lane and key != self._lane_key):
            self._enqueue(call, key)
            return
        self._lane_key = key
        lane.append(call)
        self._lane_rows += request.rows
        if not self._scheduled:
            self._schedule()

    def _enqueue(self, call: inference.Call, key: contract.ShapeKey) -> None:
        """Let a call wait among others, or refuse it."""
        self._unite()
        if self._instance.busy:
            refusal = self._admission.refusal(
                call.identity,
                call.priority,
                key=key,
                rows=call.request.rows,
                deadline=call.deadline,
            )
            if refusal is not None:
                call.fail(refusal)
                return
        self._push(call, key)
        if not self._instance.busy and not self._scheduled:
            self._schedule()

    def _unite(self) -> None:
        """Let the calls of this turn wait among others."""
        lane, self._lane, self._lane_rows = self._lane, [], 0
        for call in lane:
            if not call.done:
                self._push(call, self._lane_key)

    def _push(self, call: inference.Call, key: contract.ShapeKey) -> None:
        costs, rows = self._costs, call.request.rows
        self._queues.push(
            call,
            key,
            cost_s=costs.work_s(key, rows),
            run_s=costs.run_s(key, rows),
            credit_s=costs.credit_s,
            now=self._clock(),
        )
        call.held_by(self._forget)

    def _forget(self, call: inference.Call) -> None:
        """A held call ended while it waited: it leaves at once and never reaches the model."""
        self._queues.discard(call)
        late = call.deadline is not None and call.deadline <= self._clock()
        self._series.saved[counters.LATE if late else counters.LEFT] += 1

    def refuses(self, caller: str) -> errors.WindlassError | None:
        """The error for a request of this caller that would find no room now. Asked before its body is read."""
        return self._admission.refusal(caller, inference.INTERACTIVE) if self._instance.busy else None

    def predicted_wait_s(self, caller: str = "", priority: int = inference.INTERACTIVE) -> float:
        """Seconds until a call of this caller that came now would start to run."""
        return self._admission.wait_s(caller, priority) if self._instance.busy else 0.0

    def _schedule(self) -> None:
        """Have what waits run: now, or when there is more or the delay is over."""
        if self._plan.delay_s > 0 and self.queued_rows < self._plan.max_rows:
            if self._timer is None:
                self._timer = self._loop.call_later(self._plan.delay_s, self._flush)
        else:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    # Running them

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
        """Run what waits as long as the instance takes it; how many calls that were."""
        ran = 0
        while not self._instance.busy:
            if self._failed:
                self._run_again(self._failed.popleft())
            elif self._lane:
                ran += self._run_lane()
            elif self._queues.rows:
                key, calls, expired = self._queues.take(
                    self._clock(), self._limit, self._costs.run_s, self._suspects.alone
                )
                self._expire(expired)
                if calls:
                    for call in calls:
                        call.held_by(None)
                    ran += len(calls)
                    self._run(calls, key)
            else:
                break
        return ran

    def _limit(self, key: contract.ShapeKey) -> int:
        return self._costs.rows(key) if self._batched else 1

    def _run_lane(self) -> int:
        """Run what arrived in this turn, if nothing in it has to be looked at more closely; else queue it."""
        lane, key, rows = self._lane, self._lane_key, self._lane_rows
        self._lane, self._lane_rows = [], 0
        calls = [call for call in lane if call.deadline is None and not call.done]
        if len(calls) != len(lane):
            now = self._clock()
            calls = [call for call in lane if call.deadline is None or call.deadline > now]
            if len(calls) != len(lane):
                self._expire([call for call in lane if call.deadline is not None and call.deadline <= now])
            calls = [call for call in calls if not call.done]
            rows = sum(call.request.rows for call in calls)
        limit = self._limit(key)
        if (rows > limit and len(calls) > 1) or self._suspects:
            if self._suspects or not queues.alike(calls):
                for call in calls:
                    self._push(call, key)
                return 0
            calls, rest = queues.split(calls, limit)
            self._lane, self._lane_rows = rest, rows - sum(call.request.rows for call in calls)
        if calls:
            self._run(calls, key)
            if self._lane and self._instance.busy:
                self._unite()
        return len(calls)

    def _expire(self, calls: list[inference.Call]) -> None:
        for call in calls:
            call.held_by(None)
            if call.fail(errors.DeadlineExceeded("the deadline passed before there was an answer")):
                self._series.saved[counters.LATE] += 1

    def _run_again(self, failed: _Failed) -> None:
        """Run a part of a batch that failed: who is still there, and is not one to be run alone."""
        now = self._clock()
        self._expire([call for call in failed.calls if call.deadline is not None and call.deadline <= now])
        left = [call for call in failed.calls if not call.done]
        if self._suspects and len(left) > 1:
            for call in left:
                if self._suspects.alone(call.identity, now):
                    self._push(call, failed.key)
            left = [call for call in left if not self._suspects.alone(call.identity, now)]
        if left:
            self._run(left, failed.key, failed.runs)

    def _run(self, calls: list[inference.Call], key: contract.ShapeKey, again: int = 0) -> None:
        """Give the instance one batch; `again` is how many runs its calls cost before, when they failed with others."""
        started = self._clock()
        try:
            inputs = calls[0].request.inputs if len(calls) == 1 else self._ragged.join(calls)
        except Exception as e:  # noqa: BLE001 - whatever goes wrong, every call gets its one answer
            self._finish(calls, _unexpected(e), 0.0, started, key, again)
            return
        self._instance.run(inputs, lambda outcome, run_s: self._finish(calls, outcome, run_s, started, key, again))
        if self._instance.busy:
            self._admission.began(started, self._costs.run_s(key, sum(call.request.rows for call in calls)))

    # Answering them

    def _finish(
        self,
        calls: list[inference.Call],
        outcome: Outcome,
        run_s: float,
        started: float,
        key: contract.ShapeKey,
        again: int,
    ) -> None:
        if isinstance(outcome, errors.WindlassError):
            if len(calls) > 1:
                # One poisoned row fails alone: halve the batch until it is by itself.
                half, cost = len(calls) // 2, again + 2
                self._failed.extendleft((_Failed(calls[half:], key, cost), _Failed(calls[:half], key, cost)))
                calls = []
            elif again:
                self._suspects.charge(calls[0].identity, again, started)
        else:
            self._runs += 1
            if run_s > measure.INLINE_BELOW_S or self._runs % _SAMPLED == 0:
                rows = sum(call.request.rows for call in calls)
                self._costs.observe(key, rows, run_s)
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
        if self._plan.slo_p99_s:
            for queued in waited:
                self._costs.answered(queued + run_s)
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
            if self._padded:
                own = self._ragged.trim(dict(own), call)
            call.reply(inference.InferResponse(own, version, rows, queued, run_s))


def _costs(plan: Plan, padded: ragged.Ragged) -> slo.Costs:
    """The model of a run's cost, from what was measured at warm-up."""
    timing = plan.timing
    key = contract.NO_KEY if timing is None else padded.key(timing.shapes)
    seconds = None if timing is None else timing.seconds
    return slo.Costs(plan.max_rows, plan.most_rows, key=key, measured=seconds, target_s=plan.slo_p99_s)


def _unexpected(error: Exception) -> errors.WindlassError:
    if isinstance(error, errors.WindlassError):
        return error
    log.exception("a batch failed outside the model", exc_info=error)
    return errors.InternalError("the batch failed outside the model")
