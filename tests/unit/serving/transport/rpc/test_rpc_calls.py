"""A unary gRPC call on a fake HTTP/2 stream: framing, limits, compression, deadlines, and how every call ends."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.protocols import base

Calls = Any


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def test_a_call_and_its_answer(calls: Calls) -> None:
    stream = calls.ask("Ask", framed(b"m:abc"), x_request_id="me", x_server_timing="1")
    assert stream.messages == [b"abc"]
    assert (stream.status, stream.ended) == (0, True)
    assert stream.head == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"x-request-id": b"me",
    }
    assert stream.trailers[b"server-timing"].startswith(b"queue;dur=")
    assert calls.ask("Say", framed(b"hello")).messages == [b"hello"]
    assert calls.ask("Ask", framed(b"m:")).messages == [b""]
    calls.server.check_settled()
    assert calls.server.outcomes()["ok"] == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_message_may_come_in_any_parts(make_calls: Callable[[], Calls], data: st.DataObject) -> None:
    calls = make_calls()
    body = framed(b"m:" + data.draw(st.binary(max_size=40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    receiver, stream = calls.open("Ask")
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        receiver.receive(body[start:end])
    receiver.complete(calls.server.loop.now)
    assert stream.messages == [body[7:]]
    calls.server.check_settled()


ENDINGS = [
    ("Ask", b"", 12, b"there came none"),
    ("Ask", framed(b"m:a") * 2, 12, b"more than one"),
    ("Ask", framed(b"m:a")[:-1], 3, b"ends early"),
    ("Ask", b"\0\0", 3, b"ends early"),
    ("Ask", framed(b"m:a", 2), 3, b"neither 0 nor 1"),
    ("Ask", struct.pack(">BI", 0, 1 << 31), 8, b"at most 1048576"),
    ("Ask", framed(b"nobody:a"), 5, b"Request for unknown model: 'nobody'"),
    ("Ask", framed(b"m:bad"), 3, b"this is bad: 100 %25 n%C3%B6"),
    ("Ask", framed(b"m:fault"), 13, b"its log has the details"),
    ("Ask", framed(b"m:a", 1), 3, b"names no encoding"),
    ("Nothing", framed(b"m:a"), 12, b"no such gRPC method"),
    ("/plain", framed(b"m:a"), 12, b"no gRPC method"),
    ("Later", framed(b""), 7, b"model:load"),
    ("Watch", framed(b"m:a") * 2, 12, b"more than one"),
    ("Each", framed(b"bad"), 3, b"no"),
    ("Each", framed(b"a")[:-1], 3, b"ends early"),
]


@pytest.mark.promise("P-36c")
@pytest.mark.promise("P-08")
@pytest.mark.parametrize(("method", "body", "status", "sentence"), ENDINGS)
@pytest.mark.parametrize("parts", [False, True])
def test_every_error_has_its_status(
    calls: Calls, method: str, body: bytes, status: int, sentence: bytes, parts: bool
) -> None:
    receiver, stream = calls.open(method)
    if parts:
        for index in range(len(body)):
            receiver.receive(body[index : index + 1])
        receiver.complete(calls.server.loop.now)
    elif not stream.ended:
        receiver.complete(calls.server.loop.now, body)
    assert (stream.status, stream.ended) == (status, True)
    assert sentence in stream.trailers[b"grpc-message"]
    assert b"secret" not in stream.trailers[b"grpc-message"]
    assert b"x-request-id" in stream.head
    calls.server.check_settled()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"grpc_encoding": "snappy"}, 12),
        ({"grpc_timeout": "1"}, 3),
        ({"grpc_timeout": "123456789S"}, 3),
        ({"origin": "https://elsewhere.example"}, 7),
    ],
)
@pytest.mark.parametrize("method", ["Ask", "Chat", "Watch"])
def test_headers_that_are_refused_end_the_call_at_once(
    calls: Calls, method: str, headers: dict[str, str], status: int
) -> None:
    receiver, stream = calls.open(method, **headers)
    assert (stream.status, stream.ended) == (status, True)
    receiver.receive(framed(b"m:a"))
    receiver.complete(calls.server.loop.now)
    calls.server.check_settled()
    if status == 12:
        assert stream.head[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


@pytest.mark.parametrize("kind", ["application/grpc+json", "application/grpc-web", "application/json", ""])
def test_other_content_types_are_no_grpc(calls: Calls, kind: str) -> None:
    stream = calls.ask("Ask", framed(b"m:a"), content_type=kind)
    assert (stream.head[b":status"], stream.ended) == (b"415", True)


@pytest.mark.threat("V8")
@pytest.mark.parametrize("method", ["Ask", "Chat"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_messages_are_inflated_within_their_limit(calls: Calls, method: str, encoding: str) -> None:
    def squeezed(data: bytes) -> bytes:
        return framed(gzip.compress(data) if encoding == "gzip" else zlib.compress(data), 1)

    long = b"m:" + bytes(range(256)) * 64
    stream = calls.ask(method, squeezed(long), grpc_encoding=encoding)
    assert stream.messages == [long[2:]]
    assert stream.head[b"grpc-encoding"] == encoding.encode()
    assert len(stream.data) < 4_096
    assert calls.ask(method, squeezed(b"m:a"), grpc_encoding=encoding).messages == [b"a"]
    bomb = calls.ask(method, squeezed(b"m:" + bytes(1 << 21)), grpc_encoding=encoding)
    broken = calls.ask(method, framed(b"m:a", 1), grpc_encoding=encoding)
    if method == "Ask":
        assert (bomb.status, broken.status) == (8, 3)
    else:
        assert b"inflates to more than" in bomb.messages[0]
        assert b"is not valid" in broken.messages[0]
    calls.server.check_settled()


@pytest.mark.promise("P-33")
def test_the_callers_deadline_is_the_models(calls: Calls) -> None:
    calls.server.models.at_once = False
    for value, seconds in (("250m", 0.25), ("2S", 2.0), ("1H", 3600.0), ("5u", 5e-6), ("0n", 1e-9), ("1M", 60.0)):
        calls.ask("Ask", framed(b"m:a"), grpc_timeout=value)
        call = calls.server.models.calls.pop()
        assert call.request.timeout_s == pytest.approx(seconds)
        call.fail(errors.DeadlineExceeded("late"))
    assert calls.server.outcomes()["expired"] == 6
    receiver, stream = calls.open("Chat", grpc_timeout="1500m")
    receiver.receive(framed(b"m:a"))
    (seconds, fire, arguments) = calls.timers[-1]
    assert seconds == 1.5
    fire(*arguments)
    assert (stream.status, stream.ended) == (4, True)
    fire(*arguments)
    calls.server.check_settled()


@pytest.mark.promise("P-35")
@pytest.mark.parametrize("method", ["Ask", "Chat"])
def test_a_caller_that_leaves_takes_its_work_along(calls: Calls, method: str) -> None:
    calls.server.models.at_once = False
    receiver, _ = calls.open(method)
    receiver.receive(framed(b"m:a"))
    receiver.complete(calls.server.loop.now)
    (call,) = calls.server.models.calls
    receiver.end(errors.Cancelled("the client went away"))
    assert call.done
    assert calls.server.outcomes()["cancelled"] == 1
    calls.server.check_settled()


def test_a_call_that_is_answered_later(calls: Calls) -> None:
    calls.server.door._trusted = type(calls.server.door._trusted)("root", frozenset({"model:load"}))
    for outcome, status in ((base.Answer(b"done"), 0), (errors.Unavailable("busy", retry_after_s=3), 14)):
        stream = calls.ask("Later", framed(b""))
        assert not stream.ended
        calls.toy.finish(outcome)
        assert stream.status == status
    assert stream.trailers[b"retry-after"] == b"3"
