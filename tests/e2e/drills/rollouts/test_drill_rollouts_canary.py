"""Canaries with faults, on a real server that is asked all the time: each is found out, and nobody else is harmed."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
# Small enough to be done in a moment: what is proved about the error rates is proved where counts are simulated.
QUICK = {"steps": [50.0], "step_s": 0.2, "min_s": 0.2, "margin": 0.3, "max_s": 30.0}


@pytest.fixture(scope="module")
def first(shared: Any) -> Any:
    """A good release that is live, answers after 2 ms, and is live again after each of these tests."""
    release = shared.release("m", run_ms=2)
    shared.live(release)
    return release


def _first_share_of(shared: Any, name: str, arm: str) -> float:
    """When the release was first in force at share 0, in seconds since the epoch: from then on it may answer."""
    return min(act["at"] for act in shared.in_force() if act["arms"].get(name, {}).get(arm) == 0.0)


@pytest.mark.promise("P-40")
def test_a_slow_start_and_slow_answers(shared: Any, first: Any) -> None:
    callers = shared.callers(first.name)
    # Its checks and its warm-up take seconds, at so long an answer.
    slow = shared.release(first.name, run_ms=60)
    began = time.time()
    shared.wish(slow, "canary", **QUICK, slow_ms=30.0)
    ended = shared.ended(first.name, slow)
    shared.until(lambda: len(callers.answers) > 50 and callers.answers[-1].version == first.arm)
    callers.stop()
    assert (ended.outcome, ended.verdict) == ("old", "ABORT"), ended.words
    assert "slow" in ended.words
    assert callers.failed == []
    ready_at = _first_share_of(shared, first.name, slow.arm)
    assert ready_at - began > 0.3, "it took its time"
    answered = callers.of(slow.arm)
    assert answered, "it was asked"
    assert min(one.at for one in answered) > ready_at, "not before it was ready"
    assert shared.status(first.name).live == first


@pytest.mark.promise("P-40")
def test_wrong_answers(shared: Any, first: Any, tally: Any) -> None:
    callers = shared.callers(first.name)
    failing = shared.release(first.name, run_ms=2, fail_above=0.4)
    shared.wish(failing, "canary", **QUICK)
    ended = shared.ended(first.name, failing)
    back = time.time()
    time.sleep(0.3)
    callers.stop()
    assert (ended.outcome, ended.verdict) == ("old", "ABORT"), ended.words
    # Whoever failed was sent to the canary: it, and nothing else, was counted as failed.
    by_canary = shared.last(first.name)
    counts = shared.steps(first.name)[-1].counts
    assert by_canary.outcome == "old"
    assert counts[first.arm]["failed"] == 0
    assert 0 < counts[failing.arm]["failed"] == len(callers.failed), tally(callers.answers)
    assert {one.status for one in callers.failed} == {500}
    assert max(one.asked for one in callers.failed) < back


@pytest.mark.promise("P-40")
def test_worse_answers_by_what_people_say(shared: Any, first: Any) -> None:
    callers = shared.callers(first.name)
    drifting = shared.release(first.name, run_ms=2, fail_above=1e6)
    shared.wish(drifting, "experiment", shares=[50.0], min_s=0.2, max_s=30.0, alpha=0.05, margin=0.3, score_margin=0.1)
    told: set[str] = set()
    scores = {first.arm: 0.9, drifting.arm: 0.1}
    shared.until(lambda: shared.status(first.name).phase == "RUNNING")

    def tell() -> bool:
        fresh = [one for one in list(callers.answers) if one.status == 200 and one.request not in told]
        told.update(one.request for one in fresh)
        shared.say(first.name, {one.request: scores[one.version] for one in fresh})
        return shared.last(first.name).ended_at is not None

    shared.until(tell, 40.0)
    callers.stop()
    ended = shared.last(first.name)
    assert (ended.outcome, ended.verdict) == ("old", "ABORT"), ended.words
    assert callers.failed == []
    assert shared.status(first.name).live == first


def test_without_requests_nothing_is_concluded(shared: Any, first: Any) -> None:
    other = shared.release(first.name, run_ms=2, fail_above=2e6)
    shared.wish(other, "canary", **{**QUICK, "max_s": 1.0})
    ended = shared.ended(first.name, other)
    assert (ended.outcome, ended.verdict) == ("old", "INCONCLUSIVE"), ended.words
    assert shared.status(first.name).live == first
    assert "No request has been drawn" in ended.words


def test_without_counts_nothing_is_concluded(shared: Any, first: Any) -> None:
    """The server answers, and tells no outcomes: it is not known what came of anything."""
    callers = shared.callers(first.name)
    second = shared.release(first.name, run_ms=2, fail_above=3e6)
    shared.wish(second, "canary", **{**QUICK, "min_s": 2.0, "step_s": 2.0, "max_s": 2.5})
    shared.until(lambda: len(callers.of(second.arm)) > 0)
    with shared.silent():
        ended = shared.ended(first.name, second)
        assert (ended.outcome, ended.verdict) == ("old", "INCONCLUSIVE"), ended.words
        assert "counts of requests are not known" in ended.words
        # One that begins then is sent nothing.
        third = shared.release(first.name, run_ms=2, fail_above=4e6)
        shared.wish(third, "canary", **QUICK, ready_s=1.0)
        ended = shared.ended(first.name, third)
        assert (ended.outcome, ended.verdict) == ("old", "INCONCLUSIVE"), ended.words
        assert "counts" in ended.words
    callers.stop()
    assert callers.failed == []
    assert callers.of(third.arm) == []
    assert shared.status(first.name).live == first
