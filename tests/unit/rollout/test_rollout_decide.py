"""What the state machine does, case by case, and what it says."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import msgspec
import pytest

from windlass.rollout import decide, evidence, plan
from windlass.targets import memory
from windlass.types import deployment

QUIET = evidence.Judgement("CONTINUE", "nothing decided yet")
HARM = evidence.Judgement("ABORT", "9 of 12 errors fell on version 2")
PROOF = evidence.Judgement("PROMOTE", "its rate is at most 0.2 points above the baseline's")


class Drive:
    """A rollout that is looked at when a test says so."""

    def __init__(self, kind: str, *, first: bool = False, against: tuple[int, ...] = (), **parameters: Any) -> None:
        self.now = 0.0
        self.target = memory.Memory(lambda: self.now)
        self.old = None if first else release(1)
        self.desired = deployment.Desired(
            "m", release(2), deployment.Strategy(kind, parameters), against=tuple(map(release, against))
        )
        if self.old:
            self.target.apply(deployment.Wanted("m", (deployment.Arm(self.old),)))
        self.state = decide.start(self.plan, self.target.observe("m"), self.now)
        self.applied = 0

    @property
    def plan(self) -> plan.Plan:
        return plan.make(self.desired, self.old, number=4)

    def say(self, **wish: Any) -> None:
        self.desired = msgspec.structs.replace(self.desired, **wish)

    def look(self, judgement: evidence.Judgement = QUIET, seconds: float = 0.0, requests: int = 0) -> decide.Step:
        self.now += seconds
        if requests:
            shares = self.target.observe("m").shares
            self.target.count("m", {arm: deployment.Counts(requests, requests) for arm in shares if shares[arm]})
        step = decide.decide(self.plan, self.state, self.target.observe("m"), judgement, self.now)
        self.state = step.state
        if step.wanted is not None and step.wanted != self.target._runs.get("m", memory._Run(None)).wanted:
            self.target.apply(step.wanted)
            self.applied += 1
        return step

    def until(self, share: float) -> decide.Step:
        """Quiet minutes with requests, until version 2 has this share."""
        for _ in range(40):
            step = self.look(seconds=61, requests=5)
            if self.shares.get("2") == share:
                self.look()
                return step
        raise AssertionError(step.words)

    @property
    def shares(self) -> dict[str, float]:
        return self.target.observe("m").shares


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


def test_a_canary_climbs_its_steps_and_is_promoted_on_evidence() -> None:
    canary = Drive("canary", steps=[5, 50], step_s=60, min_s=0)
    assert canary.look().words == "Version 2 is being loaded; version 1 has all requests."
    canary.look()
    assert canary.shares == {"1": 95, "2": 5}
    assert "Version 2 has 5 % of the requests (step 1 of 2). No request at this step." in canary.look().words
    canary.look(seconds=600)
    assert canary.shares == {"1": 95, "2": 5}, "it was not asked"
    canary.look(requests=5)
    assert canary.shares == {"1": 50, "2": 50}
    for _ in range(20):
        assert canary.look(seconds=600, requests=9).verdict == "CONTINUE"
    assert canary.shares == {"1": 50, "2": 50}
    step = canary.look(PROOF)
    assert (step.phase, step.verdict, step.done) == ("PROMOTING", "PROMOTE", False)
    assert canary.shares == {"1": 0, "2": 100}
    step = canary.look()
    assert step.words == "Its rate is at most 0.2 points above the baseline's. Version 2 has all requests."
    assert (step.phase, step.verdict, step.done, step.outcome) == ("LIVE", "PROMOTE", True, "new")
    assert canary.shares == {"2": 100}
    assert canary.look(HARM) == step


def test_proof_promotes_before_the_last_step_but_not_before_its_time() -> None:
    canary = Drive("canary", min_s=300)
    canary.until(5)
    started = canary.state.running_at
    assert started is not None
    assert canary.look(PROOF, seconds=started + 299 - canary.now, requests=3).phase == "RUNNING"
    assert canary.look(PROOF, seconds=1).phase == "PROMOTING"


@pytest.mark.parametrize("silence", ["no requests", "no counts"])
def test_silence_never_promotes_and_ends_inconclusive(silence: str) -> None:
    canary = Drive("canary", steps=[5], step_s=0, min_s=0, max_s=3600)
    canary.look()
    canary.look()
    canary.look()
    canary.target.blind = silence == "no counts"
    assert canary.look(PROOF, seconds=3500, requests=0 if silence == "no requests" else 9).phase == "RUNNING"
    step = canary.look(PROOF, seconds=100)
    assert (step.verdict, step.state.phase) == ("INCONCLUSIVE", "RETURNING")
    said = "No request at this step" if silence == "no requests" else "The counts of requests are not known"
    assert "Not at its end within 60 min." in step.words
    assert said in step.words
    assert canary.shares == {"1": 100, "2": 0}
    assert canary.look().outcome == "old"


def test_a_canary_whose_counts_are_not_to_be_had_gets_no_request() -> None:
    canary = Drive("canary", ready_s=600)
    canary.target.blind = True
    canary.look()
    assert canary.look(seconds=500).phase == "PREPARING"
    step = canary.look(seconds=700)
    assert (step.verdict, step.outcome, step.phase) == ("INCONCLUSIVE", "old", "LIVE")
    assert canary.shares == {"1": 100}


@pytest.mark.parametrize("known", [False, True])
def test_what_an_earlier_rollout_of_the_same_releases_counted_is_no_evidence(known: bool) -> None:
    drive = Drive("canary", steps=[50], step_s=60)
    one, two = release(1), release(2)
    drive.target.apply(deployment.Wanted("m", (deployment.Arm(one, 50.0), deployment.Arm(two, 50.0))))
    drive.target.count("m", {"1": deployment.Counts(500, 500), "2": deployment.Counts(500, 100, failed=400)})
    drive.target.apply(deployment.Wanted("m", (deployment.Arm(one),)))
    drive.target.blind = not known
    drive.state = decide.start(drive.plan, drive.target.observe("m"), drive.now)
    drive.target.blind = False
    for _ in range(4):
        drive.look(decide.judge(drive.plan, drive.state, drive.target.observe("m")), seconds=1)
    assert drive.shares == {"1": 50.0, "2": 50.0}
    assert decide.judge(drive.plan, drive.state, drive.target.observe("m")).verdict == "CONTINUE"
    drive.target.count("m", {"1": deployment.Counts(500, 500), "2": deployment.Counts(500, 100, failed=400)})
    assert decide.judge(drive.plan, drive.state, drive.target.observe("m")).verdict == "ABORT"


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("kind", ["canary", "rolling"])
def test_harm_goes_back_at_once_also_when_paused(kind: str, paused: bool) -> None:
    rollout = Drive(kind)
    rollout.until(25)
    rollout.say(paused=paused)
    rollout.look()
    step = rollout.look(HARM)
    assert rollout.shares == {"1": 100, "2": 0}
    assert step.words == "9 of 12 errors fell on version 2. All requests go back to version 1."
    step = rollout.look()
    assert (step.phase, step.verdict, step.outcome) == ("LIVE", "ABORT", "old")
    assert rollout.shares == {"1": 100}


def test_paused_it_stays_where_it_is_and_its_time_stands_still() -> None:
    canary = Drive("canary", step_s=60, min_s=0, max_s=1000)
    canary.until(10)
    canary.say(paused=True)
    for _ in range(5):
        step = canary.look(PROOF, seconds=900, requests=50)
        assert step.phase == "PAUSED"
        assert step.words.startswith("Paused by a person. Version 2 has 10 %")
    assert canary.shares == {"1": 90, "2": 10}
    canary.say(paused=False)
    assert canary.look().phase == "RUNNING"
    assert canary.look(PROOF).phase == "PROMOTING"


def test_a_person_promotes_against_the_evidence_but_not_what_fails() -> None:
    canary = Drive("canary", keep_s=60)
    canary.until(5)
    canary.say(order="promote", paused=True)
    step = canary.look(HARM)
    assert (step.phase, step.verdict) == ("PROMOTING", "")
    assert "A person ordered to promote, against the evidence: 9 of 12 errors" in step.words
    assert canary.look(HARM).words.endswith("Version 2 has all requests; version 1 stays loaded for 60 s.")
    canary.target.failed["2"] = "out of memory"
    step = canary.look()
    assert step.words == "Version 2 failed: out of memory. All requests go back to version 1."
    assert canary.shares == {"1": 100}
    step = canary.look()
    assert (step.phase, step.outcome) == ("FAILED", "old")


def test_a_person_aborts_wherever_it_is() -> None:
    for share in (1.0, 50.0):
        canary = Drive("canary")
        canary.until(share)
        canary.say(order="abort", paused=True)
        step = canary.look(PROOF)
        assert canary.shares == {"1": 100, "2": 0}
        assert step.words == "A person ordered to abort. All requests go back to version 1."
        assert canary.look().outcome == "old"


def test_a_revoked_release_goes_back_whatever_a_person_ordered() -> None:
    canary = Drive("canary")
    canary.until(5)
    canary.say(order="promote", paused=True)
    revoked = msgspec.structs.replace(canary.plan, unusable="version 2 is quarantined: it leaks")
    step = decide.decide(revoked, canary.state, canary.target.observe("m"), PROOF, canary.now)
    assert step.words == "Version 2 is quarantined: it leaks. All requests go back to version 1."
    assert step.wanted is not None
    assert step.wanted.arms[0].share == 100


def test_an_order_to_promote_waits_until_it_is_ready() -> None:
    canary = Drive("canary")
    canary.say(order="promote")
    step = canary.look()
    assert "A person ordered to promote it: once it is ready." in step.words
    assert canary.shares == {"1": 100, "2": 0}
    canary.look()
    assert canary.shares == {"1": 0, "2": 100}


@pytest.mark.promise("P-37")
def test_the_way_back_from_blue_green_is_one_change_of_shares() -> None:
    rollout = Drive("blue_green", keep_s=600)
    rollout.look()
    rollout.look()
    step = rollout.look(seconds=599)
    assert step.words == ("All steps passed. Version 2 has all requests; version 1 stays loaded for 10 min.")
    assert rollout.shares == {"1": 0, "2": 100}
    rollout.say(order="abort")
    applied = rollout.applied
    rollout.look()
    assert rollout.shares == {"1": 100, "2": 0}
    assert rollout.applied == applied + 1
    assert rollout.look().outcome == "old"


def test_blue_green_releases_the_old_one_after_its_time() -> None:
    rollout = Drive("blue_green", keep_s=600)
    rollout.look()
    rollout.look()
    rollout.look()
    assert not rollout.look(seconds=599).done
    assert rollout.look(seconds=1).outcome == "new"
    assert rollout.shares == {"2": 100}


def test_a_first_release_gets_all_requests_whatever_the_strategy() -> None:
    rollout = Drive("canary", first=True)
    rollout.look()
    rollout.look()
    step = rollout.look()
    assert (step.outcome, step.words) == ("new", "There is nothing to compare it with. Version 2 has all requests.")
    assert rollout.applied == 1


def test_a_first_release_that_cannot_run_leaves_nothing() -> None:
    rollout = Drive("recreate", first=True)
    rollout.target.failed["2"] = "no such file"
    rollout.look()
    step = rollout.look()
    assert (step.wanted, step.outcome, step.phase) == (None, "old", "FAILED")
    assert step.words == "Version 2 failed: no such file. Nothing runs."


def test_a_warm_release_takes_all_requests_at_the_first_step() -> None:
    rollout = Drive("recreate")
    rollout.target.apply(deployment.Wanted("m", (deployment.Arm(release(1)), deployment.Arm(release(2), share=0.0))))
    rollout.look()
    assert rollout.shares == {"1": 0, "2": 100}


def test_the_live_release_deployed_again_is_left_alone() -> None:
    same = plan.make(deployment.Desired("m", release(1), deployment.Strategy("canary")), release(1))
    target = memory.Memory(lambda: 0.0)
    target.apply(deployment.Wanted("m", (deployment.Arm(release(1)),)))
    state = decide.start(same, target.observe("m"), 0.0)
    for _ in range(2):
        step = decide.decide(same, state, target.observe("m"), QUIET, 0.0)
        state = step.state
        assert step.wanted is not None
        assert [(arm.release.arm, arm.share) for arm in step.wanted.arms] == [("1", 100.0)]
    assert step.outcome == "new"


@pytest.mark.promise("P-40")
def test_no_request_goes_to_a_release_that_is_not_ready() -> None:
    canary = Drive("canary", ready_s=600)
    canary.target.loading.add("2")
    for _ in range(3):
        observed = canary.target.observe("m")
        step = decide.decide(canary.plan, canary.state, observed, PROOF, canary.now)
        canary.state = step.state
        assert step.wanted is not None
        assert [arm.share for arm in step.wanted.arms] == [100, 0]
        canary.now += 200
    step = decide.decide(canary.plan, canary.state, canary.target.observe("m"), PROOF, 601)
    assert step.words == "Version 2 was not ready within 10 min. Version 1 has all requests."
    assert (step.phase, step.outcome) == ("FAILED", "old")


@pytest.mark.promise("P-39")
def test_a_release_that_vanishes_goes_back_but_a_target_that_lost_all_is_filled_again() -> None:
    canary = Drive("canary")
    canary.until(25)
    canary.target.lose("m")
    step = canary.look()
    assert step.state.phase == "RUNNING"
    assert canary.shares == {"1": 100, "2": 0}
    canary.look()
    assert canary.shares == {"1": 75, "2": 25}
    canary.target.apply(deployment.Wanted("m", (deployment.Arm(release(1)),)))
    step = canary.look()
    assert "Version 2 is gone from the target while it was in use." in step.words
    assert canary.look().outcome == "old"


def test_a_shadow_is_never_sent_and_then_becomes_a_canary() -> None:
    shadow = Drive("shadow", min_s=60, then="canary", steps=[10])
    shadow.target.mirror("m", deployment.Mirrored(compared=500))
    shadow.state = decide.start(shadow.plan, shadow.target.observe("m"), 0.0)
    step = shadow.look()
    assert step.wanted is not None
    assert step.wanted.mirror is not None
    assert shadow.shares == {"1": 100}
    assert shadow.look().words.startswith("Version 2 is asked 100 % of the requests too, unseen.")
    assert shadow.look(PROOF, seconds=61).phase == "RUNNING", "nothing was compared since it began"
    shadow.target.mirror("m", deployment.Mirrored(compared=5))
    shadow.look(PROOF)
    assert shadow.shares == {"1": 100, "2": 0}
    assert shadow.state.running_at is None
    shadow.look()
    assert shadow.shares == {"1": 90, "2": 10}


def test_an_experiment_names_its_winner_and_goes_back() -> None:
    trial = Drive("experiment", against=(3,), min_s=0)
    trial.look()
    assert trial.shares == {"1": 100, "2": 0, "3": 0}
    trial.look()
    trial.look(requests=0)
    assert trial.shares == pytest.approx({"1": 33.333334, "2": 33.333333, "3": 33.333333})
    step = trial.look(PROOF, requests=7)
    assert step.words.startswith("Its rate is at most 0.2 points above the baseline's. This was a trial.")
    assert (trial.look().outcome, trial.state.verdict) == ("old", "PROMOTE")
    assert trial.shares == {"1": 100}


def test_real_evidence_promotes_the_good_and_calls_back_the_bad(simulation: ModuleType) -> None:
    wished = deployment.Strategy("canary", {"max_s": 14_400})
    good = [simulation.run(wished, simulation.Traffic(), seed) for seed in range(2)]
    assert [(one.outcome, one.verdict) for one in good] == [("new", "PROMOTE")] * 2
    for bad in (simulation.Behaviour(bad=lambda _: 0.05), simulation.Behaviour(latency_s=0.1)):
        found = simulation.run(wished, simulation.Traffic(new=bad), 1)
        assert (found.outcome, found.verdict) == ("old", "ABORT")
        assert "version 2" in found.words
    silent = simulation.run(wished, simulation.Traffic(rate=0.0, tick_s=60), 1)
    assert (silent.outcome, silent.verdict, silent.asked) == ("old", "INCONCLUSIVE", 0)


def test_what_is_slow_may_be_told_later_from_the_old_release_and_is_judged_from_then_on(simulation: ModuleType) -> None:
    wished = deployment.Strategy("canary", {"max_s": 14_400})
    quiet = simulation.Traffic(warm_s=0.0)
    good = simulation.run(wished, quiet, 1)
    assert (good.outcome, good.verdict) == ("new", "PROMOTE")
    slower = msgspec.structs.replace(quiet, new=simulation.Behaviour(latency_s=0.1))
    found = simulation.run(wished, slower, 1)
    assert (found.outcome, found.verdict) == ("old", "ABORT")
    assert "answers slower than" in found.words
    assert max(len(said) for said in good.steps) <= 240


def test_the_threshold_of_slow_answers_is_fixed_once() -> None:
    made = plan.make(deployment.Desired("m", release(2), deployment.Strategy("canary")), release(1))

    def seen(answers: int, generation: int) -> deployment.Observed:
        counts = deployment.Counts(admitted=answers, ok=answers, latency=(answers - 10, 10, 0))
        segment = deployment.Segment(1, {"1": 100.0}, {"1": counts})
        return deployment.Observed(1.0, generation=generation, segments=(segment,), bounds=(0.01, 0.02))

    state = decide.start(made, seen(50, 1), 0.0)
    assert (state.slow_ms, state.slow_from) == (0.0, 0)
    nothing = evidence.Judgement("CONTINUE", "")
    later = decide.decide(made, state, seen(150, 4), nothing, 1.0)
    assert (later.state.slow_ms, later.state.slow_from) == (10.0, 4)
    assert later.wanted is not None
    assert later.wanted.slow_ms == 10.0
    again = decide.decide(made, later.state, seen(100_000, 6), nothing, 2.0)
    assert (again.state.slow_ms, again.state.slow_from) == (10.0, 4)
    off = plan.make(deployment.Desired("m", release(2), deployment.Strategy("canary", {"latency": False})), release(1))
    assert decide.start(off, seen(150, 1), 0.0).slow_ms == 0.0
