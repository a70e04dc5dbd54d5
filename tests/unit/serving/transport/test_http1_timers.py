"""A connection and the clock: slow and silent peers, slow models, back-pressure, and the end of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors

Make = Callable[..., Any]
HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


def _echo(body: bytes) -> bytes:
    return b"POST /echo/m HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HOST, len(body), body)


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
    server.check_settled()


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
    assert server.arrive()[1].aborted


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
    server.check_settled()
    assert server.outcomes()["rejected"] == 3
