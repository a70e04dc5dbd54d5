"""gRPC calls that go on: the order of answers, back-pressure, revoked keys, watched answers, and how they end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.transport import rpc, rpc_streams

Calls = Any


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stream_answers_in_order_whatever_comes_first(make_calls: Callable[[], Calls], data: st.DataObject) -> None:
    calls = make_calls()
    server = calls.server
    server.models.at_once = False
    kinds = data.draw(st.lists(st.sampled_from((b"m:%d", b"none:%d", b"m:bad")), min_size=1, max_size=12))
    sent = [kind % index if b"%" in kind else kind for index, kind in enumerate(kinds)]
    body = b"".join(map(framed, sent))
    receiver, stream = calls.open("Chat")
    for start in range(0, len(body), 7):
        receiver.receive(body[start : start + 7])
    receiver.complete(server.loop.now)
    for call in data.draw(st.permutations(server.models.calls)):
        assert not stream.ended
        server.models.answer(call)
    wanted = [message[2:] if message[:1] == b"m" and message != b"m:bad" else b"!" + message[:1] for message in sent]
    assert [answer[: len(one)] for answer, one in zip(stream.messages, wanted, strict=True)] == wanted
    assert (stream.status, stream.ended) == (0, True)
    server.check_settled()


def test_a_stream_takes_no_more_than_it_can_answer(calls: Calls) -> None:
    server, most = calls.server, rpc_streams.MOST_UNDER_WAY
    server.models.at_once = False
    receiver, stream = calls.open("Chat")
    receiver.receive(framed(b"m:a") * (most + 10))
    assert (len(server.models.calls), stream.paused) == (most, True)
    server.models.answer(server.models.calls[0])
    assert len(server.models.calls) == most + 1
    stream.ready = False
    server.models.answer(server.models.calls[1])
    assert len(server.models.calls) == most + 1
    stream.ready = True
    stream.on_ready()
    assert len(server.models.calls) == most + 2
    for call in server.models.calls:
        server.models.answer(call)
    receiver.complete(server.loop.now)
    for call in server.models.calls:
        server.models.answer(call)
    assert (len(stream.messages), stream.status, stream.paused) == (most + 10, 0, False)
    server.check_settled()


def test_a_key_that_is_revoked_asks_nothing_more_on_its_stream(calls: Calls) -> None:
    receiver, stream = calls.open("Each")
    receiver.receive(framed(b"a"))
    calls.server.door.use_keys((), "")
    receiver.receive(framed(b"b"))
    assert (stream.messages, stream.ended) == ([b"a", b"b"], False)
    calls.server.door._trusted = None
    calls.server.door.use_keys((), "")
    receiver.receive(framed(b"c"))
    assert (stream.messages, stream.status) == ([b"a", b"b"], 16)
    calls.server.check_settled()


def test_a_watch_tells_every_change_once(calls: Calls) -> None:
    receiver, stream = calls.open("Watch")
    receiver.receive(framed(b"a"))
    assert not stream.data
    receiver.complete(calls.server.loop.now)

    calls.tick()
    calls.toy.state = b"two"
    calls.tick()
    calls.tick()
    assert stream.messages == [b"one", b"two"]
    calls.server.listener.draining = True
    calls.tick()
    assert (stream.status, stream.ended, calls.timers) == (14, True, [])
    assert calls.server.listener.watches == 0
    calls.server.check_settled()


def test_a_server_that_drains_waits_for_no_idle_stream(calls: Calls) -> None:
    calls.server.models.at_once = False
    idle, busy = calls.open("Chat"), calls.open("Chat")
    busy[0].receive(framed(b"m:a"))
    calls.tick()
    assert not idle[1].ended
    calls.server.listener.draining = True
    calls.tick()
    assert (idle[1].status, busy[1].ended) == (14, False)
    calls.server.models.answer(calls.server.models.calls[0])
    calls.tick()
    assert (busy[1].messages, busy[1].status) == ([b"a"], 14)
    calls.server.check_settled()


@pytest.mark.threat("V8")
def test_watches_are_bounded(calls: Calls) -> None:
    opened = [calls.open("Watch") for _ in range(rpc_streams.MOST_WATCHES + 1)]
    assert [stream.ended for _, stream in opened[-2:]] == [False, True]
    assert opened[-1][1].status == 8
    opened[0][0].end(errors.Cancelled("the client went away"))
    assert not calls.open("Watch")[1].ended


def test_bytes_of_streams_count_as_pending(make_calls: Callable[..., Calls]) -> None:
    calls = make_calls(max_pending_bytes=100)
    receiver, stream = calls.open("Chat")
    receiver.receive(framed(b"m:" + b"a" * 200)[:150])
    assert (stream.status, stream.ended) == (8, True)
    receiver, stream = calls.open("Ask")
    receiver.receive(framed(b"m:" + b"a" * 200)[:150])
    assert (stream.status, stream.ended) == (8, True)
    calls.server.check_settled()


def test_the_kinds_of_calls(calls: Calls) -> None:
    assert isinstance(calls.open("Ask")[0], rpc.Rpc)
    assert isinstance(calls.open("Say")[0], rpc.Rpc)
    assert isinstance(calls.open("Each")[0], rpc_streams.Conversation)


@pytest.mark.threat("V8")
def test_a_message_that_does_not_go_on_ends_its_stream(calls: Calls) -> None:
    server = calls.server
    chat, stream = calls.open("Chat")
    idle, waits = calls.open("Chat")
    chat.receive(framed(b"m:a") + struct.pack(">BI", 0, 100_000) + b"m:" + bytes(5_000))
    assert stream.messages == [b"a"]
    calls.tick()
    for _ in range(4):
        server.loop.now += 1.0
        calls.tick()
    chat.receive(bytes(10_000))
    server.loop.now += 5.0
    calls.tick()
    assert not stream.ended
    server.loop.now += 10.0
    calls.tick()
    assert (stream.status, waits.ended) == (4, False)
    idle.complete(server.loop.now)
    assert waits.status == 0
    server.check_settled()


def test_a_message_that_waits_for_answers_is_not_late(calls: Calls) -> None:
    server = calls.server
    server.models.at_once = False
    receiver, stream = calls.open("Chat")
    receiver.receive(framed(b"m:a") * (rpc_streams.MOST_UNDER_WAY + 1))
    for _ in range(30):
        server.loop.now += 10.0
        calls.tick()
    for call in server.models.calls:
        server.models.answer(call)
    receiver.complete(server.loop.now)
    assert (len(stream.messages), stream.status) == (rpc_streams.MOST_UNDER_WAY + 1, 0)
    server.check_settled()


def test_who_watches_says_what_in_time(calls: Calls) -> None:
    receiver, stream = calls.open("Watch")
    calls.tick()
    calls.server.loop.now += 11.0
    calls.tick()
    assert (stream.status, calls.server.listener.watches) == (4, 0)
    receiver.end(errors.Cancelled("the caller gave up"))
    assert calls.server.listener.watches == 0
