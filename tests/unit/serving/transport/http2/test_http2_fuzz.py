"""Connections whose bytes are wrong anywhere: none raises, hangs, or keeps anything."""

from __future__ import annotations

import logging
import random
from typing import Any

import hpack
import pytest

TARGETS = (b"/echo", b"/stream", b"/silent")


def conversation(w: Any, chance: random.Random) -> bytes:
    """What an honest client might say, in about the order that it might."""
    encoder = hpack.Encoder()
    parts = [w.PREFACE, w.settings(s4=chance.choice((0, 100, 65_535)))]
    for number in range(1, chance.randrange(3, 12), 2):
        fields = [(b":path", chance.choice(TARGETS)), *w.REQUEST[:2], (b"x", chance.randbytes(3).hex().encode())]
        block = encoder.encode(fields, huffman=chance.random() < 0.5)
        body = chance.randbytes(chance.randrange(40))
        parts += [
            w.frame(w.HEADERS, chance.choice((4, 4, 5, 0)), number, block),
            w.frame(w.DATA, chance.choice((0, 1)), number, body),
            chance.choice(
                (b"", w.window(number, 100), w.rst(number), w.frame(w.PING, 0, 0, bytes(8)), w.settings(s4=5))
            ),
            w.frame(w.DATA, chance.choice((1, 8, 9)), number, b"\x02" + body),
        ]
    return b"".join(parts)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, taken out, put in, or moved; most of them behind the preface."""
    found = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(20 if chance.random() < 0.98 else 0, len(found))
        kind = chance.randrange(5)
        if kind == 0:
            found[at] = chance.choice((0, 1, 4, 9, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 1:
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del found[at : at + chance.randrange(1, 12)]
        elif kind == 3:
            found[at:at] = chance.randbytes(chance.randrange(1, 12))
        else:
            other = chance.randrange(len(found))
            found[at:at] = found[other : other + chance.randrange(1, 60)]
        if len(found) <= 24:
            break
    return bytes(found)


def one(w: Any, connect: Any, server: Any, seed: int) -> None:
    chance = random.Random(seed)
    peer = connect(greet=False, echo=seed % 4 != 0, server=server)
    data = mutate(conversation(w, chance), chance)
    while data and not peer.session.ended:
        cut = chance.choice((1, 9, 50, 5_000))
        peer.connection.data_received(data[:cut])
        data = data[cut:]
        if chance.random() < 0.05:
            peer.server.loop.turn()
            peer.sweep(chance.choice((0.1, 0.1, 11)))
    peer.server.loop.turn()
    w.frames(peer.transport.written)
    if not peer.session.ended:
        assert len(peer.session.reader.partial) <= 9 + 65_536
    peer.connection.connection_lost(None)
    assert not peer.session.streams
    output = peer.connection._output
    assert (output.queued, len(output.blocked)) == (0, 0)
    assert all(not r.stream.alive and r.stream.receiver is None for r in peer.receivers)
    assert all(r.done <= 1 and len(r.ended) <= 1 for r in peer.receivers)
    assert peer.connection not in server.listener.connections
    server.check_settled()


@pytest.mark.promise("P-36c")
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_wrong_connections(connect: Any, wire: Any, part: int, caplog: Any) -> None:
    server = connect().server
    for seed in range(part * 2_500, (part + 1) * 2_500):
        one(wire, connect, server, seed)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_a_million_wrong_connections(connect: Any, wire: Any, caplog: Any) -> None:
    server = connect().server
    for seed in range(1_000_000):
        one(wire, connect, server, seed)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
