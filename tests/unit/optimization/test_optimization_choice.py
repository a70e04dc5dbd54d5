"""What speaks against a measured form: the bound decides and never the middle, at each batch that was timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from windlass.optimization import budget, choice, findings

LIKE = findings.Likeness(1000, 1.0, 40.0, 0.999, 0.01)
SPEED: tuple[budget.Goal, ...] = ("latency", "throughput")
HALF_A_PERCENT = budget.Allowance(0.005, relative=True)
ANY = budget.Budget(drop=None)


def timing(rows: int, speedup: float, low: float, high: float, ms: float = 10.0) -> findings.Timing:
    return findings.Timing(rows, 1, ms * speedup, ms, speedup, low, high, 30)


def judged(drop: float, high: float, of: float = 0.8) -> findings.Judged:
    return findings.Judged(True, findings.Drop("accuracy", 1000, of, of - drop, drop, drop - 0.002, high), LIKE)


def tried(
    *timings: findings.Timing, drop: float = 0.0, high: float = 0.0, files: int = 1000, peak: int = 1000, name: str = ""
) -> findings.Candidate:
    return findings.Candidate(
        f"sha256:{name}", name, (), "kept", "", timings, findings.Footprint(files, files, peak), judged(drop, high)
    )


BASE = tried(timing(1, 1.0, 0.99, 1.01), timing(8, 1.0, 0.99, 1.01), name="original")
FAST = (timing(1, 2.0, 1.9, 2.1), timing(8, 2.0, 1.9, 2.1))


def kinds(asked: budget.Budget, one: findings.Candidate, base: findings.Candidate = BASE) -> list[str]:
    return [fault.kind for fault in choice.faults(asked, base, one)]


@pytest.mark.parametrize("goal", SPEED)
@pytest.mark.parametrize("slow", [0, 1])
def test_slower_at_any_batch_is_refused_by_the_lower_end(goal: budget.Goal, slow: int) -> None:
    asked = budget.Budget(goal=goal)
    for low, refused in ((0.999, True), (1.0, False)):
        timings = list(FAST)
        # In the middle it is faster: what counts is what it may be.
        timings[slow] = timing(timings[slow].rows, 1.2, low, 1.5)
        assert ("slower" in kinds(asked, tried(*timings))) is refused
    assert kinds(asked, tried(*FAST)) == []


@pytest.mark.parametrize("goal", ["size", "memory"])
def test_only_size_and_memory_may_cost_time(goal: budget.Goal) -> None:
    slow = tried(timing(1, 0.5, 0.4, 0.6), files=500, peak=500)
    assert kinds(budget.Budget(goal=goal), slow) == []
    assert all("slower" in kinds(budget.Budget(goal=other), slow) for other in SPEED)


def test_accuracy_is_the_upper_bound_in_the_unit_of_the_metric() -> None:
    # Half a percent of 0.8.
    for high, refused in ((0.004, False), (0.00401, True)):
        one = tried(*FAST, drop=0.001, high=high)
        assert (kinds(budget.Budget(drop=HALF_A_PERCENT), one) == ["accuracy"]) is refused
    plain = budget.Budget(drop=budget.Allowance(0.005, relative=False))
    assert kinds(plain, tried(*FAST, high=0.005)) == []
    assert kinds(plain, tried(*FAST, high=0.0051)) == ["accuracy"]
    assert kinds(ANY, tried(*FAST, drop=0.7, high=0.8)) == []
    (fault,) = choice.faults(plain, BASE, tried(*FAST, drop=0.001, high=0.02))
    assert "1000 rows are too few" in fault.words


def test_limits_hold_for_the_worst_that_a_measurement_allows() -> None:
    # 10 ms in the middle; by the interval of the ratio it may be 2.0 / 1.6 as much.
    one = tried(timing(1, 2.0, 1.6, 2.4), files=1000, peak=1000)
    assert kinds(budget.Budget(latency_ms=12.4), one) == ["latency"]
    assert kinds(budget.Budget(latency_ms=12.6), one) == []
    assert kinds(budget.Budget(size=999), one) == ["size"]
    assert kinds(budget.Budget(size=1000), one) == []
    assert kinds(budget.Budget(memory=999), one) == ["memory"]
    assert kinds(budget.Budget(memory=1000), one) == []


@pytest.mark.parametrize(("low", "enough"), [(1.04, False), (1.06, True)])
def test_a_little_gain_is_no_reason_for_another_version(low: float, enough: bool) -> None:
    one = tried(timing(1, 1.2, low, 1.3), timing(8, 1.2, low, 1.3))
    assert kinds(budget.Budget(), one) == ([] if enough else ["gain"])
    # Unless the original breaks a limit that this one keeps.
    large = msgspec.structs.replace(BASE, footprint=findings.Footprint(5000, 5000))
    assert kinds(budget.Budget(size=1000), one, large) == []


def test_the_goal_says_which_batch_counts() -> None:
    one = tried(timing(1, 3.0, 2.9, 3.1), timing(8, 1.5, 1.4, 1.6))
    assert choice.gain("latency", BASE, one) == 2.9
    assert choice.gain("throughput", BASE, one) == 1.4
    assert choice.gain("size", BASE, tried(files=250)) == 4.0
    assert choice.gain("memory", BASE, tried(peak=500)) == 2.0


def test_of_those_alike_the_one_that_loses_least_is_first() -> None:
    asked = budget.Budget(drop=HALF_A_PERCENT)
    quick = tried(timing(1, 2.05, 2.0, 2.1), drop=0.003, high=0.0035, name="quick")
    true = tried(timing(1, 2.0, 1.96, 2.1), drop=0.0, high=0.001, name="true")
    slower = tried(timing(1, 1.6, 1.5, 1.7), name="slower")
    out = tried(timing(1, 9.0, 8.0, 9.5), drop=0.1, high=0.11, name="out")
    failed = msgspec.structs.replace(tried(timing(1, 9.0, 8.0, 9.5), name="failed"), verdict="failed")
    found = choice.ranked(asked, BASE, [out, slower, quick, failed, true])
    assert [one.name for one in found] == ["true", "quick", "slower"]
    nearest = choice.nearest(asked, BASE, [out, failed])
    assert nearest is not None
    assert nearest[0].name == "out"


def test_the_front_holds_what_no_other_beats_in_everything() -> None:
    def front(*some: findings.Candidate) -> Sequence[Any]:
        return choice.pareto(some)

    quick = tried(*FAST, files=1000, drop=0.002, name="quick")
    small = tried(timing(1, 0.8, 0.7, 0.9), files=100, drop=0.002, name="small")
    beaten = tried(timing(1, 1.5, 1.4, 1.6), files=1000, drop=0.002, name="beaten")
    assert front(BASE, quick, small, beaten) == tuple(one.digest for one in (BASE, quick, small))
    assert front(quick, msgspec.structs.replace(small, judged=None)) == (quick.digest,)
