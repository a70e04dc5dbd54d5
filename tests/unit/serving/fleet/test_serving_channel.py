"""The channel's messages: whatever is cut where, what was sent arrives; what is no message is told; all get answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.serving import channel
from windlass.serving.door import leases
from windlass.types import spec

NAMES = st.text(max_size=20)
WANTS = st.builds(leases.Want, st.floats(0, 1e9), st.integers(0, 99), st.floats(0, 1e9), st.integers(0, 99))
ENDPOINTS = st.builds(spec.Endpoint, NAMES, st.just((spec.Arm("sha256:0", "1"),)))
SPECS = st.builds(spec.Spec, st.lists(ENDPOINTS, max_size=3).map(tuple), st.integers(1, 2**40))
BODIES = st.one_of(
    st.builds(channel.Start, SPECS),
    st.builds(channel.Apply, SPECS, st.booleans()),
    st.builds(channel.Revoke, st.just((spec.Key("k", "0" * 64),)), NAMES),
    st.builds(channel.Change, NAMES, st.booleans()),
    st.builds(channel.Open, st.booleans()),
    st.builds(channel.Demand, st.dictionaries(NAMES, WANTS, max_size=3)),
    st.sampled_from([channel.Status(), channel.Ready(ready=True), channel.Drain()]),
)
ANSWERS = st.builds(channel.Answer, st.integers(0, 2**40), st.none() | st.integers() | NAMES, NAMES, NAMES, NAMES)
MESSAGES = st.one_of(st.builds(channel.Question, st.integers(0, 2**40), BODIES), ANSWERS)


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(1, 50), min_size=1))
def test_messages_arrive_however_they_are_cut(messages: list[channel.Message], cuts: list[int]) -> None:
    data = b"".join(map(channel.encode, messages))
    reader, found, turn = channel.Reader(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        found += reader.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == messages


@given(st.binary(max_size=64))
def test_what_is_no_message_is_told_or_waited_for(data: bytes) -> None:
    try:
        found = channel.Reader().feed(data)
    except errors.InternalError:
        return
    assert found == []


def test_a_message_that_is_too_long_is_refused_before_it_is_kept() -> None:
    with pytest.raises(errors.InternalError, match="bytes"):
        channel.Reader().feed((channel.MOST_BYTES + 1).to_bytes(4, "little"))


class Ends:
    """Two channels that face each other without a socket: what one writes, the other is given."""

    def __init__(self, handle: Callable[[channel.Body], Awaitable[Any]]) -> None:
        self.lost = 0
        self.near = channel.Channel(handle, self._count)
        self.far = channel.Channel(handle, self._count)
        self.near.connection_made(Wire(self.near, self.far))  # type: ignore[arg-type]
        self.far.connection_made(Wire(self.far, self.near))  # type: ignore[arg-type]

    def _count(self) -> None:
        self.lost += 1


class Wire:
    """A transport to the other channel."""

    def __init__(self, own: channel.Channel, other: channel.Channel) -> None:
        self._own, self._other = own, other

    def write(self, data: bytes) -> None:
        self._other.data_received(data)

    def close(self) -> None:
        for one in (self._own, self._other):
            if one.open:
                one.connection_lost(None)


async def _answer(body: channel.Body) -> Any:
    match body:
        case channel.Change(name="missing"):
            raise errors.NotFound("there is no such model", hint="Look.")
        case channel.Change(name="broken"):
            raise ZeroDivisionError("inside")
        case channel.Change(name="slow"):
            await asyncio.Event().wait()
        case channel.Change():
            return {"name": body.name}
    return None


def test_questions_are_answered_by_values_and_by_our_own_errors() -> None:
    async def drill() -> None:
        ends = Ends(_answer)
        asked = [ends.near.ask(channel.Change(str(n), load=True)) for n in range(5)]
        assert await asyncio.gather(*asked) == [{"name": str(n)} for n in range(5)]
        assert await ends.far.ask(channel.Change("back", load=True)) == {"name": "back"}
        with pytest.raises(errors.NotFound, match="no such model") as found:
            await ends.near.ask(channel.Change("missing", load=True))
        assert found.value.hint == "Look."
        with pytest.raises(errors.InternalError):
            await ends.near.ask(channel.Change("broken", load=True))
        with pytest.raises(errors.Unavailable, match="no answer"):
            await ends.near.ask(channel.Change("slow", load=True), 0.0)

    asyncio.run(drill())


def test_who_waits_when_the_other_side_ends_is_told() -> None:
    async def drill() -> None:
        ends = Ends(_answer)
        asked = asyncio.ensure_future(ends.near.ask(channel.Change("slow", load=True)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ends.far.close()
        with pytest.raises(errors.Unavailable, match="has ended"):
            await asked
        with pytest.raises(errors.Unavailable, match="has ended"):
            ends.near.tell(channel.Status())
        assert ends.lost == 2

    asyncio.run(drill())


def test_every_error_of_ours_can_cross() -> None:
    assert {kind.code for kind in (errors.Conflict, errors.GateRefused, errors.CorruptPackage)} <= channel.KINDS.keys()
    assert all(code == kind.code for code, kind in channel.KINDS.items())
