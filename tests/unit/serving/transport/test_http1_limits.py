"""What a connection takes at most: bytes of a body, of headers and of trailers, chunks, and what it reads to no end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


def _echo(body: bytes) -> bytes:
    return b"POST /echo/m HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HOST, len(body), body)


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
    server.check_settled()


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
    server.check_settled()


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


@pytest.mark.promise("P-36b")
def test_bodies_of_all_connections_share_one_budget(make_server: Callable[..., Any]) -> None:
    server = make_server(max_pending_bytes=1_000)
    head = b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n"
    (first, one), (second, two) = server.connect(), server.connect()
    first.data_received(head + b"a" * 600)
    second.data_received(head + b"b" * 600)
    server.loop.turn()
    assert b" 503 " in two.written
    assert one.written == b""
    first.data_received(b"a" * 300)
    server.loop.turn()
    assert b" 200 " in one.written
    server.check_settled()
