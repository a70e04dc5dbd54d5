"""Plans: arrivals that are Poisson's, mixes that are as weighted, parts that are the whole."""

from __future__ import annotations

import collections
import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.client import plan, processes

TARGET = plan.Target("127.0.0.1", 1, (plan.Request(b"a"),))


@given(st.floats(0.5, 5_000), st.floats(0.01, 2), st.integers(0, 99))
def test_arrivals_are_in_order_and_the_same_again(rate: float, seconds: float, seed: int) -> None:
    times = list(plan.arrivals(rate, seconds, seed))
    assert times == sorted(times) == list(plan.arrivals(rate, seconds, seed))
    assert all(0 <= at < seconds for at in times)


def test_gaps_are_exponential() -> None:
    gaps = np.diff(list(plan.arrivals(1_000, 200, 3)))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.02)
    for q in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(gaps, q) == pytest.approx(-math.log(1 - q) / 1_000, rel=0.04)


def test_a_queue_fed_by_them_is_the_one_of_the_books() -> None:
    """M/D/1: the mean wait is rho * D / 2(1 - rho) (Pollaczek, Khinchine), the share that waits not at all 1 - rho."""
    service, load = 0.01, 0.7
    waits, free_at = [], 0.0
    for at in plan.arrivals(load / service, 4_000, 5):
        waits.append(max(0.0, free_at - at))
        free_at = max(free_at, at) + service
    assert np.mean(waits) == pytest.approx(load * service / (2 * (1 - load)), rel=0.03)
    assert np.mean(np.array(waits) == 0) == pytest.approx(1 - load, rel=0.03)


def test_requests_are_mixed_by_their_weights() -> None:
    requests = tuple(plan.Request(bytes((n,)), weight) for n, weight in enumerate((6.0, 3.0, 1.0)))
    drawn = collections.Counter(itertools.islice(plan.cycle(requests, 1), 10_000))
    assert [drawn[bytes((n,))] / 10_000 for n in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.04)


def test_one_request_is_repeated() -> None:
    assert list(itertools.islice(plan.cycle(TARGET.requests, 1), 3)) == [b"a"] * 3


@given(st.integers(1, 300), st.integers(1, 9), st.booleans())
def test_the_parts_of_a_plan_are_the_whole(connections: int, generators: int, opened: bool) -> None:
    whole = plan.Plan(TARGET, 1.0, rate=100.0 if opened else 0.0, connections=connections, max_in_flight=900)
    parts = processes.split(whole, generators, cores=(0, 1))
    assert sum(part.rate for part in parts) == pytest.approx(whole.rate)
    if not opened:
        assert sum(part.connections for part in parts) == connections
    assert len({part.seed for part in parts}) == len(parts)
    assert all(part.cores in ((0,), (1,)) for part in parts)


def test_a_plan_means_the_same_elsewhere() -> None:
    whole = plan.Plan(TARGET, 1.5, rate=2.0, cores=(1,))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=plan.Plan) == whole
