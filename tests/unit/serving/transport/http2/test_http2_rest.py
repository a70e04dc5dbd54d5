"""Plain HTTP on HTTP/2: what a caller gets is what HTTP/1.1 would have given."""

from __future__ import annotations

import gzip
from typing import Any

import pytest


def ask(
    w: Any, peer: Any, target: bytes, body: bytes = b"", *more: tuple[bytes, bytes], method: bytes = b"POST"
) -> Any:
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", target), (b":authority", b"127.0.0.1:8000")]
    number = peer.session.last + 2 if peer.session.last else 1
    parts = [w.headers(number, *more, end=not body, fields=fields)]
    parts += [w.frame(w.DATA, 0, number, body[i : i + 16_384]) for i in range(0, len(body), 16_384)]
    found = peer.say(b"".join(parts) + (w.frame(w.DATA, w.END_STREAM, number) if body else b""))
    heads = [peer.fields(one) for one in found if one.kind == w.HEADERS]
    assert found[-1].flags & w.END_STREAM or found[-1].kind in (w.RST_STREAM, w.WINDOW_UPDATE)
    return heads, b"".join(one.payload for one in found if one.kind == w.DATA)


def test_a_request_is_answered(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    heads, body = ask(wire, peer, b"/echo/m", b"hello", (b"x-request-id", b"mine"))
    assert body == b"hello"
    assert heads[0][b":status"] == b"200"
    assert heads[0][b"content-type"] == b"application/octet-stream"
    assert (heads[0][b"content-length"], heads[0][b"x-request-id"]) == (b"5", b"mine")
    assert b"GMT" in heads[0][b"date"]
    heads, body = ask(wire, peer, b"/health", method=b"GET")
    assert (heads[0][b":status"], body) == (b"200", b'{"live":true}')
    peer.server.check_settled()


def test_a_body_in_many_frames_larger_than_the_windows(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    peer.say(wire.settings(s4=1 << 24, s5=1 << 20), wire.window(0, 1 << 24))
    sent = bytes(range(256)) * 4_000
    _, body = ask(wire, peer, b"/echo/m", sent)
    assert body == sent
    peer.server.check_settled()


def test_head_has_a_length_and_no_body(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    heads, body = ask(wire, peer, b"/health", method=b"HEAD")
    assert (heads[0][b":status"], heads[0][b"content-length"], body) == (b"200", b"13", b"")


def test_gzip_both_ways(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    plain = b"a" * 10_000
    more = ((b"content-encoding", b"gzip"), (b"accept-encoding", b"gzip"))
    heads, body = ask(wire, peer, b"/echo/m", gzip.compress(plain), *more)
    assert heads[0][b"content-encoding"] == b"gzip"
    assert gzip.decompress(body) == plain


def test_100_continue_comes_before_the_body(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    found = peer.say(wire.headers(1, (b"expect", b"100-continue"), end=False))
    assert [peer.fields(one) for one in found] == [{b":status": b"100"}]
    assert not found[0].flags & wire.END_STREAM
    assert wire.kinds(peer.say(wire.frame(wire.DATA, 1, 1, b"x"))) == ["HEADERS", "DATA"]


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [
        (b"/echo/none", (), b"404"),
        (b"/nowhere", (), b"404"),
        (b"/echo/m", ((b"host", b"evil.example"),), b"421"),
        (b"/echo/m", ((b"content-length", b"99999999"),), b"413"),
        (b"/echo/m", ((b"expect", b"miracles"),), b"400"),
    ],
)
def test_refusals_come_before_the_body_and_stop_it(
    connect: Any, wire: Any, target: bytes, more: tuple[tuple[bytes, bytes], ...], status: bytes
) -> None:
    peer = connect(echo=False)
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", target)]
    fields += [] if more and more[0][0] == b"host" else [(b":authority", b"127.0.0.1")]
    found = peer.say(wire.headers(1, *more, end=False, fields=fields))
    assert wire.kinds(found) == ["HEADERS", "DATA"]
    assert peer.fields(found[0])[b":status"] == status
    peer.server.check_settled()


def test_a_body_larger_than_the_limit_is_not_kept(connect: Any, wire: Any) -> None:
    peer = connect(echo=False, max_body=100_000)
    peer.say(wire.headers(1, end=False))
    found = peer.say(*[wire.frame(wire.DATA, 0, 1, bytes(16_384))] * 7)
    assert wire.kinds(found) == ["HEADERS", "DATA"]
    assert peer.fields(found[0])[b":status"] == b"413"
    peer.server.check_settled()


@pytest.mark.threat("V6")
def test_the_bytes_of_all_streams_are_bounded(connect: Any, wire: Any) -> None:
    peer = connect(echo=False, max_pending_bytes=100_000)
    peer.say(wire.headers(1, end=False), wire.headers(3, end=False))
    peer.say(*[wire.frame(wire.DATA, 0, 1, bytes(16_384))] * 3)
    found = peer.say(*[wire.frame(wire.DATA, 0, 3, bytes(16_384))] * 4)
    assert (found[0].stream, peer.fields(found[0])[b":status"]) == (3, b"503")
    assert b"retry-after" in peer._decoder.decode(found[0].payload, raw=True)[-1]
    peer.say(wire.rst(1))
    peer.server.check_settled()


@pytest.mark.promise("P-35")
def test_an_answer_that_nobody_waits_for_is_dropped(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    peer.server.models.at_once = False
    peer.say(wire.headers(1, end=False), wire.frame(wire.DATA, 1, 1, b"x"))
    call = peer.server.models.calls[0]
    assert not peer.say(wire.rst(1))
    peer.server.check_settled()
    peer.server.models.answer(call)
    assert not peer.say()
    assert peer.server.outcomes()["cancelled"] == 1


def test_a_slow_body_is_told_so(connect: Any, wire: Any) -> None:
    peer = connect(echo=False)
    peer.say(wire.headers(1, end=False), wire.frame(wire.DATA, 0, 1, b"x"))
    found = peer.sweep(11)
    assert peer.fields(found[0])[b":status"] == b"408"
    peer.server.check_settled()


def test_who_asks_again_while_its_refusal_waits_takes_no_place(connect: Any, wire: Any) -> None:
    # The peer gives no window for answers, is late with its body, and sends the rest when it has been refused.
    peer = connect(echo=False)
    peer.say(wire.settings(s4=0))
    for number in range(1, 41, 2):
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo/m"), (b":authority", b"127.0.0.1")]
        peer.say(wire.headers(number, end=False, fields=fields), wire.frame(wire.DATA, 0, number, b"a"))
        peer.sweep(11.0)
        peer.say(wire.frame(wire.DATA, wire.END_STREAM, number, b"b"))
    peer.server.check_settled()
    outcomes = peer.server.outcomes()
    assert outcomes["rejected"] == 20
    assert sum(outcomes.values()) == peer.server.counters.requests_of("m", "1", "toy").admitted[0]


@pytest.mark.threat("V8")
def test_a_body_in_one_frame_has_its_limit_too(connect: Any, wire: Any) -> None:
    peer = connect(echo=False, max_body=100)
    for size, status in ((100, b"200"), (101, b"413"), (60_000, b"413")):
        number = peer.session.last + 2 if peer.session.last else 1
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo/m"), (b":authority", b"127.0.0.1")]
        head = wire.headers(number, end=False, fields=fields)
        found = peer.say(head + wire.frame(wire.DATA, wire.END_STREAM, number, b"a" * size))
        assert next(peer.fields(one)[b":status"] for one in found if one.kind == wire.HEADERS) == status
    peer.server.check_settled()
