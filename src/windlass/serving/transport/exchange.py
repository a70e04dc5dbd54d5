"""One HTTP request and its one response: admitted, received, decompressed, answered in whatever HTTP its peer speaks.

Made by a connection (HTTP/1.1) or a stream (HTTP/2) when headers are complete. Must never know how a response is
framed, nor keep a body that was refused.
"""

from __future__ import annotations

from typing import Protocol

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.transport import question, responses
from windlass.types import inference

DISCARD_BYTES = 1_048_576


class Peer(Protocol):
    """What an exchange needs of its connection or stream."""

    peer: str

    def respond(self, exchange: Exchange, answer: base.Answer, extra: base.Fields) -> None:
        """Write the response in its turn; `extra` are further headers."""
        ...

    def send_continue(self, exchange: Exchange) -> None:
        """Tell the caller to go on with the body, if it is this exchange's turn."""
        ...


class Exchange(question.Question):
    """A request under way. `complete` is called when its last byte is there.

    `keep_alive` False ends the connection (the stream, in HTTP/2) behind the response, which is kept in `response`
    while it waits for its turn.
    """

    keep_alive: bool = True
    response: bytes | None = None

    def admit(self) -> None:
        """Ask the door; a refusal is answered at once and the body is thrown away."""
        try:
            permit = self._listener.door.admit(self.head)
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
            self._peer.send_continue(self)
        elif permit.expects:
            self.refuse(errors.InvalidInput("this expectation is not supported: only 100-continue is"))

    def refuse(self, error: errors.WindlassError) -> None:
        """Answer before the body is there. A long or endless body costs the connection."""
        if b"transfer-encoding" in self.head.headers or self.head.length > DISCARD_BYTES:
            self.keep_alive = False
        self.fail(error)

    def receive(self, data: bytes) -> None:
        """Keep a part of the body, or throw it away after a refusal."""
        permit = self.permit
        if self.answered or permit is None:
            return
        try:
            self.hold(len(data))
            if self._size > permit.max_body:
                raise errors.PayloadTooLarge(f"the body has more than the {permit.max_body} bytes accepted")
            self.keep(data)
        except errors.WindlassError as e:
            self.keep_alive = False
            self.refuse(e)

    def complete(self, now: float, body: bytes | None = None) -> None:
        """The last byte is there: decode and ask. `body` is the whole body where it came in one piece."""
        permit = self.permit
        if self.answered or permit is None:
            return
        self.arrived = now
        if permit.view is not None:
            # Not before the body is there: slow senders take no place from anybody.
            self._listener.door.in_flight += 1
        try:
            if body is None:
                body, self._body = bytes(self._body), b""
                # Its key may have been revoked since its head came.
                self._listener.door.confirm(permit)
            encoding, limit = permit.encoding, permit.max_body
            if not encoding:
                # As `_understand`: the usual request takes the shortest way.
                if permit.view is not None and permit.infer is not None:
                    self.ask(permit, permit.view, permit.infer, body)
                else:
                    self._understand(body)
            elif len(body) > responses.INFLATE_INLINE_BYTES:
                self._elsewhere(lambda: responses.decompress(body, encoding, limit), self._understand)
            else:
                self._understand(responses.decompress(body, encoding, limit))
        except errors.WindlassError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))

    def _understand(self, body: bytes) -> None:
        permit = self.permit
        if permit is None:
            return
        if permit.view is not None and permit.infer is not None:
            self.ask(permit, permit.view, permit.infer, body)
            return
        action = permit.match.route.action
        if not isinstance(action, base.QueryRoute):
            raise errors.UnsupportedMedia("this is a gRPC method: ask it with the content type application/grpc")
        door = self._listener.door
        door.confirm(permit)
        models = door.models_for(permit.caller)
        answer = action.answer(permit.head, permit.match.parameters, body, models)
        if isinstance(answer, base.Pending):
            answer.start(self._pending)
        else:
            self.answer(answer)

    def _pending(self, outcome: base.Answer | errors.WindlassError) -> None:
        if isinstance(outcome, errors.WindlassError):
            self.fail(outcome)
        else:
            self.answer(outcome)

    def answer(self, answer: base.Answer) -> None:
        """Send the answer of a query."""
        if not self.answered:
            self._send(answer, ())

    def _deliver(self, answer: base.Answer, response: inference.InferResponse) -> None:
        permit = self.permit
        if permit is not None and permit.timed:
            self._send(answer, responses.timing(response))
        elif len(answer.body) < responses.COMPRESS_FROM and self._listener.access_log is None:
            # As `_send`, where nothing is to be done but to write.
            self._settle()
            self._peer.respond(self, answer, ())
        else:
            self._send(answer, ())

    def _refuse_with(self, error: errors.WindlassError) -> None:
        context = self._listener
        protocol = self.permit.match.protocol if self.permit is not None else context.protocol_of(self.head.target)
        extra: base.Fields = ()
        if isinstance(error, errors.Unavailable):
            extra = ((b"retry-after", b"%d" % error.retry_after_s),)
        elif isinstance(error, errors.Unauthenticated):
            extra = ((b"www-authenticate", b"Bearer"),)
        elif isinstance(error, errors.MethodNotAllowed):
            extra = ((b"allow", ", ".join(error.allowed).encode()),)
        self._send(protocol.encode_error(error, self.request_id), extra)

    def _send(self, answer: base.Answer, extra: base.Fields) -> None:
        self._settle()
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

    def _write(self, answer: base.Answer, extra: base.Fields) -> None:
        context = self._listener
        if context.access_log is not None:
            self._log(context.access_log, answer.status or statuses.OK, len(answer.body))
        self._peer.respond(self, answer, extra)
