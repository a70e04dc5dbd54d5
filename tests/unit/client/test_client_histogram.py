"""Latencies in buckets: quantiles within the promised error, parts that add up, and the samples a quantile needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.client import histogram

SECONDS = st.lists(st.floats(histogram.LOWEST_S, histogram.HIGHEST_S), min_size=1, max_size=200)


@given(SECONDS, st.floats(0.01, 1.0))
def test_a_quantile_is_within_one_percent(seconds: list[float], q: float) -> None:
    true = sorted(seconds)[max(1, math.ceil(q * len(seconds))) - 1]
    assert histogram.Histogram.samples(seconds).quantile(q) == pytest.approx(true, rel=histogram.ERROR + 1e-9)


@given(SECONDS, SECONDS)
def test_parts_add_up(one: list[float], other: list[float]) -> None:
    parts = histogram.Histogram.merged((histogram.Histogram.samples(one), histogram.Histogram.samples(other)))
    assert parts == histogram.Histogram.samples(one + other)
    assert parts.count == len(one) + len(other)


@given(SECONDS)
def test_the_mean_is_within_one_percent(seconds: list[float]) -> None:
    true = sum(seconds) / len(seconds)
    assert histogram.Histogram.samples(seconds).mean == pytest.approx(true, rel=histogram.ERROR + 1e-9)


@given(SECONDS, st.floats(1e-6, 1000))
def test_what_is_within_a_limit_is_counted_to_one_percent_of_it(seconds: list[float], limit: float) -> None:
    width = (1 + histogram.ERROR) / (1 - histogram.ERROR) * (1 + 1e-9)
    found = histogram.Histogram.samples(seconds).within(limit)
    assert sum(s <= limit / width for s in seconds) <= found <= sum(s <= limit * width for s in seconds)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-12, 1e9])
def test_what_is_out_of_range_goes_to_an_end(seconds: float) -> None:
    assert histogram.bucket(seconds) in (0, histogram.BUCKETS - 1)


def test_without_samples_there_is_no_number() -> None:
    empty = histogram.Histogram()
    assert math.isnan(empty.quantile(0.5))
    assert math.isnan(empty.mean)
    assert not empty.enough(0.5)


@pytest.mark.parametrize(("q", "needed"), [(0.5, 20), (0.9, 100), (0.99, 1_000), (0.999, 10_000), (0.01, 1_000)])
def test_how_many_samples_a_quantile_needs(q: float, needed: int) -> None:
    assert histogram.needed(q) == needed
    assert histogram.Histogram({7: needed}).enough(q)
    assert not histogram.Histogram({7: needed - 1}).enough(q)
