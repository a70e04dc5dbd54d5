"""One unary gRPC call: a message in, a message out, on a stream of an HTTP/2 connection.

Made by a connection for each such request. Must never keep more of a message than its prefix allows, nor let a call
go on whose caller has gone.
"""

from __future__ import annotations

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads
from windlass.serving.transport import responses, rpc_messages, rpc_question
from windlass.types import directory, inference

_PREFIX = rpc_messages.PREFIX.size
_pack = rpc_messages.PREFIX.pack


class Rpc(rpc_question.RpcQuestion):
    """A call under way. `_encoding` is what its message may be compressed in, and its answer then is too."""

    _encoding: bytes = b""

    def admit(self) -> None:
        """Ask the door; a refusal ends the call at once."""
        headers = self.head.headers
        try:
            self.permit = rpc_messages.admit(self._listener, self.head)
            if b"grpc-encoding" in headers:
                self._encoding = rpc_messages.encoding_of(headers)
        except errors.WindlassError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))

    def receive(self, data: bytes) -> None:
        """Keep a part of the message."""
        permit = self.permit
        if self.answered or permit is None:
            return
        try:
            self.hold(len(data))
            self.keep(data)
            if len(self._body) >= _PREFIX:
                _, length = rpc_messages.length_of(self._body, permit.max_body)
                if len(self._body) > _PREFIX + length:
                    raise rpc_messages.not_one()
        except errors.WindlassError as e:
            self.fail(e)

    def complete(self, now: float, body: bytes | None = None) -> None:
        """The caller has said all: understand its one message, and answer it."""
        permit = self.permit
        if self.answered or permit is None:
            return
        self.arrived = now
        if body is None:
            body, self._body = bytes(self._body), b""
        size = len(body) - _PREFIX
        try:
            # The usual body, one message as it is, is told by one comparison.
            if 0 <= size <= permit.max_body and body.startswith(_pack(0, size)):
                self._understand(body[_PREFIX:])
            else:
                flag = rpc_messages.flag_of_one(body, permit.max_body)
                self.unwrap(flag, body[_PREFIX:], self._encoding)
        except errors.WindlassError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a fault of ours must answer, not close the connection
            self.fail(self._unexpected(e))

    def _tell(self, message: bytes, extra: base.Fields) -> None:
        """The answer; one to a caller that compresses is compressed, if it is long in the thread pool."""
        self._settle()
        encoding = self._encoding if len(message) >= responses.COMPRESS_FROM else b""
        if encoding and len(message) > responses.INLINE_BYTES:
            context, write = self._listener, self._write
            future = context.executor_submit(lambda: rpc_messages.framed(message, encoding))
            future.add_done_callback(lambda f: context.loop.call_soon_threadsafe(write, f.result(), encoding, extra))
        else:
            self._write(rpc_messages.framed(message, encoding), encoding, extra)

    def _write(self, data: bytes, encoding: bytes, extra: base.Fields) -> None:
        write = self._listener.access_log
        if write is not None:
            self._log(write, statuses.OK, len(data), statuses.GRPC_OK)
        trailers = rpc_messages.OK + rpc_messages.block(extra) if extra else rpc_messages.OK
        self._peer.respond(rpc_messages.opening(self.request_id, encoding), data, trailers)

    def _refuse_with(self, error: errors.WindlassError) -> None:
        self._settle()
        write = self._listener.access_log
        if write is not None:
            self._log(write, statuses.OK, 0, statuses.grpc_status(error))
        head = rpc_messages.opening(self.request_id)
        self._peer.send_block(head + rpc_messages.block(rpc_messages.ending(error)), end=True)


class TimedRpc(Rpc):
    """A call whose caller waits only so long."""

    _timeout_s: float | None = None

    def admit(self) -> None:
        """Read the time, then ask the door."""
        try:
            self._timeout_s = rpc_messages.timeout_of(self.head.headers)
        except errors.InvalidInput as e:
            self.fail(e)
            return
        super().admit()

    def _submit(self, permit: heads.Permit, view: directory.ModelView, request: inference.InferRequest) -> None:
        timeout = self._timeout_s
        if timeout is not None and (request.timeout_s is None or request.timeout_s > timeout):
            request = msgspec.structs.replace(request, timeout_s=timeout)
        super()._submit(permit, view, request)
