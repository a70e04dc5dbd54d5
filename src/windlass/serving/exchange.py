"""One request and its one response: admitted, received, decoded, asked, encoded, written, counted.

Made by a connection when headers are complete. Must never answer twice, count twice, or tell a caller anything
internal: an unexpected exception goes to the log under the request id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving import counters, heads, listener, responses
from windlass.types import directory, inference

log = logging.getLogger(__name__)
DISCARD_BYTES = 1_048_576
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
    errors.Unsupported: counters.REJECTED,
}


class Peer(Protocol):
    """What an exchange needs of its connection."""

    peer: str

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Write the response in its turn."""
        ...

    def is_last(self, one: Exchange) -> bool:
        """Whether no request came after this one."""
        ...

    def send_continue(self, exchange: Exchange) -> None:
        """Tell the caller to go on with the body, if it is this exchange's turn."""
        ...


class Exchange(msgspec.Struct, eq=False):
    """A request under way. `complete` is called when its last byte is there.

    A struct, because one is made for every request.
    """

    _connection: Peer
    _listener: listener.Listener
    _head: heads.RequestHead
    keep_alive: bool
    request_id: str
    permit: heads.Permit | None = None
    response: bytes | None = None
    answered: bool = False
    refused: bool = False
    arrived: float = 0.0
    _body: bytes | bytearray = b""
    _size: int = 0
    _parts: int = 1
    _call: inference.Call | None = None

    def admit(self) -> None:
        """Ask the door; a refusal is answered at once and the body is thrown away."""
        try:
            permit = self._listener.door.admit(self._head)
        except errors.WindlassError as e:
            self.refuse(e)
            return
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.refuse(self._unexpected(e))
            return
        self.permit = permit
        if permit.view is not None:
            permit.view.lease.hold()
        if permit.expects == b"100-continue":
            self._connection.send_continue(self)
        elif permit.expects:
            self.refuse(errors.InvalidInput("this expectation is not supported: only 100-continue is"))

    def refuse(self, error: errors.WindlassError) -> None:
        """Answer before the body is there. A long or endless body costs the connection."""
        self.refused = True
        if b"transfer-encoding" in self._head.headers or self._head.length > DISCARD_BYTES:
            self.keep_alive = False
        self.fail(error)

    def receive(self, data: bytes) -> None:
        """Keep a part of the body, or throw it away after a refusal."""
        permit = self.permit
        if self.refused or self.answered or permit is None:
            return
        door = self._listener.door
        self._size += len(data)
        door.pending_bytes += len(data)
        if door.pending_bytes > door.limits.max_pending_bytes:
            self.keep_alive = False
            self.refuse(errors.Overloaded("the server holds as many bytes of unanswered requests as it may"))
        elif self._size > permit.max_body:
            self.keep_alive = False
            self.refuse(errors.PayloadTooLarge(f"the body has more than the {permit.max_body} bytes accepted"))
        elif not self._body:
            self._body = data
        else:
            self._parts += 1
            if self._parts > _MANY_PARTS and self._size < _SMALL_PART * self._parts:
                self.keep_alive = False
                self.refuse(errors.InvalidInput("the body comes in too many small parts"))
                return
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data

    def complete(self, now: float, body: bytes | None = None) -> None:
        """The last byte is there: decode and ask. `body` is the whole body where it came in one piece."""
        permit = self.permit
        if self.refused or permit is None:
            return
        self.arrived = now
        if permit.view is not None:
            # Not before the body is there: slow senders take no place from anybody.
            self._listener.door.in_flight += 1
        if body is None:
            body, self._body = bytes(self._body), b""
        try:
            if permit.encoding:
                self._decompress(permit, body)
            else:
                self._decode(permit, body)
        except errors.WindlassError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))

    def _decompress(self, permit: heads.Permit, body: bytes) -> None:
        encoding, limit = permit.encoding, permit.max_body
        if len(body) > responses.INFLATE_INLINE_BYTES:
            self._elsewhere(
                lambda: responses.decompress(body, encoding, limit), lambda plain: self._decode(permit, plain)
            )
        else:
            self._decode(permit, responses.decompress(body, encoding, limit))

    def _decode(self, permit: heads.Permit, body: bytes) -> None:
        view, infer = permit.view, permit.infer
        if infer is None or view is None:
            self._query(permit, body)
            return
        decoded = infer.decode(permit.head, permit.match.parameters, body, view)
        if isinstance(decoded, base.Later):
            self._elsewhere(decoded.work, lambda request: self._ask(permit, view, request))
        else:
            self._ask(permit, view, decoded)

    def _query(self, permit: heads.Permit, body: bytes) -> None:
        action = permit.match.route.action
        if isinstance(action, base.QueryRoute):
            models = self._listener.door.models_for(permit.caller)
            answer = action.answer(permit.head, permit.match.parameters, body, models)
            if isinstance(answer, base.Pending):
                answer.start(self._pending)
            else:
                self.answer(answer)

    def _ask(self, permit: heads.Permit, view: directory.ModelView, request: inference.InferRequest) -> None:
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

    def _pending(self, outcome: base.Answer | errors.WindlassError) -> None:
        if isinstance(outcome, errors.WindlassError):
            self.fail(outcome)
        else:
            self.answer(outcome)

    def reply(self, request: inference.InferRequest, response: inference.InferResponse) -> None:
        """Encode the model's answer and send it."""
        permit = self.permit
        if permit is None or permit.infer is None or permit.view is None or self.answered:
            return
        try:
            answer = permit.infer.encode(permit.head, request, response, permit.view)
        except errors.WindlassError as e:
            self.fail(e)
            return
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))
            return
        extra = b""
        if permit.timed:
            timing = (response.queue_s * 1e3, response.run_s * 1e3, response.batch_rows)
            extra = b"server-timing: queue;dur=%.3f, run;dur=%.3f, batch;desc=%d\r\n" % timing
        self._count(counters.OK)
        self._send(answer, extra)

    def answer(self, answer: base.Answer) -> None:
        """Send the answer of a query."""
        if not self.answered:
            self._send(answer, b"")

    def fail(self, error: errors.WindlassError) -> None:
        """Send the error in its protocol's shape."""
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
        protocol = self.permit.match.protocol if self.permit is not None else context.protocol_of(self._head.target)
        extra = b""
        if isinstance(error, errors.Unavailable):
            extra = b"retry-after: %d\r\n" % error.retry_after_s
        elif isinstance(error, errors.Unauthenticated):
            extra = b"www-authenticate: Bearer\r\n"
        self._send(protocol.encode_error(error, self.request_id), extra)

    def end(self, error: errors.WindlassError) -> None:
        """Fail with `error` unless it is answered, and drop the work."""
        if not self.answered and (self._call is None or not self._call.fail(error)):
            self.fail(error)

    def _unexpected(self, error: Exception) -> errors.InternalError:
        log.exception("request %s failed unexpectedly", self.request_id, exc_info=error)
        return errors.InternalError("unexpected")

    def _count(self, outcome: int) -> None:
        permit = self.permit
        if permit is None or permit.view is None or self.answered:
            return
        context = self._listener
        series = permit.series
        if series is None:
            view = permit.view
            series = context.counters.requests_of(view.name, view.version, permit.match.protocol.name)
            permit.series = series
        series.outcomes[outcome] += 1
        if outcome == counters.OK:
            series.latency.observe(context.clock() - self.arrived)
        if self.arrived:
            context.door.in_flight -= 1
        permit.view.lease.release()

    def _send(self, answer: base.Answer, extra: bytes) -> None:
        self.answered = True
        self._call = None
        if self._size:
            self._listener.door.pending_bytes -= self._size
            self._size = 0
        permit = self.permit
        if permit is not None and permit.accepts and len(answer.body) >= responses.COMPRESS_FROM:
            encoding = responses.acceptable_encoding(permit.accepts)
            if encoding is not None and len(answer.body) > responses.INLINE_BYTES:
                context, write = self._listener, self._write
                future = context.executor_submit(lambda: responses.compress(answer, encoding))
                future.add_done_callback(lambda f: context.loop.call_soon_threadsafe(write, f.result(), extra))
                return
            if encoding is not None:
                answer = responses.compress(answer, encoding)
        self._write(answer, extra)

    def _write(self, answer: base.Answer, extra: bytes) -> None:
        context = self._listener
        if context.access_log is not None:
            context.access_log(
                self._head.method, self._head.target, self._connection.peer, self.request_id, answer.status
            )
        if context.draining and self._connection.is_last(self):
            self.keep_alive = False
        if self._head.lines:
            extra += self._head.lines
        data = context.writer.response(
            answer, self.request_id, extra, not self.keep_alive, self._head.method == b"HEAD"
        )
        self._connection.send(self, data)


def _on_reply(call: inference.Call, response: inference.InferResponse, final: bool) -> None:
    exchange: Exchange = call.owner
    if final:
        exchange.reply(call.request, response)
    else:
        call.fail(errors.Unsupported("this model streams its answer: ask it by a route that can stream"))


def _on_fail(call: inference.Call, error: errors.WindlassError) -> None:
    call.owner.fail(error)
