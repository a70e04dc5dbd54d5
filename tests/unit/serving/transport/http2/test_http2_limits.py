"""What a peer may make a connection do, keep, or wait for: floods, bombs, stalls, and every timer."""

from __future__ import annotations

from typing import Any

import pytest

from windlass import errors
from windlass.serving.transport import http2_streams

PROTOCOL, FLOW, TIMEOUT, SIZE, REFUSED, CANCEL, CALM = 1, 3, 4, 6, 7, 8, 0xB


def silent(w: Any, stream: int, *, end: bool = True) -> bytes:
    return w.headers(stream, end=end, fields=[(b":path", b"/silent"), *w.REQUEST[:2]])


def last_code(w: Any, found: list[Any]) -> int | None:
    return w.code(found[-1]) if found and found[-1].kind == w.GOAWAY else None


@pytest.mark.threat("V8")
def test_rapid_reset(connect: Any, wire: Any) -> None:
    # CVE-2023-44487: streams that are opened and reset at once.
    peer = connect(max_resets_per_s=50, max_streams=20)
    found: list[Any] = []
    asked = 0
    for number in range(1, 1_001, 2):
        found = peer.say(silent(wire, number) + wire.rst(number))
        asked += 1
        if found:
            break
    assert last_code(wire, found) == CALM
    assert asked == 71
    assert all(isinstance(one.ended[0], errors.Cancelled) for one in peer.receivers)


@pytest.mark.threat("V8")
def test_resets_that_the_peer_makes_this_side_do(connect: Any, wire: Any) -> None:
    # CVE-2025-8671: a request, then a frame that is against the rules, so that the server resets the stream.
    peer = connect(max_resets_per_s=50, max_streams=20)
    found: list[Any] = []
    for number in range(1, 1_001, 2):
        found = peer.say(silent(wire, number) + wire.window(number, 0))
        if last_code(wire, found) is not None:
            break
    assert last_code(wire, found) == CALM
    assert number < 200


def test_resets_at_an_honest_rate(connect: Any, wire: Any) -> None:
    peer = connect(max_resets_per_s=50, max_streams=20)
    for number in range(1, 2_001, 2):
        assert not peer.say(silent(wire, number) + wire.rst(number))
        peer.sweep(0.03)
    assert not peer.session.ended


@pytest.mark.parametrize("kind", ["settings", "ping", "empty data", "priority", "window", "unknown", "ack"])
def test_control_frames_that_come_in_floods(connect: Any, wire: Any, kind: str) -> None:
    frame = {
        "settings": wire.settings(s1=4096),
        "ping": wire.frame(wire.PING, 0, 0, bytes(8)),
        "empty data": wire.frame(wire.DATA, 0, 1),
        "priority": wire.frame(wire.PRIORITY, 0, 1, bytes(5)),
        "window": wire.window(1, 1),
        "unknown": wire.frame(0xEE, 0, 1),
        "ack": wire.frame(wire.PING, wire.ACK, 0, bytes(8)),
    }[kind]
    peer = connect(max_control_frames_per_s=10)
    peer.say(silent(wire, 1, end=False))
    assert last_code(wire, peer.say(frame * 90)) is None
    found = peer.say(frame * 200)
    assert last_code(wire, found) == CALM
    assert len(found) < 50


def test_a_measuring_peer_is_no_flood(connect: Any, wire: Any) -> None:
    # Clients measure the path with a PING for each answer that they get, and give windows back as they read.
    peer = connect(max_control_frames_per_s=10)
    ping = wire.frame(wire.PING, 0, 0, bytes(8))
    for number in range(1, 4_001, 2):
        found = peer.say(wire.headers(number, end=False) + wire.frame(wire.DATA, 1, number, b"x" * 8) + ping)
        assert wire.kinds(found) == ["HEADERS", "DATA", "HEADERS", "PING"]
        assert not peer.say(wire.window(0, 8))


@pytest.mark.threat("V8")
def test_a_flood_of_continuations(connect: Any, wire: Any) -> None:
    # CVE-2024-24549 and its kin: a block that never ends, by count and by bytes.
    peer = connect()
    found = peer.say(wire.frame(wire.HEADERS, 1, 1, b""), wire.frame(wire.CONTINUATION, 0, 1) * 33)
    assert last_code(wire, found) == CALM
    peer = connect()
    found = peer.say(wire.frame(wire.HEADERS, 1, 1, b"") + wire.frame(wire.CONTINUATION, 0, 1, bytes(10_000)) * 2)
    assert last_code(wire, found) == CALM
    parts = [wire.block()[i : i + 10] for i in range(0, len(wire.block()), 10)]
    peer = connect()
    frames = [wire.frame(wire.HEADERS, 1, 1, b""), *(wire.frame(wire.CONTINUATION, 0, 1, part) for part in parts)]
    assert wire.kinds(peer.say(*frames, wire.frame(wire.CONTINUATION, 4, 1))) == ["HEADERS", "HEADERS"]


@pytest.mark.threat("V8")
def test_header_bombs(connect: Any, wire: Any) -> None:
    # A field of 4,000 bytes in the table, then named ever again by one byte each (CVE-2016-6581).
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4_000
    assert last_code(wire, connect().say(wire.frame(wire.HEADERS, 5, 1, wire.block() + bomb + b"\xbe" * 5_000))) == CALM
    many = wire.headers(1, *[(b"a%d" % i, b"") for i in range(200)])
    assert last_code(wire, connect().say(many)) == CALM
    assert last_code(wire, connect(max_header_bytes=500).say(wire.headers(1, (b"a", b"b" * 400)))) == CALM


def test_more_streams_than_allowed(connect: Any, wire: Any) -> None:
    peer = connect(max_streams=3)
    found = peer.say(*(silent(wire, number) for number in (1, 3, 5, 7)))
    assert [(one.kind, one.stream, wire.code(one)) for one in found] == [(wire.RST_STREAM, 7, REFUSED)]
    peer.receivers[0].stream.respond(http2_streams.GRPC_HEAD, b"", http2_streams.GRPC_OK)
    assert not [one for one in peer.say(silent(wire, 9)) if one.kind == wire.RST_STREAM]


@pytest.mark.promise("P-36b")
def test_a_reader_that_gives_no_window(connect: Any, wire: Any) -> None:
    peer = connect(body_timeout_s=20)
    found = peer.say(wire.settings(s4=0), wire.headers(1, end=False), wire.frame(wire.DATA, 1, 1, b"x" * 100))
    assert wire.kinds(found) == ["SETTINGS", "HEADERS"]
    assert peer.connection._output.queued == 100
    for _ in range(19):
        assert not peer.sweep(1)
    # A window of one byte is progress, and then the wait begins again.
    assert [one.payload for one in peer.say(wire.window(1, 1))] == [b"x"]
    for _ in range(19):
        assert not peer.sweep(1)
    assert [(one.kind, wire.code(one)) for one in peer.sweep(2)] == [(wire.RST_STREAM, CANCEL)]
    assert peer.connection._output.queued == 0


def test_a_window_of_less_than_nothing(connect: Any, wire: Any) -> None:
    # 6.9.2: a stream that has sent 100 bytes when its window is set to 30 has a window of -70.
    peer = connect()
    peer.say(wire.headers(1, end=False, fields=[(b":path", b"/stream"), *wire.REQUEST[:2]]))
    sent = peer.say(wire.frame(wire.DATA, 0, 1, b"x" * 100))
    assert wire.kinds(sent) == ["DATA"]
    assert wire.kinds(peer.say(wire.settings(s4=30))) == ["SETTINGS"]
    assert not peer.say(wire.frame(wire.DATA, 1, 1, b"y" * 50))
    assert not peer.say(wire.window(1, 70))
    assert [one.payload for one in peer.say(wire.window(1, 20))] == [b"y" * 20]
    assert wire.kinds(peer.say(wire.window(1, 30))) == ["DATA", "HEADERS"]
    assert not peer.session.streams


def test_too_much_that_no_window_allows(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(wire.settings(s4=0), silent(wire, 1))
    stream = peer.receivers[0].stream
    stream.send_headers([(b":status", b"200")])
    assert stream.ready
    for _ in range(70):
        stream.send_data(bytes(1 << 20))
    assert not stream.ready
    found = peer.say(silent(wire, 3))
    assert (found[-1].kind, wire.code(found[-1])) == (wire.RST_STREAM, REFUSED)
    stream.reset()
    assert peer.connection._output.queued == 0


@pytest.mark.promise("P-36b")
def test_a_peer_that_does_not_read(connect: Any, wire: Any) -> None:
    peer = connect(body_timeout_s=20)
    peer.say(silent(wire, 1))
    stream, called = peer.receivers[0].stream, []
    stream.on_ready = lambda: called.append(stream.ready)
    stream.send_headers([(b":status", b"200")])
    peer.say()
    peer.transport.unsent = 100_000
    peer.connection.pause_writing()
    assert peer.transport.paused
    stream.send_data(b"x" * 10)
    assert not peer.say()
    assert not stream.ready
    peer.connection.resume_writing()
    assert called == [True]
    assert not peer.transport.paused
    assert [one.payload for one in peer.heard()] == [b"x" * 10]
    peer.connection.pause_writing()
    for _ in range(30):
        peer.transport.unsent -= 1
        peer.sweep(1)
    assert not peer.transport.aborted
    for _ in range(21):
        peer.sweep(1)
    assert peer.transport.aborted


TIMERS = [
    ("no preface", b"PRI", TIMEOUT, 10),
    ("no settings", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", TIMEOUT, 10),
]


@pytest.mark.parametrize(("data", "code", "seconds"), [t[1:] for t in TIMERS], ids=[t[0] for t in TIMERS])
def test_who_says_nothing(connect: Any, wire: Any, data: bytes, code: int, seconds: int) -> None:
    peer = connect(greet=False)
    peer.heard()
    peer.say(data)
    assert not peer.sweep(seconds - 0.5)
    assert last_code(wire, peer.sweep(1)) == code


@pytest.mark.promise("P-36b")
@pytest.mark.parametrize("part", ["block", "frame header", "ping", "headers"])
def test_frames_that_do_not_arrive(connect: Any, wire: Any, part: str) -> None:
    data = {
        "block": wire.frame(wire.HEADERS, 1, 1, wire.block()),
        "frame header": wire.headers(1)[:5],
        "ping": wire.frame(wire.PING, 0, 0, bytes(8))[:-1],
        "headers": wire.headers(1)[:-1],
    }[part]
    peer = connect()
    peer.say(*(data[i : i + 1] for i in range(len(data))))
    assert not peer.sweep(9.5)
    assert last_code(wire, peer.sweep(1)) == CALM


@pytest.mark.promise("P-36b")
def test_a_slow_body(connect: Any, wire: Any) -> None:
    peer = connect(min_body_rate=100)
    peer.say(wire.headers(1, end=False), wire.headers(3, end=False), wire.headers(5, end=False))
    peer.receivers[2].stream.timed = False
    # A frame that is on its way counts as far as it is here.
    peer.say(wire.frame(wire.DATA, 0, 3, bytes(2_000))[:1_500])
    assert not peer.sweep(9.5)
    assert [(one.kind, one.stream) for one in peer.sweep(1)] == [(wire.HEADERS, 1)]
    assert [(one.kind, one.stream) for one in peer.sweep(2.1)] == [(wire.RST_STREAM, 1)]
    assert isinstance(peer.receivers[0].ended[0], errors.SlowRequest)
    assert [one.stream for one in peer.sweep(50)] == [3]
    assert [one.stream for one in peer.sweep(3)] == [3]
    assert list(peer.session.streams) == [5]


def test_a_frame_of_a_stream_that_may_take_its_time(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1, end=False))
    peer.receivers[0].stream.timed = False
    assert not peer.sweep(3_000)
    peer.say(wire.frame(wire.DATA, 0, 1, bytes(100))[:-1])
    assert not peer.sweep(69)
    assert last_code(wire, peer.sweep(2)) == CALM


def test_a_fault_of_ours_ends_the_connection_and_no_other(connect: Any, wire: Any, caplog: Any) -> None:
    peer = connect()
    peer.say(silent(wire, 1, end=False))
    peer.receivers[0].receive = lambda data: 1 / 0
    assert last_code(wire, peer.say(wire.frame(wire.DATA, 0, 1, b"x"))) == 2
    assert "unexpectedly" in caplog.text


def answer_early(connect: Any, wire: Any) -> Any:
    peer = connect()
    peer.say(silent(wire, 1, end=False))
    peer.receivers[0].stream.send_headers([(b":status", b"413")], end=True)
    assert wire.kinds(peer.say()) == ["HEADERS"]
    return peer


def test_an_early_answer_lets_the_sender_end(connect: Any, wire: Any) -> None:
    # What is on its way is no error; some clients take a stream that is reset at once for a failure.
    peer = answer_early(connect, wire)
    assert not peer.say(wire.frame(wire.DATA, 0, 1, b"x"), wire.window(1, 5))
    assert list(peer.session.streams) == [1]
    assert not peer.say(wire.headers(1, fields=[(b"a", b"b")]))
    assert not peer.session.streams
    peer = answer_early(connect, wire)
    assert not peer.say(wire.frame(wire.DATA, 1, 1, b"x"))
    assert not peer.session.streams
    peer = answer_early(connect, wire)
    assert not peer.say(wire.rst(1))
    assert not peer.session.streams


def test_an_early_answer_stops_a_sender_that_goes_on(connect: Any, wire: Any) -> None:
    peer = answer_early(connect, wire)
    assert not peer.say(*[wire.frame(wire.DATA, 0, 1, bytes(16_384))] * 64)
    assert [(one.kind, wire.code(one)) for one in peer.sweep(3)] == [(wire.RST_STREAM, 0)]
    assert not peer.session.streams
    # What it sends before it knows is ignored.
    trailers = wire.headers(1, fields=[(b"a", b"b")])
    assert not peer.say(wire.frame(wire.DATA, 0, 1, b"x"), wire.window(1, 5), trailers)
    assert not peer.session.ended


def test_answers_of_one_turn_are_one_write(connect: Any, wire: Any) -> None:
    peer = connect()
    peer.say(*(silent(wire, number) for number in (1, 3, 5)))
    writes: list[bytes] = []
    peer.transport.write = writes.append
    for one in peer.receivers:
        one.stream.respond(http2_streams.GRPC_HEAD, b"abc", http2_streams.GRPC_OK)
    peer.server.loop.turn()
    assert len(writes) == 1
    peer.say(*[b"".join(wire.headers(number) for number in range(7, 47, 2))])
    assert len(writes) == 2
