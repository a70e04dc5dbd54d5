"""A connection over time: the order of answers, peers that send anything and leave at any point, and faults of ours."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors

Make = Callable[..., Any]
HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


def _echo(body: bytes, target: bytes = b"/echo/m", lines: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (target, HOST, lines, len(body), body)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_answers_keep_the_order_of_their_requests(
    make_server: Make, parse_responses: Callable[..., Any], data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(("echo", "health", "missing", "broken")), min_size=1, max_size=20))
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    for index, kind in enumerate(kinds):
        connection.data_received(
            {
                "echo": _echo(b"%d" % index),
                "broken": _echo(b"%d" % index),
                "health": HEALTH,
                "missing": _echo(b"", b"/echo/none"),
            }[kind]
        )
    calls = data.draw(st.permutations(server.models.calls))
    for call in calls:
        if kinds[int(bytes(call.request.inputs["x"]))] == "broken":
            call.fail(errors.InternalError("the run failed in /srv/secret"))
        else:
            server.models.answer(call)
    answers = parse_responses(transport.written)
    wanted = {"echo": 200, "broken": 500, "health": 200, "missing": 404}
    assert [a.status for a in answers] == [wanted[kind] for kind in kinds]
    for index, (kind, answer) in enumerate(zip(kinds, answers, strict=True)):
        assert kind != "echo" or answer.body == b"%d" % index
        assert b"/srv" not in answer.body
    server.check_settled()
    counts = server.outcomes()
    assert (counts["ok"], counts["failed"]) == (kinds.count("echo"), kinds.count("broken"))


@pytest.mark.promise("P-35")
@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, 400), answered=st.integers(0, 3))
def test_a_peer_may_leave_at_any_point(make_server: Make, cut: int, answered: int) -> None:
    server = make_server()
    server.models.at_once = False
    connection, _transport = server.connect()
    connection.data_received((_echo(b"a") + _echo(b"b" * 40) + _echo(b"c"))[:cut])
    for call in server.models.calls[:answered]:
        server.models.answer(call)
    calls = [call for call in server.models.calls if not call.done]
    assert connection.eof_received() is False
    connection.connection_lost(None)
    assert all(call.done for call in calls)
    server.check_settled()
    counts = server.outcomes()
    assert sum(counts.values()) == counts["ok"] + counts["cancelled"]
    assert not server.listener.connections
    # Late answers find nobody, and nothing breaks.
    for call in calls:
        server.models.answer(call)
    assert sum(server.outcomes().values()) == sum(counts.values())


FRAGMENTS = (
    HEALTH,
    _echo(b"a"),
    _echo(b"a", b"/nowhere"),
    _echo(b"", b"/echo/m", b"Connection: close\r\n"),
    b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 17_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"abc",
    b"\r\n",
    b"!!\r\n\r\n",
    bytes(2_000_000),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_stream_breaks_a_connection(
    make_server: Make, parse_responses: Callable[..., Any], data: st.DataObject
) -> None:
    server = make_server(max_body=3_000_000)
    server.models.at_once = data.draw(st.booleans())
    connection, transport = server.connect()
    stream = b"".join(data.draw(st.lists(st.sampled_from(FRAGMENTS), max_size=7)))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=3))
    edges = sorted({0, len(stream), *cuts})
    for start, stop in itertools.pairwise(edges):
        if not transport.closed:
            connection.data_received(stream[start:stop])
    for call in data.draw(st.permutations(server.models.calls)):
        server.models.answer(call)
    assert all(a.status < 500 or a.status == 501 for a in parse_responses(transport.written))
    for _ in range(100):
        server.sweep(2.0)
    assert transport.closed
    assert all(a.status < 500 or a.status == 501 for a in parse_responses(transport.written))
    connection.connection_lost(None)
    server.check_settled()


def test_what_follows_a_last_answer_is_never_run(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    # The second is refused and ends the connection; the third must not run, for nobody would hear its answer.
    refused = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    for pieces in ([_echo(b"a") + refused + _echo(b"b")], [_echo(b"a"), refused, _echo(b"b"), _echo(b"a")]):
        server.models.calls.clear()
        connection, transport = server.connect()
        for piece in pieces:
            connection.data_received(piece)
        assert [bytes(call.request.inputs["x"]) for call in server.models.calls] == [b"a"]
        assert transport.written == b""
        server.models.answer(server.models.calls[0])
        assert [a.status for a in parse_responses(transport.written)] == [200, 404]
        assert transport.closed
    server.check_settled()


def test_garbage_is_answered_behind_what_waits(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(_echo(b"a"))
    connection.data_received(b"what is this\r\n\r\n")
    server.sweep(9.0)
    assert not transport.closed
    server.models.answer(server.models.calls[0])
    answers = parse_responses(transport.written)
    assert [a.status for a in answers] == [200, 400]
    assert transport.ended
    server.sweep(3.0)
    assert transport.closed


def test_a_refused_body_that_goes_wrong_behind_an_open_request(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(_echo(b"a"))
    connection.data_received(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert not transport.ended
    server.models.answer(server.models.calls[0])
    assert [a.status for a in parse_responses(transport.written)] == [200, 404]
    server.check_settled()


# Faults of ours


@pytest.mark.promise("P-08")
def test_faults_of_ours_are_told_in_general_only(
    make_server: Make, parse_responses: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    (answer,) = parse_responses(server.ask(_echo(b"fault")))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert answer.headers[b"x-request-id"].decode() in caplog.text
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(_echo(b"a"))
    server.models.answer(server.models.calls[0], "unencodable")
    (answer,) = parse_responses(transport.written)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert server.outcomes()["failed"] == 2
    server.check_settled()


def test_a_fault_in_reading_is_ours_and_logged(
    make_server: Make,
    parse_responses: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = make_server()
    connection, transport = server.connect()

    def broken(_given: bytes) -> str:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(server.listener, "request_id", broken)
    connection.data_received(b"GET /health HTTP/1.1\r\n" + HOST + b"X-Request-Id: a\r\n\r\n")
    (answer,) = parse_responses(transport.written)
    assert answer.status == 500
    assert "ZeroDivisionError" in caplog.text


def test_request_ids_are_repeated_only_if_they_are_plain(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    seen = set()
    for sent, repeated in ((b"abc-1", True), (b"a b", False), (b"x" * 65, False), (b"${jndi}", False)):
        data = b"GET /health HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + sent + b"\r\n\r\n"
        (answer,) = parse_responses(server.ask(data))
        assert (answer.headers[b"x-request-id"] == sent) is repeated
        seen.add(answer.headers[b"x-request-id"])
    assert len(seen) == 4


def test_no_sequence_of_events_breaks_the_account(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    """A thousand random steps over twenty connections; in the end every request has its one outcome."""
    chance = random.Random(7)
    server = make_server()
    server.models.at_once = False
    open_: list[Any] = []
    whole = 0
    for _ in range(3_000):
        step = chance.random()
        if step < 0.1 and len(open_) < 20:
            open_.append(server.connect())
        elif step < 0.6 and open_:
            connection, transport = chance.choice(open_)
            if not transport.closed and not transport.ended and not connection._in_message:
                cut = chance.random() < 0.05
                connection.data_received(_echo(b"abc")[: -1 if cut else None])
                whole += 1
        elif step < 0.9 and server.models.calls:
            call = server.models.calls.pop(chance.randrange(len(server.models.calls)))
            if chance.random() < 0.2:
                call.fail(errors.InternalError("no"))
            else:
                server.models.answer(call)
        elif step < 0.95 and open_:
            connection, _ = open_.pop(chance.randrange(len(open_)))
            connection.connection_lost(None)
        else:
            server.sweep(chance.random())
    for connection, _ in open_:
        connection.connection_lost(None)
    assert sum(server.outcomes().values()) == whole
    assert server.outcomes()["ok"] > 100
    server.check_settled()
