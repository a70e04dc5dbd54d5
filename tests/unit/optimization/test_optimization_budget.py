"""Budgets as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import budget

VALUES = st.floats(1e-4, 0.99)


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("0.5%", 0.005, True), ("1 %", 0.01, True), ("0", 0.0, False), (".002", 0.002, False), ("0%", 0.0, True)],
)
def test_a_drop(text: str, value: float, relative: bool) -> None:
    assert budget.allowance(text) == budget.Allowance(pytest.approx(value), relative)


def test_a_relative_drop_is_of_the_originals_figure() -> None:
    assert budget.allowance("1%").of(0.9) == pytest.approx(0.009)
    assert budget.allowance("1%").of(-0.5) == pytest.approx(0.005)
    assert budget.allowance("0.02").of(0.9) == 0.02


@pytest.mark.parametrize(
    ("text", "ms"), [("5ms", 5.0), ("800us", 0.8), ("800µs", 0.8), ("0.2s", 200.0), ("7", 7.0), (" 5 MS ", 5.0)]
)
def test_a_latency(text: str, ms: float) -> None:
    assert budget.milliseconds(text) == pytest.approx(ms)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600.0), ("90", 90.0), ("1.5h", 5400.0), ("250ms", 0.25)])
def test_a_time(text: str, seconds: float) -> None:
    assert budget.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "count"), [("20MB", 20_000_000), ("16MiB", 16 << 20), ("0.5kb", 500), ("12", 12)])
def test_a_size(text: str, count: int) -> None:
    assert budget.byte_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "x", "5 minutes", "-1", "1e3", "nan", "inf", "5%%", "5 5", "--", "0x10", "\u0661"]
)
def test_what_is_no_figure_is_refused_with_an_example(text: str) -> None:
    for read in (budget.allowance, budget.milliseconds, budget.seconds, budget.byte_count):
        with pytest.raises(errors.UsageError) as raised:
            read(text)
        assert "example" in raised.value.hint


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (budget.milliseconds, "0ms"),
        (budget.seconds, "0"),
        (budget.byte_count, "0MB"),
        (budget.allowance, "100%"),
        (budget.allowance, "5ms"),
        (budget.byte_count, "5ms"),
        (budget.milliseconds, "5MB"),
        (budget.seconds, "9" * 400),
    ],
)
def test_what_sets_no_limit_is_refused(read: object, text: str) -> None:
    with pytest.raises(errors.UsageError):
        read(text)  # type: ignore[operator]


@given(VALUES, st.booleans())
def test_what_an_allowance_says_is_read_as_the_same(value: float, relative: bool) -> None:
    one = budget.Allowance(value, relative)
    again = budget.allowance(str(one))
    assert again.relative == relative
    assert again.value == pytest.approx(one.value, rel=1e-3)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (budget.allowance, budget.milliseconds, budget.seconds, budget.byte_count):
        try:
            found = read(text)
        except errors.UsageError:
            continue
        assert isinstance(found, budget.Allowance) or found > 0


def test_a_whole_budget() -> None:
    found = budget.parse(max_drop="any", max_latency="5ms", max_size="2MB", max_memory="1GiB", goal="size")
    assert found == budget.Budget(None, 5.0, 2_000_000, 1 << 30, "size")
    assert budget.parse() == budget.Budget()


def test_a_goal_that_is_none_names_the_nearest() -> None:
    with pytest.raises(errors.UsageError, match="latency") as raised:
        budget.parse(goal="latencies")
    assert "'latency'" in raised.value.hint
