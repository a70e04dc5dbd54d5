"""One message of a gRPC call: what it asks, asked of a model or of the server.

The base of a unary call (`rpc.py`) and of each message of a stream (`rpc_streams.py`). Must never let a message pass
to a model that its caller may not ask.
"""

from __future__ import annotations

from windlass import errors
from windlass.protocols import base
from windlass.serving.transport import question, responses, rpc_messages
from windlass.types import inference


class RpcQuestion(question.Question):
    """Whoever derives from it gives `_tell`."""

    def _tell(self, message: bytes, extra: base.Fields) -> None:
        """Answer with a message; `extra` are trailers."""
        raise NotImplementedError

    def unwrap(self, flag: int, message: bytes, encoding: bytes) -> None:
        """Understand a message that may have come compressed; long ones are inflated in the thread pool."""
        permit = self.permit
        if permit is None or not flag:
            self._understand(message)
            return
        limit = permit.max_body
        if len(message) <= responses.INFLATE_INLINE_BYTES:
            self._understand(rpc_messages.inflate(message, encoding, limit))
        else:
            self._elsewhere(lambda: rpc_messages.inflate(message, encoding, limit), self._understand)

    def _understand(self, message: bytes) -> None:
        permit = self.permit
        if permit is None:
            return
        door = self._listener.door
        action = permit.match.route.action
        if isinstance(action, base.RpcInfer):
            model, version = action.peek(message)
            own = door.enter(permit, model, version)
            view = own.view
            if view is None:
                raise errors.NotFound("the request names no model")
            self.permit = own
            view.lease.hold()
            # Not before the message is there: slow senders take no place from anybody.
            door.in_flight += 1
            if len(message) > view.limits.max_body:
                raise errors.PayloadTooLarge(
                    f"the message has {len(message)} bytes: at most {view.limits.max_body} are accepted"
                )
            self.ask(own, view, action.infer, message)
        elif isinstance(action, base.RpcQuery):
            door.confirm(permit)
            answer = action.answer(message, door.models_for(permit.caller))
            if isinstance(answer, base.Pending):
                answer.start(self._pending)
            else:
                self._tell(answer.body, ())

    def _pending(self, outcome: base.Answer | errors.WindlassError) -> None:
        if isinstance(outcome, errors.WindlassError):
            self.fail(outcome)
        elif not self.answered:
            self._tell(outcome.body, ())

    def _deliver(self, answer: base.Answer, response: inference.InferResponse) -> None:
        permit = self.permit
        self._tell(answer.body, responses.timing(response) if permit is not None and permit.timed else ())
