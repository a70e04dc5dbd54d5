"""One question to a model: its arm drawn, its body decoded, asked, its answer encoded, its outcome counted.

The base of every request that asks a model, over HTTP (`exchange.py`) and gRPC (`rpc.py`). Must never answer twice,
count twice, or tell a caller anything internal: an unexpected exception goes to the log under the request id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads
from windlass.serving.metrics import access_log, counters
from windlass.serving.transport import listener
from windlass.types import directory, inference

log = logging.getLogger(__name__)
# More parts than these, of fewer bytes on average, cost more than their bytes are worth.
_MANY_PARTS = 16_384
_SMALL_PART = 64
_OUTCOMES: dict[type[errors.WindlassError], int] = {
    errors.Cancelled: counters.CANCELLED,
    errors.DeadlineExceeded: counters.EXPIRED,
    errors.Overloaded: counters.REJECTED,
    errors.Unavailable: counters.REJECTED,
    errors.InvalidInput: counters.REJECTED,
    errors.NotFound: counters.REJECTED,
    errors.NotAllowed: counters.REJECTED,
    errors.Unsupported: counters.REJECTED,
}


class Question(msgspec.Struct, eq=False):
    """What HTTP and gRPC requests have in common. `_peer` is the connection or stream that is answered.

    Whoever sets a `permit` with a view holds its lease, and once it has `arrived` counts it as in flight; `_count`
    gives both back.
    A struct, because one is made for every request. Whoever derives from it gives `_deliver` and `_refuse_with`.
    """

    _peer: Any
    _listener: listener.Listener
    head: heads.RequestHead
    request_id: str
    permit: heads.Permit | None = None
    answered: bool = False
    arrived: float = 0.0
    # Bytes of the body that count as pending, or did; and the body itself where a shadow may want to decode it again.
    _size: int = 0
    _received: int = 0
    _body: bytes | bytearray = b""
    _parts: int = 1
    _kept: bytes = b""
    _call: inference.Call | None = None
    # Where it is counted, from when it is admitted to its arm.
    _series: counters.Requests | None = None

    def _deliver(self, answer: base.Answer, response: inference.InferResponse) -> None:
        """Send the model's answer."""
        raise NotImplementedError

    def _refuse_with(self, error: errors.WindlassError) -> None:
        """Send an error in its protocol's shape."""
        raise NotImplementedError

    def hold(self, size: int) -> None:
        """Count bytes of the body as pending; `Overloaded` if the server holds too many."""
        door = self._listener.door
        self._size += size
        door.pending_bytes += size
        if door.pending_bytes > door.limits.max_pending_bytes:
            raise errors.Overloaded("the server holds as many bytes of unanswered requests as it may")

    def keep(self, data: bytes) -> None:
        """Keep a part of the body, without quadratic copies; `InvalidInput` where it comes in too many small parts."""
        if not self._body:
            self._body = data
            return
        self._parts += 1
        if self._parts > _MANY_PARTS and self._size < _SMALL_PART * self._parts:
            raise errors.InvalidInput("the body comes in too many small parts")
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += data

    def ask(self, permit: heads.Permit, view: directory.ModelView, infer: base.InferRoute, body: bytes) -> None:
        """The body is whole: draw the arm, decode, and ask. May raise as decoding may."""
        if view.route is not None:
            permit, view = self._draw(permit, view)
        self._series = series = permit.series or self._series_of(permit, view)
        series.admitted[0] += 1
        if view.mirror is not None:
            self._kept = body
        decoded = infer.decode(permit.head, permit.match.parameters, body, view)
        if isinstance(decoded, base.Later):
            self._elsewhere(decoded.work, lambda request: self._submit(permit, view, request))
        else:
            self._submit(permit, view, decoded)

    def _series_of(self, permit: heads.Permit, view: directory.ModelView) -> counters.Requests:
        """Where the request is counted as begun, and with its one outcome."""
        permit.series = series = self._listener.counters.requests_of(
            view.name, view.version, permit.match.protocol.name, view.arm, view.generation
        )
        return series

    def _draw(self, permit: heads.Permit, view: directory.ModelView) -> tuple[heads.Permit, directory.ModelView]:
        """The arm that answers, drawn anew for each request; its permit is made once for a head and an arm."""
        if view.route is None:
            return permit, view
        arm = view.route(permit.head.headers, permit.caller.id, self.request_id)
        known = (arm.arm, arm.generation)
        own = permit.arms.get(known)
        if own is None or own.view is not arm:
            own = permit.arms[known] = msgspec.structs.replace(permit, view=arm, series=None, arms={})
        arm.lease.hold()
        view.lease.release()
        self.permit = own
        return own, arm

    def _submit(self, permit: heads.Permit, view: directory.ModelView, request: inference.InferRequest) -> None:
        self._call = call = inference.Call(
            request=request,
            on_reply=_on_reply,
            on_fail=_on_fail,
            arrived=self.arrived,
            identity=permit.caller.id,
            owner=self,
            priority=request.priority,
        )
        view.infer(call)

    def _elsewhere(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `work` in the thread pool, then go on with its result on the loop."""
        future = self._listener.executor_submit(work)

        def finished() -> None:
            if self.answered:
                return
            try:
                then(future.result())
            except errors.WindlassError as e:
                self.fail(e)
            except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
                self.fail(self._unexpected(e))

        future.add_done_callback(lambda _: self._listener.loop.call_soon_threadsafe(finished))

    def reply(self, request: inference.InferRequest, response: inference.InferResponse) -> None:
        """Encode the model's answer and send it."""
        permit = self.permit
        if self.answered or permit is None or permit.infer is None or permit.view is None:
            return
        view, door = permit.view, self._listener.door
        try:
            if permit.epoch != door.epoch:
                # Its key may have been revoked while the model ran.
                door.renew(permit)
            answer = permit.infer.encode(permit.head, request, response, view)
        except errors.WindlassError as e:
            self.fail(e)
            return
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))
            return
        self._count(counters.OK)
        self._deliver(answer, response)
        if view.mirror is not None:
            try:
                # Known by the id that callers and logs know, whatever the protocol's own says.
                named = msgspec.structs.replace(request, id=self.request_id)
                view.mirror(named, response, self._again(permit, permit.infer))
            except Exception as e:
                # Who shared its run is still to be answered.
                log.exception("the request %s could not be mirrored", self.request_id, exc_info=e)

    def _again(self, permit: heads.Permit, infer: base.InferRoute) -> directory.Again:
        body = self._kept

        def again(view: directory.ModelView) -> inference.InferRequest:
            decoded = infer.decode(permit.head, permit.match.parameters, body, view)
            return decoded.work() if isinstance(decoded, base.Later) else decoded

        return again

    def fail(self, error: errors.WindlassError) -> None:
        """Count the error and send it."""
        if self.answered:
            return
        context = self._listener
        kind = next((k for k in type(error).__mro__ if k in _OUTCOMES), None)
        self._count(counters.FAILED if kind is None else _OUTCOMES[kind])
        if kind is None or kind is errors.DeadlineExceeded:
            context.counters.count_error(error.code)
        elif kind is not errors.Cancelled:
            context.counters.count_rejected(error.code)
        if kind is not errors.Cancelled and statuses.is_internal(error):
            log.error("request %s failed: %s", self.request_id, error.message)
        self._refuse_with(error)

    def end(self, error: errors.WindlassError) -> None:
        """Fail with `error` unless it is answered, and drop the work."""
        if not self.answered and (self._call is None or not self._call.fail(error)):
            self.fail(error)

    def _unexpected(self, error: Exception) -> errors.InternalError:
        log.exception("request %s failed unexpectedly", self.request_id, exc_info=error)
        return errors.InternalError("unexpected")

    def _count(self, outcome: int) -> None:
        """Count the outcome and leave the model."""
        permit = self.permit
        if permit is None or permit.view is None or self.answered:
            return
        context = self._listener
        series = self._series
        if series is None:
            series = permit.series or self._series_of(permit, permit.view)
            series.admitted[0] += 1
        series.outcomes[outcome] += 1
        view = permit.view
        if outcome == counters.OK:
            seconds = context.clock() - self.arrived
            series.latency.observe(seconds)
            if seconds > view.slow_s:
                series.slow[0] += 1
                if view.went_wrong is not None:
                    view.went_wrong(permit.head.headers, permit.caller.id)
        elif view.went_wrong is not None and outcome != counters.CANCELLED:
            view.went_wrong(permit.head.headers, permit.caller.id)
        if self.arrived:
            context.door.in_flight -= 1
        view.lease.release()
        if permit.caller.allowance is not None:
            permit.caller.allowance.release()

    def _settle(self) -> None:
        """It has its answer: let go of what was held for it."""
        self.answered = True
        self._call = None
        self._kept = b""
        if self._size:
            self._listener.door.pending_bytes -= self._size
            self._received, self._size = self._size, 0

    def _log(self, write: listener.AccessLog, status: int, sent: int, grpc_status: int | None = None) -> None:
        """A line in the access log; `sent` is the size of the answer's body in bytes."""
        head, permit = self.head, self.permit
        view = None if permit is None else permit.view
        record = access_log.Record(
            head.method,
            head.target,
            status,
            self._received or head.length,
            sent,
            self._listener.clock() - self.arrived if self.arrived else 0.0,
            self._peer.peer,
            "" if permit is None else permit.caller.id,
            self.request_id,
            "" if view is None else view.name,
            "" if view is None else view.version,
            "" if view is None else view.arm,
            "" if permit is None else permit.match.protocol.name,
            grpc_status,
            head.headers.get(b"traceparent", b""),
        )
        write(record)


def _on_reply(call: inference.Call, response: inference.InferResponse, final: bool) -> None:
    question: Question = call.owner
    if final:
        question.reply(call.request, response)
    else:
        call.fail(errors.Unsupported("this model streams its answer: ask it by a route that can stream"))


def _on_fail(call: inference.Call, error: errors.WindlassError) -> None:
    call.owner.fail(error)
