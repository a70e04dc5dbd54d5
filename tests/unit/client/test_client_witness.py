"""Requests of a watched load: numbered, by users, and otherwise as they were."""

from __future__ import annotations

import collections
import itertools

import hypothesis
from hypothesis import strategies as st

from windlass.client import load, witness


@hypothesis.given(bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=5), users=st.integers(1, 50))
def test_requests_come_in_turn_with_their_number_and_user(bodies: list[bytes], users: int) -> None:
    target = load.http("http://127.0.0.1:1/predict/m", bodies, headers={"authorization": "Bearer k"})
    watch = witness.Watch(load.opened(target, rate=1.0), "life7", users)
    for number, data in enumerate(itertools.islice(witness.numbered(watch), 12)):
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first == b"POST /predict/m HTTP/1.1"
        assert body == bodies[number % len(bodies)]
        plain = target.requests[number % len(bodies)].data.split(b"\r\n\r\n")[0].split(b"\r\n")
        user = witness.user(number, users).encode()
        assert lines == [b"x-request-id: life7-%d" % number, b"x-user: " + user, *plain[1:]]


def test_every_user_asks_about_as_often() -> None:
    found = collections.Counter(witness.user(number, 20) for number in range(20_000))
    assert len(found) == 20
    assert max(found.values()) < 1.2 * min(found.values())
