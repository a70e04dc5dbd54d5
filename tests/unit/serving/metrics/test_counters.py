"""Series of one worker: each in slots of its own, each counted where it belongs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import telemetry
from windlass.serving.metrics import counters


@given(st.lists(st.floats(0, 1e4), max_size=50))
def test_every_value_is_in_one_bucket(values: list[float]) -> None:
    histogram = counters.Counters().runs_of("m", "1").run
    for value in values:
        histogram.observe(value)
    together = counters.Counters().runs_of("m", "1").queue
    together.observe_all(values)
    assert together.counts.tolist() == histogram.counts.tolist()
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values), abs=1e-6)
    below = 0
    for bound, count in zip(counters.SECONDS, histogram.counts, strict=False):
        below += count
        assert below == sum(value <= bound for value in values)


@given(st.lists(st.integers(1, 2_000_000), max_size=50))
def test_runs_are_told_by_their_rows(sizes: list[int]) -> None:
    runs = counters.Counters().runs_of("m", "1")
    for rows in sizes:
        runs.ran(rows, 0.5, [0.25, 0.25], 3.0)
    assert runs.rows[0] == sum(sizes)
    assert runs.last_ms[0] == (3_000 if sizes else 0)
    assert sum(runs.queue.counts) == 2 * len(sizes)
    for bound, (count, spent) in runs.batches.items():
        smaller = max((other for other in counters.ROWS if other < bound), default=0)
        last = bound == counters.ROWS[-1]
        assert count == sum(smaller < rows and (rows <= bound or last) for rows in sizes)
        assert spent == count * 500_000_000
    assert sum(count for count, _ in runs.batches.values()) == len(sizes)
    assert {rows for rows in runs.batches if rows <= counters.EXACT_ROWS} == {
        rows for rows in sizes if rows <= counters.EXACT_ROWS
    }


def test_series_stay_apart() -> None:
    series = counters.Counters()
    made = [series.requests_of("m", str(version), "p") for version in range(100)]
    for index, one in enumerate(made):
        one.outcomes[counters.OK] += index
        one.admitted[0] += index + 1
        one.latency.observe(0.001)
    assert [one.outcomes[counters.OK] for one in made] == list(range(100))
    assert all(sum(one.latency.counts) == one.in_flight == 1 for one in made)
    assert series.requests_of("m", "7", "p") is made[7]
    assert series.runs_of("m", "7") is series.runs_of("m", "7")


def test_a_region_goes_on_where_it_was_left() -> None:
    before = counters.Counters()
    before.requests_of("m", "1", "p", "b", 3).outcomes[counters.OK] += 2
    before.runs_of("m", "1", "b").ran(4, 0.5, [0.5], 1.0)
    before.count_error("internal")
    before.gauge(telemetry.CONNECTIONS)[0] = 6
    after = counters.Counters(before.region)
    assert after.requests_of("m", "1", "p", "b", 3).outcomes[counters.OK] == 2
    assert after.statistics("m", "1") == before.statistics("m", "1")
    assert after.errors == {"internal": 1}
    assert after.gauge(telemetry.CONNECTIONS)[0] == 6


def test_arms_are_told_by_their_generation() -> None:
    series = counters.Counters()
    for protocol in ("p", "q"):
        for arm, generation in (("a", 1), ("b", 1), ("b", 2)):
            series.requests_of("m", arm, protocol, arm, generation).outcomes[counters.FAILED] += generation
    series.requests_of("other", "1", "p").outcomes[counters.OK] += 1
    told = {key: sum(one.outcomes[counters.FAILED] for one in found) for key, found in series.arms("m").items()}
    assert told == {("a", 1): 2, ("b", 1): 2, ("b", 2): 4}


def test_a_version_has_the_counts_of_all_its_arms_and_protocols() -> None:
    series = counters.Counters()
    for protocol in ("p", "q"):
        one = series.requests_of("m", "1", protocol)
        one.outcomes[counters.OK] += 2
        one.outcomes[counters.EXPIRED] += 1
        one.latency.observe(0.5)
    for arm in ("a", "b"):
        series.runs_of("m", "1", arm).ran(4, 0.25, [0.5], 1.0)
    told = series.statistics("m", "1")
    assert (told.success_count, told.success_ns, told.fail_count) == (4, 1_000_000_000, 2)
    assert (told.inference_count, told.execution_count, told.batches) == (8, 2, {4: (2, 500_000_000)})
    assert series.versions() == [("m", "1")]
    never = series.statistics("m", "2")
    assert (never.success_count, never.execution_count, never.last_inference_ms) == (0, 0, 0)
