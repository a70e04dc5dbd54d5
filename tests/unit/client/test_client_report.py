"""Accounts: each request once, parts that add up, and when figures are the generator's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.client import account, histogram, report

OUTCOMES = st.builds(report.Outcomes, *[st.integers(0, 10**6)] * 6)
ENDINGS = st.lists(st.tuples(st.floats(0, 9.9), st.integers(0, 5), st.floats(1e-6, 5)), max_size=60)


def of(seconds: list[float], **more: object) -> report.Report:
    second = report.Second(report.Outcomes(ok=len(seconds)), histogram.Histogram.samples(seconds))
    return report.Report(seconds=(second,), duration_s=1.0, **more)  # type: ignore[arg-type]


@given(OUTCOMES, OUTCOMES)
def test_outcomes_add_up(one: report.Outcomes, other: report.Outcomes) -> None:
    assert (one + other).total == one.total + other.total
    assert (one + other).ok == one.ok + other.ok


@given(ENDINGS, st.sampled_from([0.0, 1.0, 2.5]))
def test_every_request_is_counted_once(endings: list[tuple[float, int, float]], warm_s: float) -> None:
    kept = account.Account(100.0, warm_s, clock=lambda: 100.0, cpu=lambda: 0.0)
    for at, outcome, took in endings:
        kept.scheduled += 1
        kept.finish(100 + at, outcome, 100 + at + took)
    told = kept.report(10.0 - warm_s, 0.0)
    assert kept.in_flight == 0
    assert told.outcomes.total + told.warm_up.total == len(endings)
    assert told.outcomes.total == sum(at >= warm_s for at, _, _ in endings)
    assert told.latency.count == told.outcomes.ok
    assert told.refusals.count == told.outcomes.rejected
    assert told.sent - told.answered == told.lost


@given(st.lists(ENDINGS, min_size=1, max_size=4))
def test_generators_add_up(parts: list[list[tuple[float, int, float]]]) -> None:
    kept = [account.Account(0.0, 0.0, clock=lambda: 0.0, cpu=lambda: 0.0) for _ in parts]
    whole = account.Account(0.0, 0.0, clock=lambda: 0.0, cpu=lambda: 0.0)
    for one, endings in zip(kept, parts, strict=True):
        for at, outcome, took in endings:
            for each in (one, whole):
                each.finish(at, outcome, at + took)
    assert report.merged([one.report(10.0, 0.0) for one in kept]) == whole.report(10.0, 0.0)


def test_the_processor_time_of_the_measured_part_counts() -> None:
    clock, cpu = [0.0], [0.0]
    kept = account.Account(0.0, 1.0, clock=lambda: clock[0], cpu=lambda: cpu[0])
    clock[0], cpu[0] = 1.0, 1.0
    kept.warm()
    clock[0], cpu[0] = 3.0, 1.5
    kept.asked()
    assert kept.busy == pytest.approx(0.25)


def test_a_busy_or_late_generator_is_doubted() -> None:
    quick = [0.001] * 2_000
    assert of(quick, busy=0.5).doubt == ""
    assert "95%" in of(quick, busy=0.95).doubt
    assert "late" in of(quick, lag=histogram.Histogram.samples([0.002] * 2_000)).doubt
    slow = of([0.5] * 2_000, lag=histogram.Histogram.samples([0.002] * 2_000))
    assert slow.doubt == "", "two milliseconds are nothing beside half a second"


def test_how_much_longer_a_quantile_needs() -> None:
    assert of([0.001] * 100).more_s(0.99) == pytest.approx(9.0)
    assert of([0.001] * 1_000).more_s(0.99) == 0
    assert report.Report().more_s(0.99) == math.inf


def test_goodput_is_what_came_in_time() -> None:
    told = of([0.010] * 30 + [0.100] * 70)
    assert told.throughput == 100
    assert told.goodput(0.020) == 30
    assert told.goodput(1.0) == 100


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"", account.OK),
        (204, b"", account.OK),
        (429, b"", account.REJECTED),
        (503, b"the queue is full", account.REJECTED),
        (503, b"the Deadline passed", account.EXPIRED),
        (504, b"", account.EXPIRED),
        (400, b"", account.FAILED),
        (500, b"deadline", account.FAILED),
        (301, b"", account.FAILED),
    ],
)
def test_what_a_status_says(status: int, body: bytes, outcome: int) -> None:
    assert account.http_outcome(status, body) == outcome


def test_what_a_grpc_status_says() -> None:
    said = {status: account.grpc_outcome(status) for status in (0, 3, 4, 5, 8, 13, 14, 16)}
    assert said[0] == account.OK
    assert {s for s, o in said.items() if o == account.REJECTED} == {8, 14}
    assert {s for s, o in said.items() if o == account.EXPIRED} == {4}
    assert {s for s, o in said.items() if o == account.FAILED} == {3, 5, 13, 16}
