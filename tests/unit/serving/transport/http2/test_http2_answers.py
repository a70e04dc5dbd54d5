"""What a stream sends: split by frame sizes and windows, in order, with trailers of any size behind it."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.serving.transport import http2_streams

WINDOW = http2_streams.WINDOW


def silent(w: Any, stream: int, *, end: bool = True) -> bytes:
    return w.headers(stream, end=end, fields=[(b":path", b"/silent"), *w.REQUEST[:2]])


def test_headers_and_trailers_longer_than_a_frame_continue(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1))
    stream = peer.receivers[0].stream
    long = [(b"a%d" % i, b"v" * 1_000) for i in range(40)]
    stream.send_headers([(b":status", b"200"), *long])
    stream.send_data(b"body")
    stream.send_trailers(long)
    found = peer.say()
    assert [one.kind for one in found] == [1, 9, 9, 0, 1, 9, 9]
    assert [one.flags for one in found] == [0, 0, 4, 0, 1, 0, 4]
    assert all(len(one.payload) <= 16_384 for one in found)
    block = b"".join(one.payload for one in found[4:])
    peer._decoder.max_header_list_size = 1 << 20
    assert [(bytes(n), bytes(v)) for n, v in peer._decoder.decode(block, raw=True)] == long
    assert not peer.session.streams


def test_trailers_wait_for_the_data_before_them(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(wire.settings(s4=3), silent(wire, 1))
    stream = peer.receivers[0].stream
    stream.send_headers([(b":status", b"200")])
    stream.send_data(b"abcdef")
    stream.send_data(b"ghi")
    stream.send_trailers([(b"grpc-status", b"0")])
    assert [one.payload for one in peer.say()[1:]] == [b"abc"]
    assert [one.payload for one in peer.say(wire.window(1, 4))] == [b"def", b"g"]
    assert wire.kinds(peer.say(wire.window(1, 4))) == ["DATA", "HEADERS"]


@pytest.mark.parametrize("trailers", [b"", http2_streams.GRPC_OK])
def test_an_answer_without_a_body(connect: Any, wire: Any, trailers: bytes) -> None:
    peer = connect()
    peer.say(wire.settings(s4=0), silent(wire, 1))
    peer.receivers[0].stream.respond(http2_streams.GRPC_HEAD, b"", trailers)
    found = peer.say()
    assert wire.kinds(found) == (["HEADERS", "HEADERS"] if trailers else ["HEADERS", "DATA"])
    assert found[-1].flags & wire.END_STREAM
    assert not peer.session.streams


def test_streams_share_the_connections_window_in_turn(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(wire.settings(s4=1 << 20), silent(wire, 1), silent(wire, 3))
    for one in peer.receivers:
        one.stream.respond(http2_streams.GRPC_HEAD, bytes(100_000))
    first = [one for one in peer.say() if one.kind == wire.DATA]
    assert sum(len(one.payload) for one in first) == 65_535
    assert [one.stream for one in first] == [1, 3, 1, 3]
    rest = peer.say(wire.window(0, 1 << 20))
    assert sum(len(one.payload) for one in rest) == 200_000 - 65_535
    assert not peer.session.streams


def test_a_received_window_is_given_back_when_its_bytes_were_used(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1, end=False))
    stream = peer.receivers[0].stream
    part = wire.frame(wire.DATA, 0, 1, bytes(65_536))
    assert not peer.say(*[part] * 7)
    found = peer.say(part)
    assert [(one.stream, int.from_bytes(one.payload, "big")) for one in found] == [(1, WINDOW // 2)]
    stream.pause()
    assert not peer.say(*[part] * 10)
    stream.resume()
    found = peer.say()
    assert [(one.stream, int.from_bytes(one.payload, "big")) for one in found] == [(1, 655_360)]
    # The connection's window is given back whoever is slow, or one stream would hold all others.
    found = [one for one in peer.say(*[part] * 111) if one.stream == 0]
    assert [one.kind for one in found] == [wire.WINDOW_UPDATE]


def test_padding_counts_as_received(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1, end=False))
    peer.say(wire.frame(wire.DATA, wire.PADDED, 1, b"\x03abc" + bytes(3)))
    assert peer.receivers[0].body == b"abc"
    assert peer.receivers[0].stream.credit == WINDOW - 7


def test_nothing_is_sent_behind_the_end(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1))
    stream = peer.receivers[0].stream
    stream.respond(http2_streams.GRPC_HEAD, b"x")
    peer.say()
    stream.send_headers([(b":status", b"200")])
    stream.send_data(b"x")
    stream.send_trailers([])
    stream.respond(http2_streams.GRPC_HEAD, b"x")
    stream.send_continue()
    stream.reset()
    stream.resume()
    assert not peer.say()
    assert not stream.ready


def test_a_peer_that_wants_no_table_is_told_that_there_is_none(connect: Any, wire: Any) -> None:
    # RFC 7541, 4.2: the first block behind a smaller HEADER_TABLE_SIZE begins with the new size; later ones do not.
    peer = connect()
    peer.say(wire.settings(s1=100))
    first = peer.say(wire.headers(1))
    assert first[0].payload[0] == 0x20
    assert peer.say(wire.headers(3))[0].payload == http2_streams.GRPC_HEAD
