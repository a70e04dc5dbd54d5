"""The first bad event of each sticky key: counted once over all workers, and anew in another epoch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.serving.routing import firsts, sticky
from windlass.types import spec

EVENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(0, 9)), max_size=60)


@given(EVENTS, st.randoms(use_true_random=False))
def test_each_key_counts_once_an_epoch(events: list[tuple[int, int, int]], order: random.Random) -> None:
    workers = [firsts.Told(), firsts.Told()]
    heard = firsts.Heard()
    expected: dict[int, dict[int, int]] = {}
    for place, epoch, key in sorted(events, key=lambda event: event[1]):
        # One arm and generation an epoch, so that the order of the workers' words is of no account.
        workers[place].teller("m", epoch, "new", 10 * epoch)(key)
        expected.setdefault(epoch, {})[key] = 1
        if order.random() < 0.3:
            heard.hear(workers[place].take())
    for worker in workers:
        heard.hear(worker.take())
        assert worker.take() == ()
    for epoch in (1, 2, 3):
        assert heard.count("m", "new", 10 * epoch) == sum(expected.get(epoch, {}).values())


def test_the_first_is_the_one_that_came_first() -> None:
    told, heard = firsts.Told(), firsts.Heard()
    told.teller("m", 1, "old", 3)(7)
    told.teller("m", 1, "new", 4)(7)
    told.teller("m", 1, "new", 4)(8)
    told.teller("other", 1, "new", 4)(7)
    heard.hear(told.take())
    assert [heard.count("m", *at) for at in (("old", 3), ("new", 4), ("new", 5))] == [1, 1, 0]
    assert heard.count("other", "new", 4) == 1


def test_what_is_remembered_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "MOST", 5)
    told, other, heard = firsts.Told(), firsts.Told(), firsts.Heard()
    for key in range(20):
        told.teller("m", 1, "new", 4)(key)
        other.teller("m", 1, "new", 4)(100 + key)
    heard.hear(told.take() + other.take())
    assert heard.count("m", "new", 4) == 5
    for epoch in range(2, 50):
        told.teller("m", epoch, "new", epoch)(1)
    heard.hear(told.take())
    assert sum(len(keys) for keys in heard._known["m"].values()) <= 5 * 4


def test_a_request_is_known_by_its_key_alone() -> None:
    found: list[int] = []
    endpoint = spec.Endpoint("m", (), sticky="header:X-User", salt="s", epoch=1)
    bad = sticky.Sticks(endpoint).went_wrong(found.append)
    bad({b"x-user": b"ann"}, "key1")
    bad({b"x-user": b"ann"}, "key2")
    bad({b"x-user": b"bob"}, "key1")
    # Who has no key sticks nowhere.
    bad({}, "key1")
    assert len(found) == 3
    assert found[0] == found[1] != found[2]
    assert all(0 <= key < 2**64 for key in found)
