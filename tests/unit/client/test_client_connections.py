"""Connections of the load generator, without sockets: each request gets its one outcome, however the bytes come."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.client import account, grpc_connection, http_connection, plan

TARGET = plan.Target("h", 1, (plan.Request(b""),), transport="grpc", path="/s/M", headers=(("authorization", "k"),))
HEADERS, DATA, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 1, 0, 3, 4, 6, 7, 8, 9


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Owner:
    def __init__(self) -> None:
        self.ends: list[tuple[float, int, int]] = []
        self.asked_again: list[tuple[bytes, float]] = []
        self.seen: list[tuple[bytes, bytes]] = []
        self.here = 0
        self.gone = 0

    def opened(self, connection: Any) -> None:
        self.here += 1

    def ended(self, connection: Any, intended: float, outcome: int, status: int) -> None:
        self.ends.append((intended, outcome, status))

    def again(self, data: bytes, intended: float) -> None:
        self.asked_again.append((data, intended))

    def observed(self, body: bytes, timing: bytes) -> None:
        self.seen.append((body, timing))

    def closed(self, connection: Any) -> None:
        self.gone += 1


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(edges) if a < b)


def http(kind: Callable[[Any], Any] = http_connection.Http1) -> tuple[Any, Owner, Transport]:
    owner, transport = Owner(), Transport()
    connection = kind(owner)
    connection.connection_made(transport)
    return connection, owner, transport


def answer(status: int, body: bytes = b"{}", *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


@given(st.lists(st.sampled_from([200, 400, 429, 500, 503]), min_size=1, max_size=6), st.lists(st.integers(0, 999)))
def test_an_answer_in_pieces_is_one_answer(statuses: list[int], cuts: list[int]) -> None:
    connection, owner, transport = http()
    for number, status in enumerate(statuses):
        connection.ask(b"Q", float(number))
        assert connection.room == 0
        for piece in pieces(answer(status), cuts):
            connection.data_received(piece)
        assert connection.room == 1
    assert [(at, status) for at, _, status in owner.ends] == [(float(n), s) for n, s in enumerate(statuses)]
    assert transport.written == b"Q" * len(statuses)


def test_a_lost_connection_breaks_what_was_under_way_only() -> None:
    connection, owner, _ = http()
    connection.ask(b"Q", 1.0)
    connection.connection_lost(None)
    assert (owner.ends, owner.gone) == ([(1.0, account.BROKEN, -1)], 1)
    idle, owner, _ = http()
    idle.connection_lost(None)
    assert (owner.ends, owner.gone) == ([], 1)


def test_an_answer_that_closes_leaves_no_room() -> None:
    connection, owner, transport = http()
    connection.ask(b"Q", 1.0)
    connection.data_received(answer(200, b"{}", b"connection: close"))
    assert (owner.ends[0][1], connection.room, transport.closed) == (account.OK, 0, True)


def test_what_takes_too_long_expires_once_and_its_answer_is_not_waited_for() -> None:
    connection, owner, transport = http()
    connection.ask(b"Q", 1.0)
    connection.expire(1.0)
    assert owner.ends == []
    connection.expire(1.1)
    connection.connection_lost(None)
    assert (owner.ends, transport.closed) == ([(1.0, account.EXPIRED, -1)], True)


@pytest.mark.parametrize("data", [answer(408), b"\x00 nonsense\r\n\r\n"])
def test_what_was_not_asked_for_is_no_answer(data: bytes) -> None:
    connection, owner, transport = http()
    connection.data_received(data)
    assert (owner.ends, transport.closed, connection.room) == ([], True, 0)


def test_watched_answers_show_version_and_batch() -> None:
    connection, owner, _ = http(http_connection.ObservedHttp1)
    for number in range(2):
        connection.ask(b"Q", float(number))
        timing = (b"Server-Timing: batch;desc=3",) if number == 0 else ()
        connection.data_received(answer(200, b'{"model_version":"7"}', *timing))
    assert owner.seen == [(b'{"model_version":"7"}', b"batch;desc=3"), (b'{"model_version":"7"}', b"")]


# -- gRPC


class Server:
    """The other side's words, and what came to it."""

    def __init__(self, streams: int = 8, settings: tuple[tuple[int, int], ...] = ()) -> None:
        self.owner, self.transport = Owner(), Transport()
        self.connection = grpc_connection.Grpc(self.owner, TARGET, streams)
        self.connection.connection_made(self.transport)
        self.encoder = hpack.Encoder()
        self.encoder.header_table_size = 0
        self.say(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))

    def say(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.connection.data_received(grpc_connection.frame(kind, flags, stream, payload))

    def answer(self, stream: int, status: int = 0) -> bytes:
        head = self.encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
        last = self.encoder.encode([("grpc-status", str(status))])
        frame = grpc_connection.frame
        return frame(HEADERS, 4, stream, head) + frame(DATA, 0, stream, b"\0\0\0\0\0") + frame(HEADERS, 5, stream, last)

    async def frames(self) -> list[tuple[int, int, int, bytes]]:
        """All frames written since the last time."""
        await asyncio.sleep(0)
        data, self.transport.written = self.transport.written.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), b""
        found = []
        while data:
            length, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            found.append((kind, flags, int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
            data = data[9 + length :]
        return found


def run(test: Callable[[], Any]) -> Any:
    return asyncio.run(test())


@given(st.lists(st.sampled_from([0, 4, 5, 8, 14]), min_size=1, max_size=6), st.lists(st.integers(0, 9_999)))
def test_calls_end_as_they_were_answered_however_the_bytes_come(statuses: list[int], cuts: list[int]) -> None:
    async def test() -> None:
        server = Server()
        said = b""
        for number, status in enumerate(statuses):
            server.connection.ask(b"M", float(number))
            said += server.answer(2 * number + 1, status)
        assert server.connection.room == 8 - len(statuses)
        for piece in pieces(said, cuts):
            server.connection.data_received(piece)
        assert [(at, status) for at, _, status in server.owner.ends] == [(float(n), s) for n, s in enumerate(statuses)]
        assert server.connection.room == 8

    run(test)


def test_headers_are_sent_whole_first_and_by_reference_then() -> None:
    async def test() -> None:
        server = Server()
        for _ in range(2):
            server.connection.ask(b"M", 0.0)
        blocks = [payload for kind, _, _, payload in await server.frames() if kind == HEADERS]
        decoder = hpack.Decoder()
        first, second = ([(str(n), str(v)) for n, v in decoder.decode(block)] for block in blocks)
        assert first == second
        assert ("authorization", "k") in first
        assert (":path", "/s/M") in first
        assert len(blocks[1]) < 12 < len(blocks[0])

    run(test)


def test_a_server_without_a_header_table_gets_no_references() -> None:
    async def test() -> None:
        server = Server(settings=((1, 0),))
        server.connection.ask(b"M", 0.0)
        server.connection.ask(b"M", 0.0)
        blocks = [payload for kind, _, _, payload in await server.frames() if kind == HEADERS]
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 0
        assert [len(list(decoder.decode(block))) for block in blocks] == [8, 8]

    run(test)


@given(st.integers(1, 200_000), st.integers(1, 70_000), st.integers(1, 70_000))
def test_no_more_is_sent_than_the_windows_allow(size: int, first: int, more: int) -> None:
    async def test() -> None:
        server = Server(settings=((4, first),))
        message = bytes(size)
        server.connection.ask(message, 0.0)
        sent, stream_window, window, ended = 0, first, 65_535, False
        for _ in range(1 + 2 * size):
            for kind, flags, _, payload in await server.frames():
                if kind == DATA:
                    sent += len(payload)
                    stream_window -= len(payload)
                    window -= len(payload)
                    ended = bool(flags & 1)
                    assert len(payload) <= 16_384
            assert stream_window >= 0
            assert window >= 0
            if ended:
                break
            step = max(more, 1_000)
            stream_window += step
            window += step
            server.say(WINDOW, 0, 1, struct.pack(">I", step))
            server.say(WINDOW, 0, 0, struct.pack(">I", step))
        assert sent == size

    run(test)


def test_a_server_that_leaves_finishes_what_it_began_and_the_rest_is_asked_elsewhere() -> None:
    async def test() -> None:
        server = Server()
        for number in range(3):
            server.connection.ask(b"M%d" % number, float(number))
        server.say(GOAWAY, 0, 0, struct.pack(">II", 3, 0))
        assert server.owner.asked_again == [(b"M2", 2.0)]
        assert server.connection.room == 0
        assert not server.transport.closed
        server.connection.data_received(server.answer(1) + server.answer(3))
        assert [at for at, _, _ in server.owner.ends] == [0.0, 1.0]
        assert server.transport.closed

    run(test)


def test_resets_pings_and_continuations() -> None:
    async def test() -> None:
        server = Server()
        for number in range(3):
            server.connection.ask(b"M", float(number))
        server.say(RST, 0, 1, struct.pack(">I", 7))
        server.say(RST, 0, 3, struct.pack(">I", 2))
        block = server.encoder.encode([(":status", "200"), ("grpc-status", "0")])
        server.say(HEADERS, 1, 5, block[:2])
        server.say(CONTINUATION, 4, 5, block[2:])
        server.say(PING, 0, 0, b"12345678")
        outcomes = [outcome for _, outcome, _ in server.owner.ends]
        assert outcomes == [account.REJECTED, account.BROKEN, account.OK]
        assert (PING, 1, 0, b"12345678") in await server.frames()

    run(test)


def test_cancelled_and_broken_calls_end_once() -> None:
    async def test() -> None:
        server = Server()
        server.connection.ask(b"M", 1.0)
        server.connection.ask(b"M", 2.0)
        server.connection.expire(1.5)
        assert any(kind == RST for kind, _, _, _ in await server.frames())
        server.connection.data_received(server.answer(1))
        server.connection.connection_lost(None)
        assert server.owner.ends == [(1.0, account.EXPIRED, -1), (2.0, account.BROKEN, -1)]

    run(test)


def test_an_end_without_a_grpc_status_is_a_failure_and_streams_are_bounded() -> None:
    async def test() -> None:
        server = Server(streams=64, settings=((3, 2),))
        assert server.connection.room == 2
        server.connection.ask(b"M", 1.0)
        server.say(DATA, 1, 1, b"")
        assert server.owner.ends == [(1.0, account.FAILED, -1)]

    run(test)
