"""How a connection ends: drained, told, gone; and who closes first."""

from __future__ import annotations

import struct
from typing import Any

from windlass import errors
from windlass.serving.transport import http2_streams

CANCEL = 8


def silent(w: Any, stream: int, *, end: bool = True) -> bytes:
    return w.headers(stream, end=end, fields=[(b":path", b"/silent"), *w.REQUEST[:2]])


def test_an_idle_connection_is_closed(connect: Any, wire: Any) -> None:
    peer = connect(keepalive_timeout_s=30)
    ping = wire.frame(wire.PING, 0, 0, bytes(8))
    peer.say(wire.headers(1))
    for _ in range(30):
        assert wire.kinds(peer.say(ping)) == ["PING"]
        assert not peer.sweep(1)
    found = [*peer.sweep(1), *peer.sweep(1)]
    assert [(one.kind, wire.code(one)) for one in found] == [(wire.GOAWAY, 0)]
    assert struct.unpack(">II", found[0].payload) == (1, 0)
    assert not peer.sweep(0.3)
    assert peer.transport.ended


def test_draining_answers_what_was_sent_before_the_peer_knew(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1))
    peer.server.listener.drain()
    first = peer.say()
    assert [one.kind for one in first] == [wire.GOAWAY, wire.PING]
    assert struct.unpack(">II", first[0].payload) == ((1 << 31) - 1, 0)
    assert wire.kinds(peer.say(wire.headers(3))) == ["HEADERS", "HEADERS"]
    assert [struct.unpack(">II", one.payload) for one in peer.say(wire.frame(wire.PING, 1, 0, first[1].payload))] == [
        (3, 0)
    ]
    # Behind the last stream nothing is taken, but its headers keep the table right.
    assert not peer.say(wire.headers(5, end=False), wire.frame(wire.DATA, 1, 5, b"x"))
    assert not peer.transport.ended
    peer.receivers[0].stream.respond(http2_streams.GRPC_HEAD, b"", http2_streams.GRPC_OK)
    assert wire.kinds(peer.say()) == ["HEADERS", "HEADERS"]
    assert not peer.sweep(0.3)
    assert peer.transport.ended


def test_draining_without_an_answer_to_the_ping(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.connection.drain()
    peer.say()
    found = [*peer.sweep(0.9), *peer.sweep(0.2)]
    assert wire.kinds(found) == ["GOAWAY"]
    assert not peer.sweep(0.3)
    assert peer.transport.ended


def test_the_end_answers_all(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1), silent(wire, 3))
    peer.server.listener.end(errors.Unavailable("the server stops"))
    assert wire.kinds(peer.say()) == ["HEADERS", "HEADERS", "GOAWAY"]
    assert not peer.sweep(0.3)
    assert peer.transport.ended
    peer.connection.connection_lost(None)
    assert peer.connection not in peer.server.listener.connections


def test_a_peer_that_leaves(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1), silent(wire, 3))
    peer.connection.connection_lost(None)
    assert [[type(e) for e in one.ended] for one in peer.receivers] == [[errors.Cancelled]] * 2
    assert not peer.session.streams
    peer.receivers[0].stream.send_data(b"x")
    peer.receivers[0].stream.reset()
    assert not peer.say()


def test_a_peer_that_says_goodbye_gets_its_answers(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1), wire.frame(wire.GOAWAY, 0, 0, bytes(8)))
    assert not peer.transport.ended
    peer.receivers[0].stream.respond(http2_streams.GRPC_HEAD, b"", http2_streams.GRPC_OK)
    peer.say()
    assert not peer.sweep(0.3)
    assert peer.transport.ended


def test_who_never_reads_the_end_loses_its_place(connect: Any, wire: Any) -> None:
    # What is unsent is less than what stops this side, so that nothing else would ever end the connection.
    peer = connect(echo=False)
    peer.transport.unsent = 1_000
    peer.sweep(76.0)
    assert not peer.transport.aborted
    peer.sweep(59.0)
    peer.transport.unsent = 900
    peer.sweep(59.0)
    assert not peer.transport.aborted
    peer.sweep(61.0)
    assert peer.transport.aborted


def test_what_comes_after_the_end_is_thrown_away_until_the_peer_has_read_it(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    peer.connection.end(errors.Unavailable("stopping"))
    peer.heard()
    assert not peer.say(wire.headers(1))
    # The peer is let close first.
    assert not peer.transport.ended
    assert not peer.sweep(0.3)
    assert peer.transport.ended
    assert not peer.sweep(1.0)
    assert not peer.transport.aborted
    peer.sweep(1.5)
    assert peer.transport.aborted
