"""The state machine under all that can happen: faults of the target, crashes of the controller, people's words."""

from __future__ import annotations

from typing import Any

import hypothesis
import msgspec
from hypothesis import stateful
from hypothesis import strategies as st

from windlass import errors
from windlass.rollout import decide, evidence, plan
from windlass.targets import memory
from windlass.types import deployment

WISHES: dict[str, list[dict[str, Any]]] = {
    "recreate": [{}, {"keep_s": 60.0}],
    "rolling": [{}, {"batch": 40.0, "batch_s": 0.0}, {"batch": 100.0}],
    "blue_green": [{}],
    "canary": [{}, {"steps": [10.0, 50.0], "step_s": 0.0, "min_s": 0.0}, {"sticky": "caller", "max_s": 600.0}],
    "shadow": [{}, {"then": "promote", "min_s": 0.0}, {"then": "canary", "steps": [20.0], "max_s": 900.0}],
    "experiment": [{"min_s": 60.0}, {"shares": [20.0, 30.0], "promote_winner": True, "min_s": 0.0}],
}
KINDS = [(kind, parameters) for kind, every in WISHES.items() for parameters in every]
FAULTS = ("away", "deaf", "blind", "loading", "failed", "refused", "lost", "forgotten")
NEEDS_PROOF = ("canary", "shadow", "experiment")


def release(version: int) -> deployment.Release:
    return deployment.Release("m", version, f"sha256:{version:064x}")


def shares_of(wanted: deployment.Wanted | None) -> dict[str, float]:
    return {arm.release.arm: arm.share for arm in wanted.arms} if wanted else {}


class Rollout(stateful.RuleBasedStateMachine):
    """A controller that may die anywhere, its target, and the promises that hold at every step."""

    @stateful.initialize(
        which=st.sampled_from(KINDS),
        first=st.sampled_from([False] * 5 + [True]),
        verdicts=st.sampled_from([("CONTINUE",), ("CONTINUE", "PROMOTE"), ("CONTINUE", "CONTINUE", "ABORT")]),
        faults=st.sampled_from([*((fault,) for fault in FAULTS), (), FAULTS]),
    )
    def begin(
        self, which: tuple[str, dict[str, Any]], first: bool, verdicts: tuple[str, ...], faults: tuple[str, ...]
    ) -> None:
        kind, parameters = which
        self.verdicts, self.faults = verdicts, faults
        self.now = 1000.0
        self.target = memory.Memory(lambda: self.now)
        against = (release(3),) if kind == "experiment" and (parameters.get("shares") or first) else ()
        wished = deployment.Strategy(kind, parameters)
        if kind == "experiment" and not against and parameters.get("shares"):
            wished = deployment.Strategy(kind)
        self.desired = deployment.Desired("m", release(2), wished, against=against, salt="s")
        self.old = None if first else release(1)
        if self.old:
            self.target.apply(deployment.Wanted("m", (deployment.Arm(self.old),)))
        self.state: decide.State | None = None
        self.step: decide.Step | None = None
        self.redo = False

    def cycle(self, verdict: str, crash: str = "") -> None:
        """One turn of the controller; `crash` is where it dies and another one takes over."""
        try:
            observed = self.target.observe("m")
            made = plan.make(self.desired, self.old, number=7)
            state = self.state or decide.start(made, observed, self.now)
            self.state = state
            if self.redo:
                self.redo = False
                self.put(decide.wanted(made, state, observed))
                observed = self.target.observe("m")
        except errors.Unavailable:
            return
        for arm, reason in self.target.refused.items():
            observed.arms[arm] = deployment.ArmState("FAILED", reason)
        judgement = evidence.Judgement(verdict, "7 of 9 bad events fell on it")  # type: ignore[arg-type]
        step = decide.decide(made, state, observed, judgement, self.now)
        assert step == decide.decide(made, state, observed, judgement, self.now)
        self.check(made, state, observed, judgement, step)
        if crash == "before storing":
            return
        self.state = msgspec.json.decode(msgspec.json.encode(step.state), type=decide.State)
        assert self.state == step.state
        self.step = step
        if crash == "before applying":
            self.redo = True
            return
        try:
            self.put(step.wanted)
        except errors.Unavailable:
            self.redo = True

    def put(self, wanted: deployment.Wanted | None) -> None:
        try:
            if wanted is None:
                self.target.remove("m")
            else:
                self.target.apply(wanted)
        except errors.GateRefused:
            pass

    def check(
        self,
        made: plan.Plan,
        before: decide.State,
        observed: deployment.Observed,
        judgement: evidence.Judgement,
        step: decide.Step,
    ) -> None:
        wanted, state = step.wanted, step.state
        assert not step.words[:1].islower(), step.words
        assert step.words.endswith("."), step.words
        assert ".." not in step.words
        assert "  " not in step.words
        assert step.done == (state.phase == "DONE") == bool(step.outcome)
        if wanted is None:
            assert self.old is None
            assert step.outcome == "old"
            return
        given = shares_of(wanted)
        assert abs(sum(given.values()) - 100) < 1e-6
        assert sum(arm.capacity for arm in wanted.arms) >= 100 - 1e-6
        for arm in wanted.arms:
            assert arm.capacity >= arm.share - 1e-6
            new = self.old is not None and arm.release != self.old and not step.done
            if new and arm.share > 0:
                name = arm.release.arm
                had = observed.shares.get(name, 0) > 0
                assert had or (name in observed.shares and observed.arms[name].state == "READY")
        assert not {pin.arm for pin in wanted.pins} - set(given)
        self.check_moves(made, before, observed, judgement, step)

    def check_moves(
        self,
        made: plan.Plan,
        before: decide.State,
        observed: deployment.Observed,
        judgement: evidence.Judgement,
        step: decide.Step,
    ) -> None:
        state, order, given = step.state, self.desired.order, shares_of(step.wanted)
        failed = observed.arms.get("2", deployment.ArmState("ABSENT")).state == "FAILED"
        if before.phase in ("RETURNING", "DONE"):
            assert state.phase in ("RETURNING", "DONE")
            assert state.outcome == ("new" if before.outcome == "new" else state.outcome)
            return
        went_back = state.phase == "RETURNING" or step.outcome == "old"
        if failed or order == "abort" or (judgement.verdict == "ABORT" and order != "promote"):
            assert went_back
        if self.desired.paused and order != "promote" and not went_back:
            assert (state.stage, state.phase) == (before.stage, before.phase) or before.running_at is None
            assert state.phase in ("PREPARING", "RUNNING", "PROMOTING")
            assert (state.phase == "PROMOTING") == (before.phase == "PROMOTING")
        if state.phase == "RETURNING":
            assert self.old is not None
            assert given[self.old.arm] == 100
        if step.outcome == "new":
            assert given == {made.new.arm: 100}
            assert observed.shares[made.new.arm] == 100
        if state.phase == "PROMOTING" != before.phase and order != "promote" and self.old:
            asked = sum(one.counts["2"].admitted for one in observed.segments if "2" in one.counts)
            mirrored = observed.mirrored.compared if observed.mirrored else 0
            assert made.kind not in NEEDS_PROOF or (judgement.verdict == "PROMOTE" and asked + mirrored > 0)
            assert made.kind in ("recreate", "blue_green") or observed.measured

    @stateful.rule(which=st.integers(0, 5), crash=st.sampled_from(["", "", "", "before storing", "before applying"]))
    def turn(self, which: int, crash: str) -> None:
        self.cycle(self.verdicts[which % len(self.verdicts)], crash)

    @stateful.rule(seconds=st.sampled_from([-5.0, 0.5, 30.0, 61.0, 400.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @stateful.rule(turns=st.integers(1, 6))
    def go(self, turns: int) -> None:
        """Undisturbed traffic, a minute at a time."""
        for _ in range(turns):
            self.cycle("CONTINUE")
            self.ask(9)
            self.now += 61

    @stateful.rule(requests=st.integers(0, 50))
    def ask(self, requests: int) -> None:
        if self.target.away:
            return
        shares = self.target.observe("m").shares
        if shares:
            arms = {arm: deployment.Counts(requests, requests) for arm, share in shares.items() if share}
            self.target.count("m", arms)
            self.target.mirror("m", deployment.Mirrored(requests))

    @stateful.rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.desired = msgspec.structs.replace(self.desired, paused=paused)

    @stateful.rule(order=st.sampled_from(["", "", "", "", "promote", "abort"]))
    def order(self, order: str) -> None:
        if order and not self.desired.order:
            self.desired = msgspec.structs.replace(self.desired, order=order)

    @stateful.precondition(lambda self: getattr(self, "faults", ()))
    @stateful.rule(which=st.integers(0, 7), on=st.booleans())
    def happen(self, which: int, on: bool) -> None:
        fault = self.faults[which % len(self.faults)]
        if fault in ("away", "deaf", "blind"):
            setattr(self.target, fault, on)
        elif fault == "loading":
            (self.target.loading.add if on else self.target.loading.discard)("2")
        elif fault in ("failed", "refused"):
            faults: dict[str, str] = getattr(self.target, fault)
            faults.update({"2": "the model is broken"} if on else {})
            if not on:
                faults.clear()
        elif self.old and on:
            (self.target.lose if fault == "lost" else self.target.forget)("m")

    def teardown(self) -> None:
        """When the faults end, so does the rollout, and what runs is what its outcome says."""
        if not hasattr(self, "target"):
            return
        target = self.target
        target.away = target.deaf = target.blind = False
        target.loading.clear()
        target.refused.clear()
        target.failed.clear()
        self.desired = msgspec.structs.replace(self.desired, paused=False)
        for _ in range(60):
            self.cycle("PROMOTE")
            if self.step and self.step.done and not self.redo:
                break
            self.ask(5)
            self.now += 3700
        assert self.step is not None
        assert self.step.done
        assert self.state is not None
        self.put(self.step.wanted)
        end = release(2) if self.step.outcome == "new" else self.old
        assert target.observe("m").shares == ({end.arm: 100.0} if end else {})


Rollout.TestCase.settings = hypothesis.settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestRollout = Rollout.TestCase
