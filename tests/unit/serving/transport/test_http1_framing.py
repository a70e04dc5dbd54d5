"""HTTP/1.1 as bytes: where a request begins and ends, whatever the pieces it comes in, and what is refused."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Make = Callable[..., Any]
HOST = b"Host: 127.0.0.1\r\n"


def _chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


_bodies = st.one_of(
    st.binary(max_size=12),
    st.sampled_from((b"\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"a" * 3_000, b"b" * 40_000)),
)


@st.composite
def _valid_request(draw: st.DrawFn) -> tuple[bytes, int, bytes | None]:
    """The bytes of a request, and the status and body that must come back (None: any)."""
    body = draw(_bodies)
    kind = draw(st.sampled_from(("length", "chunked", "health", "missing", "upgrade", "offer", "refused", "same")))
    lines = HOST + draw(st.sampled_from((b"", b"X-Note: " + b"n" * 500 + b"\r\n", b"Accept: a\r\nAccept: b\r\n")))
    if kind == "length":
        return b"POST /echo/m HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body), 200, body
    if kind == "same":
        return b"POST /echo/m HTTP/1.1\r\n%bContent-Length: 3\r\n\r\nabc" % HOST, 200, b"abc"
    if kind == "chunked":
        rest = _chunked(body, draw(st.sampled_from((1, 7, 5_000))) if len(body) < 100 else 4_096)
        return b"POST /echo/m HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (lines, rest), 200, body
    if kind == "health":
        return b"\r\n" * draw(st.integers(0, 2)) + b"GET /health HTTP/1.1\r\n" + lines + b"\r\n", 200, b'{"live":true}'
    if kind == "missing":
        return b"POST /nowhere HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body), 404, None
    if kind == "refused":
        return b"POST /load/m HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body), 403, None
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    if kind == "upgrade":
        return b"GET /health HTTP/1.1\r\n%b%b\r\n" % (lines, offer), 200, b'{"live":true}'
    head = b"POST /echo/m HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (lines, offer, len(body))
    return head + body, 200, body


@settings(max_examples=120, deadline=None)
@given(
    requests=st.lists(_valid_request(), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 100_000), max_size=12),
    whole=st.booleans(),
)
def test_the_pieces_that_requests_come_in_change_nothing(
    make_server: Make,
    parse_responses: Callable[..., Any],
    requests: list[tuple[bytes, int, bytes | None]],
    cuts: list[int],
    whole: bool,
) -> None:
    stream = b"".join(data for data, _, _ in requests)
    if whole:
        # Each request by itself: the way on which a head that came before is not parsed again.
        pieces = [data for data, _, _ in requests]
    else:
        edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
        pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    server = make_server()
    connection, transport = server.connect()
    for piece in pieces:
        connection.data_received(piece)
    answers = parse_responses(transport.written)
    assert [a.status for a in answers] == [status for _, status, _ in requests]
    for answer, (_, _, body) in zip(answers, requests, strict=True):
        assert body is None or answer.body == body
    assert not transport.closed
    assert server.door.in_flight == 0
    assert server.models.views["m"].lease.held == 0


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600), cut=st.integers(0, 600))
def test_any_bytes_are_answered_or_waited_for(
    make_server: Make, parse_responses: Callable[..., Any], data: bytes, cut: int
) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(data[:cut])
    connection.data_received(data[cut:])
    server.sweep(100.0)
    assert all(400 <= a.status < 500 for a in parse_responses(transport.written))
    assert transport.closed or transport.ended


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3, 3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: +3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0x3\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: \r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        (b"POST /echo/m HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\nA: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\0c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA b: c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nA : c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n: c\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"POST /echo/m\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"GET /health HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /health HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /health HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"INVENTED /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /he\x80alth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET http://[bad/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"POST /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"TRACE /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\na", 400),
    ],
)
def test_what_is_refused(make_server: Make, parse_responses: Callable[..., Any], head: bytes, status: int) -> None:
    for pieces in ([head], [head[i : i + 1] for i in range(len(head))]):
        server = make_server()
        connection, transport = server.connect()
        for piece in pieces:
            connection.data_received(piece)
        (answer,) = parse_responses(transport.written)
        assert answer.status == status
        assert answer.headers[b"x-request-id"]
        assert server.models.views["m"].lease.held == 0
        assert server.door.in_flight == 0


def test_the_body_of_an_offer_to_upgrade_is_no_request(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST /echo/m HTTP/1.1\r\n%bConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" % HOST
    for framing in (b"Content-Length: %d\r\n\r\n%b" % (len(hidden), hidden), b"Transfer-Encoding: chunked\r\n\r\n"):
        body = b"" if b"%" in framing or hidden in framing else _chunked(hidden, 9)
        server = make_server()
        connection, transport = server.connect()
        connection.data_received(head + framing + body + b"GET /ask HTTP/1.1\r\n" + HOST + b"\r\n")
        echoed, asked = parse_responses(transport.written)
        assert echoed.body == hidden
        assert asked.status == 200
        connection.data_received(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert len(parse_responses(transport.written)) == 3


def test_thousands_of_offers_in_one_read(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    one = b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
    answers = parse_responses(make_server().ask(one * 2_000))
    assert [a.status for a in answers] == [200] * 2_000


def test_targets_are_decoded_once(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server("a.b-c", "m")
    for target, status in (
        (b"/echo/a%2Eb-c", 200),
        (b"/%65cho/m", 200),
        (b"http://models.example/echo/m", 200),
        (b"http://elsewhere.example/echo/m", 421),
        (b"http://models.example@elsewhere.example/echo/m", 421),
        (b"/echo/m?x=%2F..", 200),
        (b"/echo/%2e%2e", 404),
        (b"/echo/..%2fm", 404),
        (b"/echo/%256d", 404),
        (b"/echo/m%00", 404),
        (b"/echo/../echo/m", 404),
        (b"/echo", 404),
        (b"/echo/m/more", 404),
    ):
        data = b"POST %b HTTP/1.1\r\n%bContent-Length: 1\r\n\r\nx" % (target, HOST)
        (answer,) = parse_responses(server.ask(data))
        assert (target, answer.status) == (target, status)


def test_head_has_the_headers_of_get_and_no_body(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    get = parse_responses(make_server().ask(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"))[0]
    (head,) = parse_responses(make_server().ask(b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n"), head=True)
    assert head.headers[b"content-length"] == get.headers[b"content-length"]
    assert head.body == b""


def test_http_1_0_closes_unless_asked(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    for line, stays in ((b"", False), (b"Connection: keep-alive\r\n", True)):
        connection, transport = make_server().connect()
        connection.data_received(b"GET /health HTTP/1.0\r\n" + HOST + line + b"\r\n")
        (answer,) = parse_responses(transport.written)
        assert answer.headers[b"connection"] == (b"keep-alive" if stays else b"close")
        assert transport.closed is not stays


def test_expect_is_continued_or_refused_before_the_body(
    make_server: Make, parse_responses: Callable[..., Any], request_bytes: Callable[..., bytes]
) -> None:
    connection, transport = make_server().connect()
    connection.data_received(request_bytes("POST", "/echo/m", b"", "Expect: 100-continue").replace(b": 0", b": 2"))
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"ok")
    assert [a.status for a in parse_responses(transport.written)] == [100, 200]
    connection, transport = make_server().connect()
    connection.data_received(request_bytes("POST", "/echo/none", b"", "Expect: 100-continue").replace(b": 0", b": 2"))
    assert [a.status for a in parse_responses(transport.written)] == [404]


def test_bodies_may_be_compressed_and_bombs_may_not(
    make_server: Make, parse_responses: Callable[..., Any], request_bytes: Callable[..., bytes]
) -> None:
    server = make_server()
    for body, encoding, status in (
        (gzip.compress(b"abc"), "gzip", 200),
        (gzip.compress(bytes((1 << 20) + 1)), "gzip", 413),
        (gzip.compress(b"abc")[:-1], "gzip", 400),
        (gzip.compress(b"abc") + b"x", "gzip", 400),
        (b"abc", "deflate", 400),
        (b"abc", "br", 501),
        (b"abc", "identity", 200),
    ):
        data = request_bytes("POST", "/echo/m", body, f"Content-Encoding: {encoding}")
        (answer,) = parse_responses(server.ask(data))
        assert (encoding, answer.status) == (encoding, status)


def test_heads_that_came_before_are_not_confused(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server("m", "n")
    connection, transport = server.connect()
    for name in (b"m", b"n", b"m", b"n", b"m"):
        connection.data_received(b"POST /echo/%b HTTP/1.1\r\n%bContent-Length: 1\r\n\r\n%b" % (name, HOST, name))
    assert [a.body for a in parse_responses(transport.written)] == [b"m", b"n", b"m", b"n", b"m"]
    # The same head, its body in two parts, then one that is too long to be its own.
    head = b"POST /echo/m HTTP/1.1\r\n%bContent-Length: 1\r\n\r\n" % HOST
    connection.data_received(head)
    connection.data_received(b"z")
    connection.data_received(head + b"y" + head + b"w")
    assert [a.body for a in parse_responses(transport.written)][5:] == [b"z", b"y", b"w"]


def test_a_body_that_is_refused_is_refused_again(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    data = b"GET /health HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    for _ in range(3):
        (answer,) = parse_responses(server.ask(data))
        assert answer.status == 413


@pytest.mark.parametrize("before", [b"\n\r\n\r\n", b"\r\r\n\r\n", b"\n\n\r\n\r\n"])
def test_blank_lines_are_no_head_that_came_before(
    make_server: Make, parse_responses: Callable[..., Any], before: bytes
) -> None:
    server = make_server()
    connection, transport = server.connect()
    connection.data_received(before + b"GET /ask HTTP/1.1\r\n" + HOST + b"\r\n")
    assert len(parse_responses(transport.written)) <= 1
    other, answers = server.connect()
    other.data_received(before)
    assert answers.written == b""


@pytest.mark.threat("V8")
@pytest.mark.parametrize("chunked", [True, False])
def test_the_body_of_a_connect_is_no_request(
    make_server: Make, parse_responses: Callable[..., Any], chunked: bool
) -> None:
    hidden = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(hidden)
    head = b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n"
    answers = parse_responses(make_server().ask(head + (_chunked(hidden, 9) if chunked else hidden)))
    assert [a.status for a in answers] == [404]


def test_http_1_0_is_told_nothing_in_between(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    head = b"POST /echo/m HTTP/1.0\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
    assert [a.status for a in parse_responses(make_server().ask(head))] == [200]


def test_what_is_allowed_is_told(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    for method, path, allowed in ((b"OPTIONS", b"/ask", b"GET, HEAD, POST"), (b"DELETE", b"/echo/m", b"POST")):
        (answer,) = parse_responses(make_server().ask(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, HOST)))
        assert (answer.status, answer.headers[b"allow"]) == (405, allowed)


def test_times_are_told_when_asked_for(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    for target, line, told in (
        (b"/echo/m", b"", False),
        (b"/echo/m?x=1&server_timing=true", b"", True),
        (b"/echo/m?server-timing", b"", True),
        (b"/echo/m?server_timing=0", b"", False),
        (b"/echo/m", b"X-Server-Timing: 1\r\n", True),
    ):
        data = b"POST %b HTTP/1.1\r\n%b%bContent-Length: 1\r\n\r\nx" % (target, HOST, line)
        (answer,) = parse_responses(make_server().ask(data))
        assert (answer.status, b"server-timing" in answer.headers) == (200, told)


@pytest.mark.threat("V8")
def test_what_is_behind_a_request_without_a_host_is_no_request(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST /echo/m HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    assert [a.status for a in parse_responses(make_server().ask(head + hidden))] == [400]


def test_a_client_that_says_keep_alive_is_known_again(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server()
    one = b"POST /echo/m HTTP/1.1\r\n" + HOST + b"Connection: Keep-Alive\r\nContent-Length: 1\r\n\r\n"
    connection, transport = server.connect()
    for body in (b"a", b"b"):
        connection.data_received(one + body)
        assert server.door.memory.find(one) is not None
    assert [a.body for a in parse_responses(transport.written)] == [b"a", b"b"]
    other = one.replace(b"Keep-Alive", b"keep-alive, x-mine")
    server.ask(other + b"c")
    assert server.door.memory.find(other) is None
