"""Strategies' parameters, the courses that they stand for, and how a plan explains them."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.rollout import evidence, plan
from windlass.types import deployment


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


def made(kind: str, *, against: tuple[int, ...] = (), **parameters: Any) -> plan.Plan:
    wished = deployment.Strategy(kind, parameters)
    desired = deployment.Desired("m", release(2), wished, against=tuple(map(release, against)))
    return plan.make(desired, release(1))


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
    [
        ("cannary", {}, "Did you mean 'canary'?"),
        ("canary", {"step": [1.0]}, "Did you mean 'steps'?"),
        ("recreate", {"alpha": 0.1}, "recreate has no parameter 'alpha'"),
        ("canary", {"steps": "fast"}, "canary's steps: expected `array`, got `str`"),
        ("canary", {"steps": [1, "x"]}, "canary's steps[1]: expected `float`, got `str`"),
        ("canary", {"steps": [5, 1]}, "Give shares in percent that grow"),
        ("canary", {"steps": [50, 100]}, "at 100 there is nothing to compare with"),
        ("canary", {"steps": [5], "harmed_budget": 20}, "the budget chooses the steps"),
        ("canary", {"alpha": 0}, "alpha is 0; it may be from 1e-09 to 0.5"),
        ("canary", {"step_s": -1}, "step_s is -1"),
        ("canary", {"sticky": "cookie:a"}, "cannot stick to 'cookie:a'"),
        ("canary", {"sticky": "header:"}, "sticks to no header"),
        ("rolling", {"batch": 0}, "batch is 0; it may be from 1 to 100"),
        ("blue_green", {"keep_s": float("nan")}, "keep_s is nan"),
        ("shadow", {"disagreement": 0.9}, "disagreement is 0.9"),
        ("shadow", {"then": "celebrate"}, "shadow's then"),
        ("experiment", {"shares": [60, 50]}, "Leave some requests to the old release"),
        ("experiment", {"shares": [10, 10]}, "2 shares for 1 releases"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(kind: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.UsageError) as refused:
        made(kind, **parameters)
    assert said in str(refused.value)


@pytest.mark.parametrize("kind", ["recreate", "rolling", "blue_green", "canary", "shadow"])
def test_only_an_experiment_compares_several(kind: str) -> None:
    with pytest.raises(errors.UsageError, match="To compare several, use experiment"):
        made(kind, against=(3,))
    with pytest.raises(errors.UsageError, match="names version 3 twice"):
        made("experiment", against=(3, 3))
    with pytest.raises(errors.UsageError, match="names version 1 twice"):
        made("experiment", against=(1,))


def test_a_budget_of_harmed_requests_chooses_the_steps() -> None:
    few = made("canary", harmed_budget=8, regression=10).course.stages
    many = made("canary", harmed_budget=1000, regression=10).course.stages
    assert few[-1].shares <= many[-1].shares
    assert many[-1].shares == (50.0,)
    with pytest.raises(errors.UsageError):
        made("canary", harmed_budget=0.5, regression=2)


def test_feedback_has_a_say_in_a_canary_that_names_a_margin() -> None:
    plain = made("canary", harmed_budget=25, regression=3).course
    told = made("canary", harmed_budget=25, regression=3, score_margin=0.05).course
    assert plain.guard is not None
    assert told.guard is not None
    assert (plain.guard.by, told.guard.by, told.guard.score_margin) == ("events", "scores", 0.05)
    # One metric more has a part of alpha: what was caught within the budget before takes a little longer.
    assert (plain.stages[-1].shares, told.stages[-1].shares) == ((25.0,), (10.0,))
    bad = {"2": (0.0,) * 60, "1": (1.0,) * 60}
    counts = {"1": deployment.Counts(admitted=540, ok=540), "2": deployment.Counts(admitted=60, ok=60)}
    segment = deployment.Segment(2, {"1": 90.0, "2": 10.0}, counts)
    observed = deployment.Observed(0.0, segments=(segment,), scores=bad)
    assert evidence.judge(plain.guard, "1", "2", observed, 1).verdict != "ABORT"
    assert evidence.judge(told.guard, "1", "2", observed, 1).verdict == "ABORT"
    unlabelled = msgspec.structs.replace(observed, scores={})
    assert evidence.judge(told.guard, "1", "2", unlabelled, 1).verdict == "CONTINUE"


@hypothesis.given(batch=st.floats(1, 100), batch_s=st.floats(0, 1000))
def test_rolling_never_asks_more_than_can_be_carried(batch: float, batch_s: float) -> None:
    """Whichever of two steps is in force, each release can carry its share; and there is one batch too much at most."""
    stages = made("rolling", batch=batch, batch_s=batch_s).course.stages
    assert stages[0].shares == (0.0,)
    assert stages[-1].shares == (100.0,)
    for before, after in itertools.pairwise(stages):
        shares = (before.shares[0], after.shares[0])
        assert shares[0] <= shares[1]
        assert min(before.capacity, after.capacity) >= max(shares) - 1e-6
        assert min(before.old_capacity, after.old_capacity) >= 100 - min(shares) - 1e-6
        assert after.capacity + after.old_capacity <= 100 + batch + 1e-6


@hypothesis.given(steps=st.lists(st.floats(0.01, 99.9), min_size=1, max_size=8, unique=True).map(sorted))
def test_a_ramp_is_climbed_as_it_was_asked_for(steps: list[float]) -> None:
    stages = made("canary", steps=steps).course.stages
    assert [stage.shares[0] for stage in stages] == [0.0, *steps]
    assert [stage.proven for stage in stages] == [False] * len(steps) + [True]
    assert all(stage.asked for stage in stages[1:])


def test_the_alpha_of_an_experiment_is_split() -> None:
    one, three = made("experiment"), made("experiment", against=(3, 4))
    assert one.course.guard is not None
    assert three.course.guard is not None
    assert three.course.guard.alpha == pytest.approx(one.course.guard.alpha / 3)
    assert three.course.stages[1].shares == pytest.approx((25, 25, 25))


def test_a_plan_explains_itself() -> None:
    assert plan.explain(made("canary", steps=[5, 50], max_s=7200)) == (
        "Load version 2, for at most 30 min: no requests before it is verified and warm.",
        "Send 5 % to version 2 for at least 60 s and while it is asked.",
        "Send 50 % to version 2 for at least 60 s, until there is a verdict.",
        "Proof of no harm sends all requests to version 2 after 5 min with requests.",
        "Evidence of harm sends all requests back to version 1 at once, at any step.",
        "If it has not ended after 2 h with requests, version 1 stays (inconclusive).",
        "At the end version 2 has all requests.",
    )
    assert "version 1 stays loaded for 10 min" in plan.explain(made("blue_green"))[-1]
    assert "Mirror 100 % of the requests to version 2, unseen" in plan.explain(made("shadow"))[1]
    assert plan.explain(made("experiment"))[-1] == "At the end version 1 has all requests, whatever was found."
    first = plan.make(deployment.Desired("m", release(2), deployment.Strategy("canary")), None)
    assert plan.explain(first)[-1] == "Send all requests to version 2: there is nothing to compare with."


def test_only_what_is_judged_by_requests_has_a_forecast() -> None:
    assert plan.expect(made("recreate"), rate=50, bad=0.01) is None
    assert plan.expect(made("shadow"), rate=50, bad=0.01) is None
    expected = plan.expect(made("canary"), rate=50, bad=0.01)
    assert expected is not None
    assert expected.abort_s is not None
    assert expected.words
