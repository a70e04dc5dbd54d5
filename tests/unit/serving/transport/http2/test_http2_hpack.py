"""Header blocks against the `hpack` library, and heads that are remembered only while the table is as it was."""

from __future__ import annotations

import random
from typing import Any

import hpack
import pytest
from hpack import struct as hpack_struct
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.serving.transport import http2_frames as frames
from windlass.serving.transport import http2_heads, http2_hpack
from windlass.types import spec

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-:", min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=300) | st.sampled_from([b"", b"GET", b"application/grpc"])
LISTS = st.lists(st.tuples(TOKENS, VALUES, st.booleans()), max_size=12)


def plain(fields: list[http2_hpack.Field]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value, _, _ in fields]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(LISTS, st.booleans(), st.none() | st.integers(0, 4_096)), max_size=12))
def test_blocks_mean_what_they_mean_to_hpack(blocks: Any) -> None:
    encoder, ours, theirs = hpack.Encoder(), http2_hpack.Decoder(), hpack.Decoder()
    theirs.max_header_list_size = 1 << 30
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        kinds = [
            hpack_struct.NeverIndexedHeaderTuple(n, v) if never else hpack_struct.HeaderTuple(n, v)
            for n, v, never in fields
        ]
        block = encoder.encode(kinds, huffman=huffman)
        expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        assert plain(ours.decode(block, 1 << 30)) == expected
        assert [(n, v) for n, v, _, _ in ours._table] == list(theirs.header_table.dynamic_entries)
        assert ours._size == theirs.header_table._current_size


@pytest.mark.threat("V18")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_fields_or_a_fault_and_the_table_stays_within_its_size(blocks: list[bytes]) -> None:
    decoder, theirs = http2_hpack.Decoder(), hpack.Decoder()
    theirs.max_allowed_table_size = 4_096
    for block in blocks:
        try:
            fields = decoder.decode(block, 1 << 20)
        except frames.ConnectionFault:
            return
        finally:
            assert decoder._size == sum(size for _, _, size, _ in decoder._table) <= decoder._limit <= 4_096
        # What is read here is read the same there; some that is refused here is not refused there.
        assert plain(fields) == [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(TOKENS, st.binary(max_size=20_000)), max_size=5))
def test_what_is_written_is_read_and_leaves_no_trace(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    block = http2_hpack.status(200) + http2_hpack.encode(fields)
    found = [(bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True)]
    assert found == [(b":status", b"200"), *fields]
    assert not decoder.header_table.dynamic_entries


def test_fields_of_a_table_that_shrinks() -> None:
    decoder = http2_hpack.Decoder()
    decoder.decode(b"\x40\x01a\x01b\x40\x01c\x01d", 1_000)
    assert plain(decoder.decode(b"\xbe\xbf", 1_000)) == [(b"c", b"d"), (b"a", b"b")]
    assert plain(decoder.decode(b"\x3f\x10\xbe", 1_000)) == [(b"c", b"d")]
    with pytest.raises(frames.ConnectionFault):
        decoder.decode(b"\xbf", 1_000)


LINE = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v2"), (b":authority", b"localhost")]


@pytest.mark.parametrize("change", ["insertion", "resize", "trailers"])
def test_the_same_bytes_are_another_head_when_the_table_has_changed(change: str) -> None:
    blocks = http2_heads.Blocks(spec.ServerLimits())
    line = http2_hpack.encode(LINE)

    def insert(value: bytes) -> bytes:
        return b"\x40\x0dauthorization" + bytes((len(value),)) + value

    first, _ = blocks.request(line + insert(b"alice"))
    again = line + b"\xbe"
    head, _ = blocks.request(again)
    assert blocks.request(again)[0] is head
    assert head.headers[b"authorization"] == b"alice"
    if change == "insertion":
        blocks.request(line + insert(b"bob"))
    elif change == "trailers":
        blocks.fields(insert(b"bob"))
    else:
        blocks.request(b"\x20\x3f\xe1\x1f" + line + insert(b"bob"))
    assert blocks.request(again)[0].headers[b"authorization"] == b"bob"
    assert first.headers[b"authorization"] == b"alice"


@pytest.mark.parametrize("seed", range(8))
def test_remembered_heads_are_what_a_decoder_without_memory_says(seed: int) -> None:
    chance = random.Random(seed)
    encoder, fresh = hpack.Encoder(), http2_hpack.Decoder()
    blocks = http2_heads.Blocks(spec.ServerLimits())
    callers = [b"Bearer " + chance.randbytes(chance.choice((4, 400))).hex().encode() for _ in range(12)]
    remembered = 0
    for _ in range(600):
        if chance.random() < 0.02:
            encoder.header_table_size = chance.choice((0, 200, 1_000, 4_096))
        # Most come from two callers; the others push them out of the table now and then.
        fields = [*LINE, (b"authorization", chance.choice(callers[: 2 if chance.random() < 0.9 else 12]))]
        block = encoder.encode(fields, huffman=chance.random() < 0.3)
        if chance.random() < 0.1:
            assert plain(blocks.fields(block)) == plain(fresh.decode(block, 16_384))
            continue
        remembered += block in blocks._heads
        head, length = blocks.request(block)
        expected, _ = http2_heads.request(fresh.decode(block, 16_384))
        assert (head.method, head.target, head.headers, length) == (b"POST", b"/v2", expected.headers, -1)
        assert head.headers[b"authorization"] == fields[-1][1]
    assert remembered > 20
