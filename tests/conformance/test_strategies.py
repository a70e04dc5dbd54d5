"""What holds for every strategy of the catalogue: its course can be followed, to both of its ends."""

from __future__ import annotations

import msgspec
import pytest

from windlass import plugins
from windlass.rollout import decide, evidence, plan
from windlass.rollout.strategies import base
from windlass.targets import memory
from windlass.types import deployment

STRATEGIES = sorted(plugins.catalog()["strategies"])
QUIET = evidence.Judgement("CONTINUE", "nothing yet")
PROOF = evidence.Judgement("PROMOTE", "no harm")
HARM = evidence.Judgement("ABORT", "9 of 9 errors fell on version 2")


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


def made(kind: str) -> plan.Plan:
    return plan.make(deployment.Desired("m", release(2), deployment.Strategy(kind), salt="s"), release(1))


def follow(rollout: plan.Plan, judgements: list[evidence.Judgement], turns: int = 200) -> list[decide.Step]:
    """The steps of a rollout with requests, hour by hour; the last judgement stays."""
    now = 0.0
    target = memory.Memory(lambda: now)
    target.apply(deployment.Wanted("m", (deployment.Arm(release(1)),)))
    state = decide.start(rollout, target.observe("m"), now)
    steps: list[decide.Step] = []
    for turn in range(turns):
        judgement = judgements[min(turn, len(judgements) - 1)]
        steps.append(decide.decide(rollout, state, target.observe("m"), judgement, now))
        state = msgspec.convert(msgspec.to_builtins(steps[-1].state), decide.State)
        wanted = steps[-1].wanted
        assert wanted is not None
        target.apply(wanted)
        if steps[-1].done:
            return steps
        now += 3600
        shares = target.observe("m").shares
        target.count("m", {arm: deployment.Counts(9, 9) for arm, share in shares.items() if share})
        target.mirror("m", deployment.Mirrored(9))
    raise AssertionError(f"it does not end: {steps[-1].words}")


@pytest.mark.parametrize("kind", STRATEGIES)
class TestStrategy:
    def test_it_has_defaults_and_a_course(self, kind: str) -> None:
        strategy = plugins.load("strategies", kind)()
        assert isinstance(strategy, base.Strategy)
        assert strategy == msgspec.convert(msgspec.to_builtins(strategy), type(strategy))
        course = strategy.course(1)
        assert course.stages
        assert not any(course.stages[0].shares), "nothing is sent before it is loaded"
        for stage in course.stages:
            assert len(stage.shares) == 1
            assert 0 <= sum(stage.shares) <= 100
            assert stage.capacity >= max(stage.shares)
            assert stage.old_capacity >= 100 - sum(stage.shares)
            assert not stage.mirror or not any(stage.shares)
            assert not stage.proven or course.guard or course.mirror_guard
        assert course.ready_s > 0
        assert course.max_s > 0 or not any(stage.proven for stage in course.stages), "no verdict must end it too"

    def test_its_plan_is_told_in_sentences(self, kind: str) -> None:
        said = plan.explain(made(kind))
        assert len(said) >= 2
        assert all(line[0].isupper() and line.endswith(".") for line in said)

    def test_proof_leads_to_the_end_that_it_names(self, kind: str) -> None:
        rollout = made(kind)
        last = follow(rollout, [PROOF])[-1]
        assert last.outcome == rollout.course.ends
        assert last.wanted is not None
        end = release(2) if last.outcome == "new" else release(1)
        assert [(arm.release, arm.share) for arm in last.wanted.arms] == [(end, 100.0)]

    def test_silence_promotes_nothing_that_asks_for_proof(self, kind: str) -> None:
        rollout = made(kind)
        last = follow(rollout, [QUIET], turns=1000)[-1]
        asks = any(stage.proven for stage in rollout.course.stages)
        assert (last.outcome, last.verdict) == (("old", "INCONCLUSIVE") if asks else ("new", ""))

    @pytest.mark.promise("P-40")
    @pytest.mark.parametrize("turn", range(6))
    def test_harm_goes_back_from_every_step(self, kind: str, turn: int) -> None:
        steps = follow(made(kind), [QUIET] * turn + [HARM])
        if len(steps) <= turn or steps[-1].verdict == "INCONCLUSIVE":
            return
        assert (steps[-1].outcome, steps[-1].verdict) == ("old", "ABORT")
        back = steps[turn].wanted
        assert back is not None
        assert {arm.release.arm: arm.share for arm in back.arms}["1"] == 100
