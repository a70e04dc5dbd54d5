"""How a server is measured, against servers that are formulas: capacity, SLO, comparison, refusals, interrupts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.client import capacity, figures, histogram, plan, report


def target(name: str) -> plan.Target:
    return plan.Target(name, 1, (plan.Request(b""),))


def subject(name: str) -> capacity.Subject:
    return capacity.Subject(name, target(name))


def queue(limits: dict[str, float], asked: list[plan.Plan], busy: float = 0.2) -> capacity.Run:
    """Servers of so many answers a second; the latency grows as 1 / (limit - rate), as a queue's does."""

    def run(planned: plan.Plan) -> report.Report:
        asked.append(planned)
        limit = limits[planned.target.host]
        wanted = planned.rate or min(limit, planned.connections * planned.streams * limit / 16)
        rate = min(wanted, limit)
        ok = round(rate * planned.seconds)
        lost = round((wanted - rate) * planned.seconds)
        latency = 1 / max(1e-3, limit - rate)
        second = report.Second(
            report.Outcomes(ok=ok, not_sent=lost), histogram.Histogram({histogram.bucket(latency): ok})
        )
        return report.Report(seconds=(second,), duration_s=planned.seconds, busy=busy, rate=planned.rate)

    return run


def measured(
    limits: dict[str, float], asked: list[plan.Plan] | None = None, busy: float = 0.2, **method: float
) -> capacity.Measurement:
    run = queue(limits, [] if asked is None else asked, busy)
    found = capacity.Measurement(
        [subject(name) for name in limits],
        capacity.Method(**method),  # type: ignore[arg-type]
        lambda _: None,
        run,
    )
    found.measure()
    return found


def test_capacity_is_that_of_the_best_closed_loop() -> None:
    found = measured({"a": 5_000})
    known = found.capacity("a")
    assert known is not None
    assert known.value == pytest.approx(5_000)
    assert [point.asked for point in found.of("a", "open")] == [2_500, 4_000, 5_000, 6_000, 10_000]


def test_servers_take_turns() -> None:
    asked: list[plan.Plan] = []
    measured({"a": 1_000, "b": 500}, asked, rate=100)
    assert [planned.target.host for planned in asked] == ["a", "b"] * 3
    assert [planned.seed for planned in asked] == [1, 1, 2, 2, 3, 3], "both get the same arrivals"


def test_the_ratio_of_two_is_told_with_its_interval() -> None:
    ratio = measured({"a": 1_000, "b": 500}).ratios()
    assert (ratio["c=16"].low, ratio["c=16"].value, ratio["c=16"].high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("slo_s", [0.005, 0.02, 1.0])
def test_the_rate_that_keeps_the_slo(slo_s: float) -> None:
    held = measured({"a": 5_000}, slo_s=slo_s).held["a"]
    true = 5_000 - 1 / slo_s
    assert held.rate <= true * 1.001
    assert held.rate == pytest.approx(true, rel=0.04)
    assert held.p99_s <= slo_s


def test_an_slo_that_no_rate_keeps() -> None:
    held = measured({"a": 50}, slo_s=0.001).held["a"]
    assert (held.rate, math.isnan(held.p99_s)) == (0.0, True)


def test_figures_of_a_busy_generator_are_none_of_the_server() -> None:
    found = measured({"a": 5_000}, busy=0.97, slo_s=0.02)
    assert found.capacity("a") is None
    assert found.of("a", "open") == []
    assert found.held == {}
    assert all("97%" in point.doubt for point in found.points)
    assert isinstance(capacity.refusal(found.points[0].doubt), errors.GateRefused)


def test_quantiles_without_samples_are_refused() -> None:
    point = measured({"a": 50}, rate=50.0, seconds=3.0).points[0]
    assert point.latency.count == 450
    assert point.quantile(0.5) is not None
    assert point.quantile(0.99) is None
    assert point.more_s(0.99) == pytest.approx((1_000 - 450) / 50)


def test_an_interrupt_leaves_what_was_measured() -> None:
    def run(planned: plan.Plan, so_far: list[int] = []) -> report.Report:  # noqa: B006 - it is to be remembered
        so_far.append(1)
        if len(so_far) == 5:
            raise KeyboardInterrupt
        return queue({"a": 100}, [])(planned)

    found = capacity.Measurement([subject("a")], capacity.Method(), lambda _: None, run)
    found.measure()
    assert found.interrupted
    assert [(point.asked, len(point.reports)) for point in found.points] == [(1, 3), (4, 1)]


def test_an_interrupt_before_anything_says_so() -> None:
    def run(_: plan.Plan) -> report.Report:
        raise KeyboardInterrupt

    with pytest.raises(errors.Cancelled):
        capacity.Measurement([subject("a")], capacity.Method(), lambda _: None, run).measure()


@given(st.lists(st.floats(0.1, 1e6), min_size=3, max_size=9), st.floats(0.1, 10))
def test_the_interval_holds_the_ratio(rounds: list[float], factor: float) -> None:
    found = figures.ratio([value * factor for value in rounds], rounds)
    assert found.value == pytest.approx(factor)
    assert found.low <= found.value * (1 + 1e-9)
    assert found.high >= found.value * (1 - 1e-9)


def test_the_interval_is_as_wide_as_the_rounds_differ() -> None:
    found = figures.ratio([10, 20, 30], [10, 10, 10])
    assert (found.value, found.low, found.high) == (2, 1, 3)


def test_the_warm_up_is_a_fifth_and_calls_share_connections() -> None:
    called = capacity.Subject("g", plan.Target("g", 1, (plan.Request(b""),), transport="grpc"))
    assert capacity.planned(subject("a"), "closed", 64, 3.0).warm_s == pytest.approx(0.6)
    assert capacity.planned(subject("a"), "closed", 64, 0.5).warm_s == pytest.approx(0.3)
    for wanted in (1, 4, 16, 64, 256):
        made = capacity.planned(called, "closed", wanted, 1.0)
        assert made.connections * made.streams == wanted


def test_what_a_million_cost() -> None:
    assert capacity.cost_per_million(1_000, 3.6) == pytest.approx(1.0)
    assert capacity.cost_per_million(0, 3.6) == math.inf
