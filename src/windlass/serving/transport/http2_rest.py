"""Plain HTTP requests on HTTP/2 streams: an exchange for each, and its answer as HEADERS and DATA.

Asked by a connection for each request. Must never tell a peer what belongs to HTTP/1.1's connections.
"""

from __future__ import annotations

from windlass.protocols import base
from windlass.protocols import errors as statuses
from windlass.serving.door import heads
from windlass.serving.transport import exchange, http2_streams, listener
from windlass.serving.transport import http2_hpack as hpack


class Side:
    """The peer of one exchange: its stream."""

    __slots__ = ("_context", "_stream", "peer")

    def __init__(self, context: listener.Listener, stream: http2_streams.Stream) -> None:
        self.peer = stream.peer
        self._context = context
        self._stream = stream

    def respond(self, sender: exchange.Exchange, answer: base.Answer, extra: base.Fields) -> None:
        """Send the response; a HEAD's has no body but tells its length."""
        fields = (
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            (b"date", self._context.writer.date),
            (b"x-request-id", sender.request_id.encode()),
        )
        head = hpack.status(answer.status or statuses.OK) + hpack.encode(fields + answer.headers + extra)
        if sender.head.method == b"HEAD":
            self._stream.send_block(head, end=True)
        else:
            self._stream.respond(head, answer.body)

    def send_continue(self, sender: exchange.Exchange) -> None:  # noqa: ARG002 - a stream has one exchange
        """Streams have no turns."""
        self._stream.send_continue()


class StreamExchange(exchange.Exchange):
    """A request on a stream. A body in one frame has passed no limit yet: no header had to say how long it is."""

    def complete(self, now: float, body: bytes | None = None) -> None:
        """The last byte is there."""
        if body:
            self.receive(body)
        super().complete(now)


def receiver(
    context: listener.Listener, stream: http2_streams.Stream, head: heads.RequestHead
) -> http2_streams.Receiver:
    """What answers a request."""
    request_id = context.request_id(head.headers.get(b"x-request-id"))
    return StreamExchange(Side(context, stream), context, head, request_id)
