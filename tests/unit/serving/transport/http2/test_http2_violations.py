"""What a peer may not do, each with its error code: sections of RFC 9113, in the order of h2spec's cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 0xB
Case = Callable[[Any], tuple[bytes, ...]]
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/echo/m"), (b":authority", b"127.0.0.1")]


def open_one(w: Any, target: bytes = b"/echo") -> bytes:
    return w.headers(1, end=False, fields=[(b":path", target), *w.REQUEST[:2]])


CONNECTION: list[tuple[str, int, Case]] = [
    ("4.2 DATA longer than MAX_FRAME_SIZE", SIZE, lambda w: (open_one(w), w.frame(0, 0, 1, bytes(65_537)))),
    ("4.2 HEADERS longer than MAX_FRAME_SIZE", SIZE, lambda w: (w.frame(1, 4, 1, bytes(65_537)),)),
    ("4.3 a block that is no HPACK", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),)),
    ("4.3 a block that ends within a field", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\x00\x05ab"),)),
    ("4.3 an index behind the table", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\xfe"),)),
    ("4.3 index 0", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\x80"),)),
    ("4.3 a table larger than allowed", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\x3f\xe2\x1f" + w.block()),)),
    ("4.3 a table resized behind a field", COMPRESSION, lambda w: (w.frame(1, 5, 1, w.block() + b"\x20"),)),
    ("4.3 Huffman padded with zeros", COMPRESSION, lambda w: (w.frame(1, 5, 1, b"\x00\x01a\x81\x00"),)),
    ("5.1 idle: DATA", PROTOCOL, lambda w: (w.frame(0, 1, 1, b"x"),)),
    ("5.1 idle: RST_STREAM", PROTOCOL, lambda w: (w.rst(1),)),
    ("5.1 idle: WINDOW_UPDATE", PROTOCOL, lambda w: (w.window(1, 100),)),
    ("5.1 idle: CONTINUATION", PROTOCOL, lambda w: (w.frame(9, 4, 1, w.block()),)),
    ("5.1 closed: HEADERS", CLOSED, lambda w: (w.headers(1), w.headers(1))),
    ("5.1 closed: CONTINUATION", PROTOCOL, lambda w: (w.headers(1), w.frame(9, 4, 1, w.block()))),
    ("5.1.1 an even stream", PROTOCOL, lambda w: (w.headers(2),)),
    ("5.1.1 stream 0", PROTOCOL, lambda w: (w.headers(0),)),
    ("5.1.1 a lower stream", PROTOCOL, lambda w: (w.headers(5), w.headers(3))),
    ("6.1 DATA on stream 0", PROTOCOL, lambda w: (w.frame(0, 0, 0, b"x"),)),
    ("6.1 DATA with too much padding", PROTOCOL, lambda w: (open_one(w), w.frame(0, 8, 1, b"\x05abc"))),
    ("6.1 DATA padded and empty", SIZE, lambda w: (open_one(w), w.frame(0, 8, 1, b""))),
    ("6.2 HEADERS with too much padding", PROTOCOL, lambda w: (w.frame(1, 13, 1, b"\xff" + w.block()),)),
    (
        "6.2 HEADERS without END_HEADERS, then PRIORITY",
        PROTOCOL,
        lambda w: (w.frame(1, 1, 1, w.block()), w.frame(2, 0, 1, bytes(5))),
    ),
    ("6.2 HEADERS, then DATA within the block", PROTOCOL, lambda w: (w.frame(1, 0, 1, w.block()), w.frame(0, 1, 1))),
    ("6.2 HEADERS, then another stream's HEADERS", PROTOCOL, lambda w: (w.frame(1, 1, 1, w.block()), w.headers(3))),
    ("6.2 HEADERS with a priority that is cut", SIZE, lambda w: (w.frame(1, 0x25, 1, b"\0\0\0"),)),
    ("6.3 PRIORITY on stream 0", PROTOCOL, lambda w: (w.frame(2, 0, 0, bytes(5)),)),
    ("6.4 RST_STREAM on stream 0", PROTOCOL, lambda w: (w.rst(0),)),
    ("6.4 RST_STREAM of another size", SIZE, lambda w: (open_one(w), w.frame(3, 0, 1, bytes(3)))),
    ("6.5 SETTINGS on a stream", PROTOCOL, lambda w: (w.frame(4, 0, 1, b""),)),
    ("6.5 SETTINGS ack with a payload", SIZE, lambda w: (w.frame(4, 1, 0, bytes(6)),)),
    ("6.5 SETTINGS of another size", SIZE, lambda w: (w.frame(4, 0, 0, bytes(5)),)),
    ("6.5.2 ENABLE_PUSH 2", PROTOCOL, lambda w: (w.settings(s2=2),)),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", FLOW, lambda w: (w.settings(s4=1 << 31),)),
    ("6.5.2 MAX_FRAME_SIZE 2^14-1", PROTOCOL, lambda w: (w.settings(s5=16_383),)),
    ("6.5.2 MAX_FRAME_SIZE 2^24", PROTOCOL, lambda w: (w.settings(s5=1 << 24),)),
    ("6.6 PUSH_PROMISE", PROTOCOL, lambda w: (open_one(w), w.frame(5, 4, 1, bytes(4) + w.block()))),
    ("6.7 PING on a stream", PROTOCOL, lambda w: (w.frame(6, 0, 1, bytes(8)),)),
    ("6.7 PING of another size", SIZE, lambda w: (w.frame(6, 0, 0, bytes(7)),)),
    ("6.8 GOAWAY on a stream", PROTOCOL, lambda w: (w.frame(7, 0, 1, bytes(8)),)),
    ("6.8 GOAWAY that is cut", SIZE, lambda w: (w.frame(7, 0, 0, bytes(7)),)),
    ("6.9 WINDOW_UPDATE of 0 on the connection", PROTOCOL, lambda w: (w.window(0, 0),)),
    ("6.9 WINDOW_UPDATE of another size", SIZE, lambda w: (w.frame(8, 0, 0, bytes(3)),)),
    ("6.9.1 the connection's window above 2^31-1", FLOW, lambda w: (w.window(0, (1 << 31) - 1),)),
    (
        "6.9.2 a stream's window above 2^31-1 by SETTINGS",
        FLOW,
        lambda w: (open_one(w), w.window(1, (1 << 31) - 1 - 65_535), w.settings(s4=65_536)),
    ),
    ("6.10 CONTINUATION on stream 0", PROTOCOL, lambda w: (w.frame(1, 1, 1, w.block()), w.frame(9, 4, 0))),
    ("6.10 CONTINUATION behind a whole block", PROTOCOL, lambda w: (open_one(w), w.frame(9, 4, 1, w.block()))),
    ("6.10 CONTINUATION of another stream", PROTOCOL, lambda w: (w.frame(1, 1, 1, w.block()), w.frame(9, 4, 3))),
]
STREAM: list[tuple[str, int, Case]] = [
    (
        "5.1 half-closed: DATA",
        CLOSED,
        lambda w: (w.headers(1, fields=[(b":path", b"/silent"), *w.REQUEST[:2]]), w.frame(0, 1, 1, b"x")),
    ),
    (
        "5.1 half-closed: HEADERS",
        CLOSED,
        lambda w: (w.headers(1, fields=[(b":path", b"/silent"), *w.REQUEST[:2]]), w.headers(1)),
    ),
    ("5.1 closed: DATA", CLOSED, lambda w: (w.headers(1), w.frame(0, 1, 1, b"x"))),
    ("6.3 PRIORITY of another size", SIZE, lambda w: (open_one(w), w.frame(2, 0, 1, bytes(4)))),
    ("6.9 WINDOW_UPDATE of 0", PROTOCOL, lambda w: (open_one(w), w.window(1, 0))),
    ("6.9.1 a stream's window above 2^31-1", FLOW, lambda w: (open_one(w), w.window(1, (1 << 31) - 1))),
    ("8.1 trailers that do not end", PROTOCOL, lambda w: (open_one(w), w.headers(1, end=False, fields=[(b"a", b"b")]))),
    ("8.1 trailers with a pseudo-header", PROTOCOL, lambda w: (open_one(w), w.headers(1, fields=[(b":path", b"/")]))),
    ("8.1 trailers with a name in upper case", PROTOCOL, lambda w: (open_one(w), w.headers(1, fields=[(b"A", b"b")]))),
    (
        "8.1.1 less DATA than content-length",
        PROTOCOL,
        lambda w: (w.headers(1, (b"content-length", b"4"), end=False), w.frame(0, 1, 1, b"abc")),
    ),
    (
        "8.1.1 more DATA than content-length",
        PROTOCOL,
        lambda w: (w.headers(1, (b"content-length", b"4"), end=False), w.frame(0, 0, 1, b"abcde")),
    ),
    ("8.1.1 no DATA, but a content-length", PROTOCOL, lambda w: (w.headers(1, (b"content-length", b"4")),)),
    (
        "8.1.1 trailers before the content-length is reached",
        PROTOCOL,
        lambda w: (w.headers(1, (b"content-length", b"4"), end=False), w.headers(1, fields=[(b"a", b"b")])),
    ),
]
MALFORMED: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    ("8.2.1 a name in upper case", [*GET, (b"X-Test", b"1")]),
    ("8.2.1 an empty name", [*GET, (b"", b"1")]),
    ("8.2.1 a space in a name", [*GET, (b"a b", b"1")]),
    ("8.2.1 a colon in a name", [*GET, (b"a:b", b"1")]),
    ("8.2.1 a line end in a value", [*GET, (b"a", b"1\r\nb: 2")]),
    ("8.2.1 a NUL in a value", [*GET, (b"a", b"1\x002")]),
    ("8.2.1 a value that begins with a space", [*GET, (b"a", b" 1")]),
    ("8.2.1 a value that ends with a tab", [*GET, (b"a", b"1\t")]),
    ("8.2.2 connection", [*GET, (b"connection", b"keep-alive")]),
    ("8.2.2 keep-alive", [*GET, (b"keep-alive", b"1")]),
    ("8.2.2 proxy-connection", [*GET, (b"proxy-connection", b"close")]),
    ("8.2.2 transfer-encoding", [*GET, (b"transfer-encoding", b"chunked")]),
    ("8.2.2 upgrade", [*GET, (b"upgrade", b"websocket")]),
    ("8.2.2 te", [*GET, (b"te", b"trailers, deflate")]),
    ("8.3 an unknown pseudo-header", [*GET, (b":test", b"1")]),
    ("8.3 a response's pseudo-header", [*GET, (b":status", b"200")]),
    ("8.3 a pseudo-header behind a header", [*GET[:3], (b"a", b"1"), GET[3]]),
    ("8.3.1 an empty :path", [*GET[:2], (b":path", b"")]),
    ("8.3.1 a :path without a slash", [*GET[:2], (b":path", b"echo")]),
    ("8.3.1 a :path with a space", [*GET[:2], (b":path", b"/a HTTP/1.1")]),
    ("8.3.1 no :path", GET[:2]),
    ("8.3.1 no :method", GET[1:]),
    ("8.3.1 no :scheme", [GET[0], *GET[2:]]),
    ("8.3.1 a :method that is no token", [(b":method", b"G T"), *GET[1:]]),
    ("8.3.1 :method twice", [GET[0], *GET]),
    ("8.3.1 :scheme twice", [GET[1], *GET]),
    ("8.3.1 :path twice", [GET[2], *GET]),
    ("8.3.1 a host that is not the :authority", [*GET, (b"host", b"else.example")]),
    ("8.3.1 two hosts", [*GET[:3], (b"host", b"a.example"), (b"host", b"b.example")]),
    ("8.5 a CONNECT with a :path", [(b":method", b"CONNECT"), *GET[1:]]),
    ("8.1.1 a content-length that is no number", [*GET, (b"content-length", b"+1")]),
    ("8.1.1 two content-lengths", [*GET, (b"content-length", b"0"), (b"content-length", b"1")]),
]


@pytest.mark.parametrize(("wrong", "data"), [c[1:] for c in CONNECTION], ids=[c[0] for c in CONNECTION])
def test_a_connection_error_ends_the_connection(connect: Any, wire: Any, wrong: int, data: Case) -> None:
    peer = connect()
    found = peer.say(*data(wire))
    assert [wire.code(one) for one in found if one.kind == wire.GOAWAY] == [wrong]
    assert found[-1].kind == wire.GOAWAY
    assert peer.transport.ended
    assert all(one.ended or not one.stream.alive for one in peer.receivers)
    assert not peer.say(wire.frame(wire.PING, 0, 0, bytes(8)))
    peer.sweep(3.0)
    assert peer.transport.aborted
    assert not peer.session.streams


@pytest.mark.parametrize(("wrong", "data"), [c[1:] for c in STREAM], ids=[c[0] for c in STREAM])
def test_a_stream_error_ends_the_stream(connect: Any, wire: Any, wrong: int, data: Case) -> None:
    peer = connect()
    found = peer.say(*data(wire))
    assert [(one.stream, wire.code(one)) for one in found if one.kind == wire.RST_STREAM] == [(1, wrong)]
    assert not peer.session.streams
    assert wire.kinds(peer.say(wire.headers(3))) == ["HEADERS", "HEADERS"]


@pytest.mark.parametrize("fields", [c[1] for c in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_a_malformed_request_is_reset(connect: Any, wire: Any, fields: list[tuple[bytes, bytes]]) -> None:
    peer = connect()
    found = peer.say(wire.headers(1, fields=fields))
    assert [(one.kind, one.stream, wire.code(one)) for one in found] == [(wire.RST_STREAM, 1, PROTOCOL)]
    assert not peer.receivers
    assert wire.kinds(peer.say(wire.headers(3))) == ["HEADERS", "HEADERS"]


@pytest.mark.parametrize("first", ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "x"])
def test_another_preface(connect: Any, wire: Any, first: str) -> None:
    peer = connect(greet=False)
    peer.heard()
    found = peer.say(first.encode() + b"!")
    assert [wire.code(one) for one in found] == [PROTOCOL]


@pytest.mark.parametrize("first", [b"ping", b"ack", b"headers", b"data"])
def test_the_first_frame_is_settings(connect: Any, wire: Any, first: bytes) -> None:
    frames = {
        b"ping": wire.frame(wire.PING, 0, 0, bytes(8)),
        b"ack": wire.frame(wire.SETTINGS, wire.ACK, 0),
        b"headers": wire.headers(1),
        b"data": wire.frame(wire.DATA, 0, 1, b"x"),
    }
    peer = connect(greet=False)
    peer.heard()
    assert [wire.code(one) for one in peer.say(wire.PREFACE + frames[first])] == [PROTOCOL]


def test_the_windows_that_were_given_hold(connect: Any, wire: Any) -> None:
    # 6.9.1: a stream's window is its error alone, the connection's is everybody's.
    peer = connect()
    peer.say(open_one(wire, b"/silent"))
    peer.session.streams[1].pause()
    chunk = wire.frame(wire.DATA, 0, 1, bytes(65_536))
    found = peer.say(*[chunk] * 17)
    assert [(one.stream, wire.code(one)) for one in found if one.kind == wire.RST_STREAM] == [(1, FLOW)]
    peer.session._credit = 10
    assert wire.code(peer.say(wire.frame(wire.DATA, 0, 1, bytes(11)))[-1]) == FLOW


def test_what_the_rules_allow(connect: Any, wire: Any) -> None:
    # Unknown frames (5.5), flags and settings (6.5.2); padding; priorities; the reserved bit (4.1); TE (8.2.2).
    peer = connect()
    answer = peer.say(
        wire.frame(0xBB, 0xFF, 0x8000_0007, b"whatever"),
        wire.settings(s99=7),
        wire.frame(wire.PRIORITY, 0, 9, bytes(5)),
        wire.frame(
            wire.HEADERS, 0x2C, 0x8000_0001, b"\x03" + bytes(5) + wire.block(None, (b"te", b"trailers")) + bytes(3)
        ),
        wire.frame(wire.DATA, wire.PADDED | 0xF0, 1, b"\x02ab" + bytes(2)),
        wire.frame(wire.DATA, 0, 1),
        wire.headers(1, fields=[(b"x-checksum", b"1")]),
    )
    assert wire.kinds(answer) == ["SETTINGS", "HEADERS", "DATA", "HEADERS"]
    assert answer[2].payload == b"ab"
