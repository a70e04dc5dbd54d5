"""gRPC calls that go on: streams of messages with an answer to each, and an answer that is sent again when it changes.

Made by a connection for each such request. Must never take more questions from a caller that does not read its
answers, or answer out of order.
"""

from __future__ import annotations

import asyncio
import collections

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads
from windlass.serving.metrics import access_log
from windlass.serving.transport import listener, rpc_messages, rpc_question

# Questions of one stream that may be under way; the next waits, and the peer's window with it.
MOST_UNDER_WAY = 64
# How often a watched answer is asked for again, and whether the server drains.
TICK_S = 1.0
# Watches of one listener. Nobody need be known to watch health, and each costs work while nothing happens.
MOST_WATCHES = 1_024


class _Call:
    """What both kinds have in common: admitted, opened, ended once; `_inbox` are bytes not yet taken."""

    __slots__ = (
        "_context",
        "_encoding",
        "_ended",
        "_head",
        "_inbox",
        "_over",
        "_permit",
        "_sent",
        "_since",
        "_stream",
        "_timer",
        "peer",
        "request_id",
    )

    def __init__(
        self, context: listener.Listener, stream: rpc_messages.Stream, head: heads.RequestHead, request_id: str
    ) -> None:
        self.peer = stream.peer
        self.request_id = request_id
        self._context = context
        self._stream = stream
        self._head = head
        self._permit: heads.Permit | None = None
        self._encoding = b""
        self._inbox = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        # Since when the caller owes the rest of a message, if it was seen to.
        self._since: float | None = None
        self._ended = self._over = self._sent = False

    def admit(self) -> None:
        """Ask the door; a refusal ends the call at once."""
        context, headers = self._context, self._head.headers
        try:
            self._permit = rpc_messages.admit(context, self._head)
            self._encoding = rpc_messages.encoding_of(headers)
            timeout = rpc_messages.timeout_of(headers)
        except errors.WindlassError as e:
            self.abort(e)
            return
        self._stream.timed = False
        self._stream.on_ready = self.advance
        context.loop.call_later(TICK_S, self._tick)
        if timeout is not None:
            late = errors.DeadlineExceeded("the deadline passed before the stream ended")
            self._timer = context.loop.call_later(timeout, self.abort, late)

    def receive(self, data: bytes) -> None:
        """Keep a part, and understand what is complete."""
        if self._over:
            return
        self._inbox += data
        door = self._context.door
        door.pending_bytes += len(data)
        if door.pending_bytes > door.limits.max_pending_bytes:
            self.abort(errors.Overloaded("the server holds as many bytes of unanswered requests as it may"))
        else:
            self.advance()

    def complete(self, now: float, body: bytes | None = None) -> None:  # noqa: ARG002 - messages have their own times
        """The caller has said all."""
        if body:
            self._inbox += body
            self._context.door.pending_bytes += len(body)
        self._ended = True
        self.advance()

    def end(self, error: errors.WindlassError) -> None:
        """The connection or the server ends, or the caller left."""
        self.abort(error)

    def abort(self, error: errors.WindlassError) -> None:
        """End the call with an error."""
        self._finish(error)

    def advance(self) -> None:
        """Go on: something came, was answered, or can be sent again."""
        raise NotImplementedError

    def _tick(self) -> None:
        """Once a second: a call that waits for nothing of ours does not hold up a server that drains."""
        if self._over:
            return
        if self._context.draining and self._idle():
            self.abort(errors.Unavailable("the server is shutting down"))
        elif self._late():
            self.abort(errors.SlowRequest("the message did not arrive in time"))
        else:
            self._look()
            self._context.loop.call_later(TICK_S, self._tick)

    def _late(self) -> bool:
        """Whether a message that began does not go on as a body has to."""
        if not self._is_owed():
            self._since = None
            return False
        now, limits = self._context.clock(), self._context.limits
        if self._since is None:
            self._since = now
        waited = now - self._since
        slow = len(self._inbox) < limits.min_body_rate * waited
        return waited > limits.body_timeout_s or (slow and waited > limits.header_timeout_s)

    def _is_owed(self) -> bool:
        """Whether it is the caller that the next message waits for, and not for it to begin."""
        raise NotImplementedError

    def _idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._inbox

    def _look(self) -> None:
        """See whether there is something to tell."""

    def _take(self) -> tuple[int, bytes] | None:
        """The next whole message and its flag."""
        inbox, permit = self._inbox, self._permit
        if permit is None or len(inbox) < rpc_messages.PREFIX.size:
            return None
        flag, length = rpc_messages.length_of(inbox, permit.max_body)
        end = rpc_messages.PREFIX.size + length
        if len(inbox) < end:
            return None
        with memoryview(inbox) as whole:
            message = bytes(whole[rpc_messages.PREFIX.size : end])
        del inbox[:end]
        self._since = None
        self._context.door.pending_bytes -= end
        return flag, message

    def _send(self, message: bytes) -> None:
        encoding = self._encoding if len(message) >= rpc_messages.COMPRESS_FROM else b""
        if not self._sent:
            self._sent = True
            self._stream.send_block(rpc_messages.opening(self.request_id, self._encoding), end=False)
        self._stream.send_data(rpc_messages.framed(message, encoding))

    def _finish(self, error: errors.WindlassError | None) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._context.door.pending_bytes -= len(self._inbox)
        self._inbox = bytearray()
        self._log(statuses.GRPC_OK if error is None else statuses.grpc_status(error))
        fields = rpc_messages.ending(error) if error is not None else rpc_messages.OK_FIELDS
        if self._sent:
            self._stream.send_trailers(fields)
        else:
            self._stream.send_block(rpc_messages.opening(self.request_id) + rpc_messages.block(fields), end=True)

    def _log(self, status: int) -> None:
        """A line for the call as a whole; each question of a stream has its own besides."""
        context, head = self._context, self._head
        if context.access_log is not None:
            caller = "" if self._permit is None else self._permit.caller.id
            context.access_log(
                access_log.Record(
                    head.method,
                    head.target,
                    statuses.OK,
                    0,
                    0,
                    0.0,
                    self.peer,
                    caller,
                    self.request_id,
                    grpc_status=status,
                    traceparent=head.headers.get(b"traceparent", b""),
                )
            )


class Conversation(_Call):
    """A stream in both directions: each message is a question of its own, and the answers keep their order."""

    __slots__ = ("_advancing", "_count", "_turns")

    def __init__(
        self, context: listener.Listener, stream: rpc_messages.Stream, head: heads.RequestHead, request_id: str
    ) -> None:
        super().__init__(context, stream, head, request_id)
        self._turns: collections.deque[Turn] = collections.deque()
        self._count = 0
        self._advancing = False

    def advance(self) -> None:
        """Send what is answered and next in order, then ask what there is room for."""
        # Turns that are answered at once come back here.
        if self._over or self._advancing:
            return
        self._advancing = True
        try:
            self._go_on()
        except errors.WindlassError as e:
            self.abort(e)
        finally:
            self._advancing = False

    def _go_on(self) -> None:
        turns, stream = self._turns, self._stream
        while not self._over:
            while turns and turns[0].told is not None:
                self._send(turns.popleft().told or b"")
            if len(turns) >= MOST_UNDER_WAY or not stream.ready:
                stream.pause()
                return
            taken = self._take()
            if taken is None:
                break
            self._ask(*taken)
        if self._over:
            return
        stream.resume()
        if self._ended and not turns:
            self._finish(rpc_messages.cut_off() if self._inbox else None)

    def _idle(self) -> bool:
        return not self._turns and super()._idle()

    def _is_owed(self) -> bool:
        return bool(self._inbox) and not self._turns

    def _ask(self, flag: int, message: bytes) -> None:
        self._count += 1
        turn = Turn(self, self._context, self._head, f"{self.request_id}.{self._count}", self._permit)
        self._turns.append(turn)
        turn.start(self._context.clock(), flag, message, self._encoding)

    def abort(self, error: errors.WindlassError) -> None:
        """End the call with an error, and the questions under way with it."""
        self._finish(error)
        turns, self._turns = self._turns, collections.deque()
        for turn in turns:
            turn.end(errors.Cancelled("the stream has ended"))


class Turn(rpc_question.RpcQuestion):
    """One message of a conversation. `told` is its answer, once it is there."""

    told: bytes | None = None
    _message: bytes = b""

    def start(self, now: float, flag: int, message: bytes, encoding: bytes) -> None:
        """Understand the message and ask."""
        self.arrived = now
        self._message = message
        try:
            self.hold(len(message))
            self.unwrap(flag, message, encoding)
        except errors.WindlassError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))

    def _understand(self, message: bytes) -> None:
        self._message = message
        super()._understand(message)

    def _tell(self, message: bytes, extra: base.Fields) -> None:  # noqa: ARG002 - a message has no trailers
        self._answer(message, statuses.GRPC_OK)

    def _answer(self, message: bytes, status: int) -> None:
        self._settle()
        self._message = b""
        self.told = message
        write = self._listener.access_log
        if write is not None:
            self._log(write, statuses.OK, len(message), status)
        self._peer.advance()

    def _refuse_with(self, error: errors.WindlassError) -> None:
        action = None if self.permit is None else self.permit.match.route.action
        if isinstance(action, base.RpcInfer) and action.fail is not None:
            self._answer(action.fail(self._message, error), statuses.grpc_status(error))
        else:
            self._settle()
            self._peer.abort(error)


class Watch(_Call):
    """One message, answered now and whenever its answer changes, until the caller leaves or the server drains."""

    __slots__ = ("_last", "_message")

    def __init__(
        self, context: listener.Listener, stream: rpc_messages.Stream, head: heads.RequestHead, request_id: str
    ) -> None:
        super().__init__(context, stream, head, request_id)
        self._message: bytes | None = None
        self._last: bytes | None = None

    def admit(self) -> None:
        """Ask the door, and take a place among the watches."""
        self._context.watches += 1
        super().admit()
        if self._context.watches > MOST_WATCHES:
            self.abort(errors.Overloaded("as many calls watch this server as may"))

    def advance(self) -> None:
        """Take the one message once the caller has said all."""
        permit = self._permit
        if self._over or self._message is not None or permit is None:
            return
        try:
            if len(self._inbox) > rpc_messages.PREFIX.size + permit.max_body:
                raise rpc_messages.not_one()
            if self._ended:
                flag = rpc_messages.flag_of_one(self._inbox, permit.max_body)
                message = bytes(self._inbox[rpc_messages.PREFIX.size :])
                self._message = rpc_messages.inflate(message, self._encoding, permit.max_body) if flag else message
                self._look()
        except errors.WindlassError as e:
            self.abort(e)

    def _idle(self) -> bool:
        return True

    def _is_owed(self) -> bool:
        return self._message is None

    def _look(self) -> None:
        permit = self._permit
        action = None if permit is None else permit.match.route.action
        if self._message is None or permit is None or not isinstance(action, base.RpcQuery):
            return
        door = self._context.door
        try:
            door.confirm(permit)
        except errors.WindlassError as e:
            self.abort(e)
            return
        answer = action.answer(self._message, door.models_for(permit.caller))
        if isinstance(answer, base.Answer) and answer.body != self._last and self._stream.ready:
            self._last = answer.body
            self._send(answer.body)

    def _finish(self, error: errors.WindlassError | None) -> None:
        if not self._over:
            self._context.watches -= 1
        super()._finish(error)
