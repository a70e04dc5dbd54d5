"""A connection over time: the order of answers, limits, timers, back-pressure, and peers that leave at any point."""

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


def _settled(server: Any) -> None:
    assert server.door.in_flight == 0
    assert all(view.lease.held == 0 for view in server.models.views.values())


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
    _settled(server)
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
    _settled(server)
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
    _settled(server)


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
    _settled(server)


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
    _settled(server)


@pytest.mark.parametrize("answered", [True, False])
def test_an_endless_refused_body_costs_the_connection(
    make_server: Make, parse_responses: Callable[..., Any], answered: bool
) -> None:
    server = make_server(max_body=10_000_000)
    server.models.at_once = False
    connection, transport = server.connect()
    if not answered:
        connection.data_received(_echo(b"a"))
    connection.data_received(
        b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    )
    assert not transport.ended
    connection.data_received(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000\r\n\r\n")
    for _ in range(40):
        connection.data_received(bytes(65_536))
    for call in server.models.calls:
        server.models.answer(call)
    answers = parse_responses(transport.written)
    assert [a.status for a in answers] == ([] if answered else [200]) + [404, 404]
    assert answers[-1].headers[b"connection"] == b"close"
    assert transport.ended
    server.sweep(2.5)
    assert transport.closed


def test_a_body_over_the_limit_is_refused_before_it_is_read(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    for size, status in ((1 << 20, 200), ((1 << 20) + 1, 413)):
        connection, transport = make_server().connect()
        connection.data_received(b"POST /echo/m HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, size))
        assert bool(transport.written) is (status == 413)
        connection.data_received(bytes(size))
        (answer,) = parse_responses(transport.written)
        assert answer.status == status
        # The same without a length.
        connection, transport = make_server().connect()
        connection.data_received(b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.data_received(b"%x\r\n" % size)
        connection.data_received(bytes(size) + b"\r\n0\r\n\r\n")
        (answer,) = parse_responses(transport.written)
        assert answer.status == status


@pytest.mark.threat("V6")
def test_a_flood_of_tiny_chunks_is_refused(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    chunks = b"1\r\na\r\n" * 5_000
    for _ in range(5):
        connection.data_received(chunks)
    (answer,) = parse_responses(transport.written)
    assert answer.status == 400
    assert transport.ended
    _settled(server)


@pytest.mark.threat("V6")
@pytest.mark.parametrize("filler", [b"trailer: value\r\n", b"x"])
def test_trailers_are_bounded_and_forgotten(
    make_server: Make, parse_responses: Callable[..., Any], filler: bytes
) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    connection.data_received(b"a: " + filler if filler == b"x" else filler)
    sent = 0
    while not transport.ended and sent < 100_000:
        connection.data_received(filler * (1_000 // len(filler)))
        sent += 1_000
    (answer,) = parse_responses(transport.written)
    assert answer.status == 431
    assert sent < 20_000
    assert len(connection._fields) == 0
    _settled(server)


@pytest.mark.threat("V8")
@pytest.mark.parametrize("piece", [1, 100, 1_000_000])
@pytest.mark.parametrize(("size", "status"), [(15_000, 200), (16_300, 200), (16_600, 431), (200_000, 431)])
def test_header_bytes_are_limited(
    make_server: Make, parse_responses: Callable[..., Any], size: int, status: int, piece: int
) -> None:
    if piece == 1 and size == 200_000:
        size = 20_000
    start = b"GET /health HTTP/1.1\r\n" + HOST
    data = start + b"X: " + b"x" * (size - len(start) - 7) + b"\r\n\r\n"
    connection, transport = make_server().connect()
    for i in range(0, len(data), piece):
        connection.data_received(data[i : i + piece])
    (answer,) = parse_responses(transport.written)
    assert answer.status == status
    # Behind other requests in the same read the same holds.
    connection, transport = make_server().connect()
    connection.data_received(HEALTH + _echo(bytes(40_000)) + data[: size // 2])
    connection.data_received(data[size // 2 :] + HEALTH)
    statuses = [a.status for a in parse_responses(transport.written)]
    assert statuses == ([200, 200, 200, 200] if status == 200 else [200, 200, 431])


@pytest.mark.parametrize(("count", "status"), [(99, 200), (100, 431)])
def test_the_number_of_headers_is_limited(
    make_server: Make, parse_responses: Callable[..., Any], count: int, status: int
) -> None:
    data = b"GET /health HTTP/1.1\r\n" + HOST + b"a: b\r\n" * count + b"\r\n"
    (answer,) = parse_responses(make_server().ask(data))
    assert answer.status == status


def test_an_endless_request_line_is_refused(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    connection, transport = make_server().connect()
    connection.data_received(b"GET /")
    for _ in range(20):
        connection.data_received(b"a" * 1_000)
    (answer,) = parse_responses(transport.written)
    assert answer.status == 431


# Timers


@pytest.mark.promise("P-36b")
@pytest.mark.parametrize(
    ("start", "trickle", "status", "within"),
    [
        (b"G", b"", 408, 11),
        (b"GET /health HTTP/1.1\r\n", b"a: b\r\n", 408, 11),
        (b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n", b"a", 408, 12),
        (b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Content-Length: 900000\r\n\r\n", b"a" * 1_300, 408, 61),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n", b"a", 404, 12),
        (b"", b"", None, 76),
        (b"", b"\r\n", None, 76),
        (HEALTH, b"\r\n", 200, 76),
    ],
)
def test_slow_and_silent_peers_are_closed(
    make_server: Make, parse_responses: Callable[..., Any], start: bytes, trickle: bytes, status: int, within: int
) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(start)
    seconds = 0
    while not (transport.closed or transport.ended) and seconds < 200:
        server.sweep(1.0)
        seconds += 1
        if trickle and not transport.closed:
            connection.data_received(trickle)
    assert within - 2 <= seconds <= within
    assert [a.status for a in parse_responses(transport.written)] == ([] if status is None else [status])
    server.sweep(3.0)
    assert transport.closed
    _settled(server)


@pytest.mark.promise("P-36b")
def test_slow_bodies_take_no_place_from_anybody(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server(max_in_flight=2)
    for _ in range(50):
        connection, _ = server.connect()
        connection.data_received(_echo(b"never whole")[:-1])
    assert [a.status for a in parse_responses(server.ask(_echo(b"a")))] == [200]


def test_too_many_in_flight_is_refused_with_a_time_to_come_back(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server(max_in_flight=2)
    server.models.at_once = False
    for _ in range(2):
        server.ask(_echo(b"a"))
    (answer,) = parse_responses(server.ask(_echo(b"a")))
    assert answer.status == 503
    assert int(answer.headers[b"retry-after"]) >= 1
    server.models.answer(server.models.calls[0])
    server.ask(_echo(b"a"))
    assert len(server.models.calls) == 3


def test_a_slow_model_is_not_the_peers_fault(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(_echo(b"a"))
    server.sweep(500.0)
    assert not transport.closed
    server.models.answer(server.models.calls[0])
    server.sweep(70.0)
    assert not transport.closed
    server.sweep(10.0)
    assert transport.closed
    assert [a.status for a in parse_responses(transport.written)] == [200]


def test_reading_stops_while_too_much_is_unanswered(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    for _ in range(70):
        if not transport.paused:
            connection.data_received(_echo(b"a"))
    assert len(server.models.calls) == 64
    connection.data_received(_echo(b"half a body")[:-3])
    server.sweep(100.0)
    assert not transport.written
    for call in server.models.calls[:10]:
        server.models.answer(call)
    assert not transport.paused
    assert len(parse_responses(transport.written)) == 10


def test_reading_stops_while_the_peer_does_not_read(make_server: Make) -> None:
    connection, transport = make_server().connect()
    connection.pause_writing()
    assert transport.paused
    connection.resume_writing()
    assert not transport.paused


def test_a_peer_that_never_reads_loses_its_place(make_server: Make) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(HEALTH)
    transport.unsent = 1_000_000
    connection.pause_writing()
    server.sweep(76.0)
    assert transport.closed
    assert not transport.aborted
    for left in (900_000, 800_000):
        transport.unsent = left
        server.sweep(9.0)
    assert not transport.aborted
    server.sweep(11.0)
    assert transport.aborted


def test_too_many_connections_are_turned_away(make_server: Make) -> None:
    server = make_server(max_connections=2)
    kept = [server.connect() for _ in range(2)]
    connection, transport = server.connect()
    assert transport.aborted
    connection.connection_lost(None)
    assert server.counters.rejected == {"too_many_connections": 1}
    kept[0][0].connection_lost(None)
    assert not server.connect()[1].aborted


# Draining


@pytest.mark.promise("P-41")
def test_draining_loses_nothing(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    idle, fresh, working = (server.connect() for _ in range(3))
    idle[0].data_received(HEALTH)
    server.loop.now += 5.0
    fresh[0].data_received(HEALTH)
    working[0].data_received(_echo(b"a") + _echo(b"b") + _echo(b"c"))
    server.listener.drain()
    assert idle[1].closed
    assert not fresh[1].closed
    # Who asked a moment ago may be asking again now.
    fresh[0].data_received(HEALTH)
    assert [a.headers.get(b"connection") for a in parse_responses(fresh[1].written)] == [None, b"close"]
    assert fresh[1].closed
    for call in server.models.calls:
        server.models.answer(call)
    answers = parse_responses(working[1].written)
    assert [a.body for a in answers] == [b"a", b"b", b"c"]
    assert [a.headers.get(b"connection") for a in answers] == [None, None, b"close"]
    assert working[1].closed
    assert server.connect()[1].aborted


def test_draining_closes_the_silent_soon(make_server: Make) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(HEALTH)
    server.listener.drain()
    server.sweep(0.9)
    assert not transport.closed
    server.sweep(0.2)
    assert transport.closed


@pytest.mark.promise("P-43")
def test_the_end_of_grace_is_told(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(_echo(b"a") + _echo(b"b"))
    half = server.connect()
    half[0].data_received(_echo(b"half")[:-1])
    server.listener.drain()
    server.listener.end(errors.Unavailable("the server is stopping"))
    assert [a.status for a in parse_responses(transport.written)] == [503, 503]
    assert [a.status for a in parse_responses(half[1].written)] == [503]
    assert transport.closed
    assert half[1].closed or half[1].ended
    _settled(server)
    assert server.outcomes()["rejected"] == 3


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
    _settled(server)


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
    _settled(server)
