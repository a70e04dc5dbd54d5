"""Leases: never two holders at once, and a token that only grows, whatever the clocks do."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st

from windlass.records import leases
from windlass.storage import database

Fresh = Callable[[], database.Database]


def test_one_holder_at_a_time(rows: database.Database) -> None:
    with rows.write() as c:
        assert leases.acquire(c, "controller", "a", ttl_s=10, now=0.0) == 1
        assert leases.acquire(c, "controller", "b", ttl_s=10, now=9.9) is None
        assert leases.acquire(c, "other", "b", ttl_s=10, now=0.0) == 1
        assert leases.renew(c, "controller", 1, ttl_s=10, now=9.0)
        assert leases.holder_of(c, "controller") == ("a", 19.0)
        assert leases.acquire(c, "controller", "b", ttl_s=10, now=18.9) is None
        assert leases.acquire(c, "controller", "b", ttl_s=10, now=19.0) == 2
        assert not leases.renew(c, "controller", 1, ttl_s=10, now=19.1)
        assert not leases.hold(c, "controller", 1)
        assert leases.hold(c, "controller", 2)


def test_a_released_lease_is_free_at_once(rows: database.Database) -> None:
    with rows.write() as c:
        leases.acquire(c, "controller", "a", ttl_s=1_000, now=0.0)
        leases.release(c, "controller", 7)
        assert leases.acquire(c, "controller", "b", ttl_s=10, now=1.0) is None
        leases.release(c, "controller", 1)
        assert leases.holder_of(c, "controller")[0] == ""
        assert leases.acquire(c, "controller", "b", ttl_s=10, now=1.0) == 2


def test_a_holder_that_let_it_lapse_gets_a_new_token(rows: database.Database) -> None:
    with rows.write() as c:
        assert leases.acquire(c, "controller", "a", ttl_s=1, now=0.0) == 1
        assert leases.acquire(c, "controller", "a", ttl_s=1, now=0.5) == 1
        assert leases.acquire(c, "controller", "a", ttl_s=1, now=2.0) == 2


def test_who_never_had_it_holds_nothing(rows: database.Database) -> None:
    with rows.write() as c:
        assert not leases.hold(c, "controller", 1)
        assert not leases.renew(c, "controller", 1, ttl_s=1, now=0.0)
        assert leases.holder_of(c, "controller") == ("", 0.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "renew", "release", "hold"]), st.sampled_from("abc"), st.floats(-3.0, 8.0, width=16)
    ),
    max_size=30,
)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(steps=STEPS)
def test_a_token_has_one_holder_and_only_the_newest_holds(fresh: Fresh, steps: list[tuple[str, str, float]]) -> None:
    """Time goes forth and, as clocks of several machines do, back."""
    tokens: dict[str, int] = {}
    owner: dict[int, str] = {}
    now, until, newest = 100.0, 0.0, 0
    with fresh().write() as c:
        for what, who, later in steps:
            now += later
            mine = tokens.get(who, 0)
            free = until <= now
            if what == "acquire":
                token = leases.acquire(c, "x", who, ttl_s=5.0, now=now)
                assert (token is not None) == (free or owner.get(newest) == who)
                if token is not None:
                    assert token >= newest
                    assert owner.setdefault(token, who) == who, "two had the same token"
                    tokens[who] = newest = token
                    until = now + 5.0
            elif what == "renew":
                assert leases.renew(c, "x", mine, ttl_s=5.0, now=now) == (mine == newest > 0 and not free)
                until = now + 5.0 if mine == newest > 0 and not free else until
            elif what == "release":
                leases.release(c, "x", mine)
                if mine == newest > 0:
                    until = 0.0
                    owner[newest] = owner[newest] + " before"
                    tokens.pop(who)
            else:
                assert leases.hold(c, "x", mine) == (mine == newest > 0)
