"""A new connection: whose it may be, how many there may be, and what its first bytes make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.transport import arrival, http1, http2, peers
from windlass.types import spec

Make = Callable[..., Any]
ASK = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def test_the_first_bytes_decide(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    new, transport = server.arrive()
    new.data_received(ASK)
    assert isinstance(transport.protocol, http1.Connection)
    assert [a.status for a in parse_responses(transport.written)] == [200]
    new, transport = server.arrive()
    new.data_received(PREFACE + SETTINGS)
    server.loop.turn()
    assert isinstance(transport.protocol, http2.Connection)
    # An HTTP/2 server begins with its settings.
    assert transport.written[3:5] == b"\x04\x00"
    assert len(server.listener.connections) == 2


@settings(deadline=None)
@given(data=st.data())
def test_a_preface_in_pieces_is_one(make_server: Make, data: st.DataObject) -> None:
    server = make_server()
    new, transport = server.arrive()
    rest = PREFACE + SETTINGS
    while transport.protocol is new and rest:
        size = data.draw(st.integers(1, len(rest)))
        new.data_received(rest[:size])
        rest = rest[size:]
    if rest:
        transport.protocol.data_received(rest)
    server.loop.turn()
    assert isinstance(transport.protocol, http2.Connection)
    assert transport.written[3:5] == b"\x04\x00"
    assert not transport.closed


@settings(deadline=None)
@given(st.integers(1, len(PREFACE) - 1), st.binary(min_size=1, max_size=40))
def test_what_only_begins_like_a_preface_is_http1(make_server: Make, size: int, other: bytes) -> None:
    server = make_server()
    new, transport = server.arrive()
    new.data_received(PREFACE[:size])
    assert transport.protocol is new
    new.data_received(other)
    first = PREFACE[:size] + other
    if len(first) < len(PREFACE) and PREFACE.startswith(first):
        assert transport.protocol is new
    else:
        assert isinstance(transport.protocol, http2.Connection if first.startswith(PREFACE) else http1.Connection)
    assert len(server.listener.connections) == 1


@pytest.mark.parametrize(
    ("agreed", "data", "protocol"),
    [
        ("h2", PREFACE, http2.Connection),
        ("h2", PREFACE[:1], http2.Connection),
        ("http/1.1", ASK, http1.Connection),
        ("http/1.1", PREFACE, http1.Connection),
        (None, ASK, http1.Connection),
        (None, PREFACE, http2.Connection),
    ],
)
def test_what_the_handshake_agreed_on_is_spoken(
    make_server: Make, agreed: str | None, data: bytes, protocol: type
) -> None:
    server = make_server()
    new, transport = server.arrive(("192.0.2.7", 4242), agreed)
    new.data_received(data)
    assert isinstance(transport.protocol, protocol)


def test_a_request_split_before_its_first_byte_is_answered(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    new, transport = server.arrive()
    new.data_received(b"P")
    assert transport.protocol is new
    new.data_received(b"OST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    assert [a.status for a in parse_responses(transport.written)] == [200]


@pytest.mark.promise("P-36b")
@pytest.mark.parametrize("first", [b"", b"P", PREFACE[:-1]])
def test_who_does_not_say_what_it_wants_is_closed(make_server: Make, first: bytes) -> None:
    server = make_server()
    new, transport = server.arrive()
    if first:
        new.data_received(first)
    server.sweep(9.9)
    assert not transport.closed
    server.sweep(0.2)
    assert transport.closed
    new.connection_lost(None)
    new.data_received(b"GET")
    assert not server.listener.connections


def test_too_many_connections_are_turned_away(make_server: Make) -> None:
    server = make_server(max_connections=2)
    kept = [server.arrive() for _ in range(2)]
    kept[0][0].data_received(ASK)
    new, transport = server.arrive()
    assert transport.aborted
    new.connection_lost(None)
    assert server.counters.rejected == {"too_many_connections": 1}
    kept[0][1].protocol.connection_lost(None)
    assert not server.arrive()[1].aborted


def test_nobody_takes_all_the_connections(make_server: Make) -> None:
    server = make_server(max_connections=10, max_connections_per_peer=3)
    kept = [server.arrive(("192.0.2.7", port)) for port in range(3)]
    for new, _ in kept:
        new.data_received(ASK)
    assert server.arrive(("192.0.2.7", 4))[1].aborted
    # The same host over an IPv6 socket.
    assert server.arrive(("::ffff:192.0.2.7", 5, 0, 0))[1].aborted
    assert not server.arrive(("192.0.2.8", 6))[1].aborted
    assert server.counters.rejected == {"too_many_connections_of_peer": 2}
    kept[1][1].protocol.connection_lost(None)
    assert not server.arrive(("::ffff:192.0.2.7", 7, 0, 0))[1].aborted
    for connection in tuple(server.listener.connections):
        connection.connection_lost(None)
    assert server.listener.connections.by_peer == {}


@pytest.mark.promise("P-19b")
def test_only_the_allowed_networks_are_answered(make_server: Make) -> None:
    server = make_server(allow=("10.1.0.0/16", "2001:db8::/32", "192.0.2.9"))
    for name, allowed in (
        (("10.1.2.3", 1), True),
        (("::ffff:10.1.2.3", 1, 0, 0), True),
        (("10.2.2.3", 1), False),
        (("::ffff:10.2.2.3", 1, 0, 0), False),
        (("2001:db8::1", 1, 0, 0), True),
        (("2001:db9::1", 1, 0, 0), False),
        (("192.0.2.9", 1), True),
        (("192.0.2.8", 1), False),
        (("127.0.0.1", 1), False),
        (("fe80::1%eth0", 1, 0, 2), False),
        (("no address", 1), False),
        ("", True),
        (b"", True),
    ):
        assert server.arrive(name)[1].aborted is not allowed, name
    assert server.counters.rejected == {"address_not_allowed": 7}


@pytest.mark.parametrize("text", ["10.1.0.1/16", "10.1.0.0/33", "everybody", "", "10.1.0.0-10.1.0.9"])
def test_a_network_that_is_none_is_told(text: str) -> None:
    with pytest.raises(errors.UsageError, match="allow list"):
        peers.Connections(spec.ServerLimits(), (text,))


def test_a_server_that_stops_waits_only_for_those_who_come_now(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    new, transport = server.arrive()
    silent = server.arrive()[1]
    server.listener.drain()
    assert server.arrive()[1].aborted
    new.data_received(ASK)
    assert [a.status for a in parse_responses(transport.written)] == [200]
    server.sweep(0.9)
    assert not silent.closed
    server.sweep(0.2)
    assert silent.closed
    assert server.counters.rejected == {"draining": 1}


def test_all_are_closed_at_the_end(make_server: Make) -> None:
    server = make_server()
    new, transport = server.arrive()
    server.listener.end(errors.Unavailable("the server is stopping"))
    assert transport.closed
    assert new.eof_received() is False
    assert arrival.PREFACE == PREFACE


@pytest.mark.promise("P-19b")
def test_a_handshake_takes_a_place(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server(max_connections=4, max_connections_per_peer=2, allow=("192.0.2.0/24",))
    assert not arrival.Arrival(server.listener).take_place("198.51.100.1")
    shaking = [arrival.Arrival(server.listener) for _ in range(2)]
    assert all(one.take_place("192.0.2.7") for one in shaking)
    assert not arrival.Arrival(server.listener).take_place("192.0.2.7")
    # The place of the handshake is the connection's.
    transport = type(server.arrive(("192.0.2.9", 1))[1])(("192.0.2.7", 1), "http/1.1")
    shaking[0].connection_made(transport)
    assert not transport.aborted
    shaking[0].data_received(ASK)
    assert [a.status for a in parse_responses(transport.written)] == [200]
    server.sweep(60.0)
    server.listener.connections.discard(shaking[1])
    assert arrival.Arrival(server.listener).take_place("192.0.2.7")
    assert server.counters.rejected == {"address_not_allowed": 1, "too_many_connections_of_peer": 1}
