"""What answers a request on an HTTP/2 stream: a gRPC call by its content type and method, else a plain exchange.

Asked by HTTP/2 connections for each request. Must never guess: a gRPC call of an encoding that is not read here is
refused as HTTP.
"""

from __future__ import annotations

from windlass import errors
from windlass.protocols import base
from windlass.serving.door import heads
from windlass.serving.transport import http2_rest, http2_streams, listener, rpc, rpc_messages, rpc_streams


def receiver(
    context: listener.Listener, stream: http2_streams.Stream, head: heads.RequestHead
) -> http2_streams.Receiver:
    """The receiver of one request."""
    headers = head.headers
    if not rpc_messages.is_readable(headers.get(b"content-type", b"")):
        # A gRPC method that is asked so is refused there.
        return http2_rest.receiver(context, stream, head)
    request_id = context.request_id(headers.get(b"x-request-id"))
    action = _action(context, head)
    if isinstance(action, base.RpcInfer) and action.fail is not None:
        return rpc_streams.Conversation(context, stream, head, request_id)
    if isinstance(action, base.RpcQuery) and action.stream:
        kind_of_stream = rpc_streams.Conversation if action.stream == "each" else rpc_streams.Watch
        return kind_of_stream(context, stream, head, request_id)
    unary = rpc.TimedRpc if b"grpc-timeout" in headers else rpc.Rpc
    return unary(stream, context, head, request_id)


def _action(context: listener.Listener, head: heads.RequestHead) -> object:
    """What the head asks for, as far as that is known before it is admitted."""
    if head.permit is not None:
        return head.permit.match.route.action
    try:
        return context.door.table.find(head.method, head.target).route.action
    except errors.WindlassError:
        return None
