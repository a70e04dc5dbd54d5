"""A connection against the `h2` library: frames in any order, cut anywhere, any windows, and resets at any time."""

from __future__ import annotations

import random
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1"), ("content-type", "application/grpc")]
_connect: list[Any] = []


class Sent:
    """One request: what was sent, what came back."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.body = b""
        self.closed = self.reset = self.over = False
        self.received = b""


class Conversation(RuleBasedStateMachine):
    """Rules are what a client does; bytes go both ways through `carry`, in pieces."""

    @initialize(seed=st.integers(0, 1 << 30), first=st.sampled_from((0, 1, 100, 65_535, 1 << 20)))
    def begin(self, seed: int, first: int) -> None:
        self.random = random.Random(seed)
        self.peer = _connect[0](greet=False, max_resets_per_s=10_000, max_control_frames_per_s=10_000)
        self.server, self.transport = self.peer.server, self.peer.transport
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.client = h2.connection.H2Connection(config)
        self.client.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: first}
        )
        self.client.initiate_connection()
        self.requests: dict[int, Sent] = {}
        self.broken = False
        self.carry()

    def carry(self) -> None:
        """Bytes to the server cut at random, and its answers back, until both are silent."""
        self.broken = True
        for _ in range(100):
            data = self.client.data_to_send()
            while data:
                cut = self.random.choice((1, 8, 9, 10, 100, 70_000))
                self.peer.connection.data_received(data[:cut])
                data = data[cut:]
            self.server.loop.turn()
            written, self.transport.written = self.transport.written, b""
            if not written and not self.client.data_to_send(0):
                self.broken = False
                return
            while written:
                # No more than a frame at once: h2 takes a new MAX_FRAME_SIZE only from its next call on.
                whole = 9 + int.from_bytes(written[:3], "big")
                frame, written = written[:whole], written[whole:]
                cut = self.random.choice((1, 9, 500, whole))
                for part in (frame[:cut], frame[cut:]):
                    for event in self.client.receive_data(part):
                        self.take(event)

    def take(self, event: Any) -> None:
        number = getattr(event, "stream_id", 0)
        if isinstance(event, h2.events.DataReceived):
            self.requests[number].received += event.data
        elif isinstance(event, h2.events.StreamEnded):
            self.requests[number].over = True
        elif isinstance(event, h2.events.StreamReset):
            raise AssertionError(f"stream {number} was reset with {event.error_code}")
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise AssertionError(f"the server gave up: {event.error_code} {event.additional_data!r}")

    def open_streams(self) -> list[int]:
        return [n for n, one in self.requests.items() if not one.closed and not one.reset]

    @precondition(lambda self: self.client.open_outbound_streams < 50)
    @rule(stream=st.booleans(), end=st.booleans(), extra=st.integers(0, 3), more=st.binary(max_size=20))
    def ask(self, stream: bool, end: bool, extra: int, more: bytes) -> None:
        number = self.client.get_next_available_stream_id()
        path = "/stream" if stream else "/echo"
        fields: list[Any] = [*REQUEST[:3], (":path", path), REQUEST[3]]
        fields += [(f"x-{extra}", more.hex()), ("grpc-timeout", f"{number}m")][:extra]
        self.client.send_headers(number, fields, end_stream=end)
        self.requests[number] = one = Sent(path)
        one.closed = end

    @rule(data=st.data(), size=st.integers(0, 40_000), padding=st.none() | st.integers(0, 255), end=st.booleans())
    def send(self, data: Any, size: int, padding: int | None, end: bool) -> None:
        if not self.open_streams():
            return
        number = data.draw(st.sampled_from(self.open_streams()))
        most = min(self.client.local_flow_control_window(number), self.client.max_outbound_frame_size)
        size = min(size, most - 256)
        if size < 0:
            return
        body = self.random.randbytes(size)
        self.client.send_data(number, body, end_stream=end, pad_length=padding)
        self.requests[number].body += body
        self.requests[number].closed = end

    @rule(data=st.data())
    def trailers(self, data: Any) -> None:
        if self.open_streams():
            number = data.draw(st.sampled_from(self.open_streams()))
            self.client.send_headers(number, [("x-trailer", "1")], end_stream=True)
            self.requests[number].closed = True

    @rule(data=st.data())
    def reset(self, data: Any) -> None:
        alive = [n for n, one in self.requests.items() if not one.over and not one.reset]
        if alive:
            number = data.draw(st.sampled_from(alive))
            self.client.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self.requests[number].reset = True

    @rule(size=st.integers(1, 100_000), data=st.data())
    def widen(self, size: int, data: Any) -> None:
        alive = [n for n, one in self.requests.items() if not one.over and not one.reset]
        number = data.draw(st.sampled_from([None, *alive]))
        self.client.increment_flow_control_window(size, number)

    @rule(
        initial=st.sampled_from((0, 1, 1_000, 65_535, 200_000)),
        size=st.sampled_from((16_384, 20_000, 1 << 20)),
        table=st.sampled_from((0, 64, 4_096, 8_192)),
    )
    def change(self, initial: int, size: int, table: int) -> None:
        codes = h2.settings.SettingCodes
        self.client.update_settings(
            {codes.INITIAL_WINDOW_SIZE: initial, codes.MAX_FRAME_SIZE: size, codes.HEADER_TABLE_SIZE: table}
        )

    @rule()
    def ping(self) -> None:
        self.client.ping(b"12345678")

    @rule()
    def exchange(self) -> None:
        self.carry()

    @invariant()
    def what_came_back_is_a_beginning_of_what_was_sent(self) -> None:
        for one in getattr(self, "requests", {}).values():
            assert one.body.startswith(one.received)
            assert one.reset or not one.over or one.received == one.body

    def teardown(self) -> None:
        if getattr(self, "broken", True):
            return
        self.carry()
        for number in self.open_streams():
            self.client.send_data(number, b"", end_stream=True)
            self.requests[number].closed = True
        self.carry()
        self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
        self.client.increment_flow_control_window(1 << 28)
        for number, one in self.requests.items():
            if not one.over and not one.reset:
                self.client.increment_flow_control_window(1 << 24, number)
        self.carry()
        assert all(one.reset or (one.over and one.received == one.body) for one in self.requests.values())
        assert not self.peer.session.streams
        assert not self.peer.connection._output.blocked
        assert self.peer.connection._output.queued == 0
        assert all(not one.stream.alive and one.stream.receiver is None for one in self.peer.receivers)


@pytest.fixture(autouse=True)
def _give_connect(connect: Any) -> Any:
    _connect[:] = [connect]
    yield
    _connect.clear()


def test_any_conversation_with_h2() -> None:
    Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    Conversation.TestCase("runTest").runTest()


@pytest.mark.soak
def test_many_conversations_with_h2() -> None:
    Conversation.TestCase.settings = settings(max_examples=5_000, stateful_step_count=60, deadline=None)
    Conversation.TestCase("runTest").runTest()
