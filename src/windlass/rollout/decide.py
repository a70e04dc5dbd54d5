"""The one state machine of all rollouts: from what was seen and judged to what is wanted next.

Called by the controller after each look at the target, and by simulations. Must never look at a clock, a store or a
target, never send a request to a release that is not READY, and never take silence for success.

    PREPARING --all READY--> RUNNING --last stage passed, or proof--> PROMOTING --in force, kept long enough--> DONE new
        |                       |                                        |
        +----failed, late-------+---harm, failed, abort, inconclusive----+----> RETURNING --in force--> DONE old

A person's `promote` leads from PREPARING (once READY) and RUNNING to PROMOTING, against any evidence but not with a
release that fails or was revoked; `abort` leads back from everywhere but DONE. Paused, nothing goes on, but harm still
goes back: who pauses wants to look, not to harm. RETURNING is never left: whoever still wants the new release deploys
it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from windlass.rollout import evidence, wanting
from windlass.rollout import plan as plans
from windlass.rollout.strategies import base
from windlass.types import deployment

replace = msgspec.structs.replace
Verdict = Literal["", "CONTINUE", "PROMOTE", "ABORT", "INCONCLUSIVE"]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a rollout remembers; stored as JSON between two looks (`msgspec.to_builtins`, `msgspec.convert`).

    It is equal to the one before as long as nothing happens, so that it need not be stored again. Fixed at the start:
    `began` is the generation of the weights until then (None: the counts were not to be had; it is fixed when they
    are, before any share is given), `mirrored` what any mirror had compared. `slow_ms` is the
    threshold of slow answers, fixed at the start or once it can be told, and `slow_from` the generation until then: the
    counts of those above it were made with it. `since` is when the present step came in force (`in_force`) or is waited
    for, `running_at` when a candidate was first asked. `asked` is how many requests the least asked candidate had been
    asked when the step came in force. `verdict` and `words` say why it ends, `failed` that a release could not be run.
    """

    phase: Literal["PREPARING", "RUNNING", "PROMOTING", "RETURNING", "DONE"] = "PREPARING"
    stage: int = 0
    began: int | None = 0
    mirrored: deployment.Mirrored = deployment.Mirrored()
    slow_ms: float = 0.0
    slow_from: int = 0
    in_force: bool = False
    since: float = 0.0
    running_at: float | None = None
    paused_at: float | None = None
    asked: int = 0
    outcome: Literal["", "new", "old"] = ""
    verdict: Verdict = ""
    failed: bool = False
    words: str = ""


class Step(msgspec.Struct, frozen=True):
    """What is to be stored (`state`) and applied (`wanted`), and what is said of it.

    `wanted` None: nothing is to run, for the first release of a deployment could not be run. `done`: the rollout is
    over when `wanted` is in force, and `outcome` says whether at the new release or at the old. `verdict` is what the
    evidence says; empty where it was not asked: a person ordered it, a release failed, or the strategy asks for none.
    """

    state: State
    wanted: deployment.Wanted | None
    phase: deployment.Phase
    verdict: Verdict
    words: str
    done: bool = False
    outcome: Literal["", "new", "old"] = ""


def start(plan: plans.Plan, observed: deployment.Observed, now: float) -> State:
    """The state of a rollout that begins now. `observed` is what runs before it: from it come what is fixed."""
    mirrored = observed.mirrored or deployment.Mirrored()
    return _threshold(plan, State(began=_began(observed), mirrored=mirrored, since=now), observed)


def _began(observed: deployment.Observed) -> int | None:
    """The newest generation whose counts are no part of a rollout that begins with this look."""
    known = (observed.generation, *(segment.generation for segment in observed.segments))
    return max(known) if observed.measured else None


def _threshold(plan: plans.Plan, state: State, observed: deployment.Observed) -> State:
    """The state with the threshold of slow answers, as soon as the old release's answers tell it; never another."""
    if state.slow_ms or plan.course.guard is None or plan.old is None:
        return state
    slow = evidence.slow_ms(plan.course.guard, plan.old.arm, observed)
    return replace(state, slow_ms=slow, slow_from=observed.generation) if slow else state


def judge(plan: plans.Plan, state: State, observed: deployment.Observed) -> evidence.Judgement:
    """What the evidence says at this step of the course, over all its candidates: harm by any, or proof for the new.

    Where several are compared, the course's guard has their part of alpha.
    """
    stage = plan.course.stages[state.stage]
    guard = plan.course.mirror_guard if stage.mirror else plan.course.guard
    if guard is None or plan.old is None or state.running_at is None or state.began is None:
        return evidence.Judgement("CONTINUE", "")
    guard = replace(guard, slow_ms=state.slow_ms)
    observed = replace(observed, mirrored=wanting.since(state.mirrored, observed.mirrored))
    old = plan.old.arm
    each = [
        evidence.judge(guard, old, release.arm, observed, state.began, state.slow_from) for release in plan.candidates
    ]
    if len(each) == 1:
        return each[0]
    harm = [one for one in each if one.verdict == "ABORT"]
    return evidence.Judgement(
        verdict=harm[0].verdict if harm else each[0].verdict,
        words=" ".join(one.words for one in harm or each),
        findings=tuple(finding for one in each for finding in one.findings),
        harmed=sum(one.harmed for one in each),
    )


def heeds_labels(plan: plans.Plan, state: State) -> bool:
    """Whether the labels of mirrored requests (`Observed.labelled`) have a say at this step of the course."""
    guard = plan.course.mirror_guard
    return plan.course.stages[state.stage].mirror > 0 and guard is not None and guard.labels


def decide(
    plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement, now: float
) -> Step:
    """The next step. The controller stores `state`, applies `wanted`, looks, and asks again: at once if it changed.

    After a crash it applies what the stored state wants (`wanted`) and goes on. A release that the target refused to
    load is told as an arm that FAILED, with the reason.
    """
    after = _after(plan, state, observed, judgement, now)
    return Step(
        state=after,
        wanted=wanted(plan, after, observed),
        phase=_phase(after),
        verdict=after.verdict or (judgement.verdict if after.phase == "RUNNING" and _judged(plan, after) else ""),
        words=_words(plan, after, observed, judgement),
        done=after.phase == "DONE",
        outcome=after.outcome,
    )


def wanted(plan: plans.Plan, state: State, observed: deployment.Observed) -> deployment.Wanted | None:
    """What the target is to run in this state: the same for the same state, but for releases that are not READY yet."""
    if state.phase == "DONE":
        return wanting.alone(plan, plan.new if state.outcome == "new" else plan.old)
    if state.phase == "RETURNING":
        return wanting.returning(plan, observed, state.slow_ms)
    return wanting.staged(plan, _stage(plan, state), observed, state.slow_ms)


def _phase(state: State) -> deployment.Phase:
    """What a deployment's status says of it."""
    if state.phase == "DONE":
        return "FAILED" if state.failed else "LIVE"
    return "PAUSED" if state.paused_at is not None else state.phase


def _after(
    plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement, now: float
) -> State:
    """The state after one look: at most one arrow of the picture above, and from RETURNING at once to its end."""
    if state.phase == "DONE":
        return state
    if state.phase != "RETURNING":
        state = _looked(plan, _pause(plan, state, now), observed, now)
        returned = _returned(plan, state, observed, judgement, now)
        if returned is None:
            return state if state.paused_at is not None else _onward(plan, state, observed, judgement, now)
        state = returned
    return replace(state, phase="DONE", outcome="old") if wanting.back(plan, observed) else state


def _pause(plan: plans.Plan, state: State, now: float) -> State:
    """While paused no time passes: what was to be held is held as long again."""
    paused = plan.paused and plan.order != "promote"
    if paused:
        return state if state.paused_at is not None else replace(state, paused_at=now)
    if state.paused_at is None:
        return state
    lost = max(0.0, now - state.paused_at)
    running = None if state.running_at is None else min(now, state.running_at + lost)
    return replace(state, paused_at=None, since=min(now, state.since + lost), running_at=running)


def _looked(plan: plans.Plan, state: State, observed: deployment.Observed, now: float) -> State:
    """Whether the present step is in force, since when, and how much its candidates had been asked by then."""
    if state.began is None:
        mirrored = observed.mirrored or state.mirrored
        state = replace(state, began=_began(observed), mirrored=mirrored)
    state, stage = _threshold(plan, state, observed), _stage(plan, state)
    force = wanting.in_force(plan, stage, observed)
    asked = _asked(plan, state, observed)
    if force != state.in_force:
        state = replace(state, in_force=force, since=now, asked=asked)
    elif asked < state.asked:
        # The target lost counts: those that come from now on are new all the same.
        state = replace(state, asked=asked)
    if force and state.running_at is None and (stage.mirror or any(stage.shares)):
        return replace(state, running_at=now, phase="RUNNING" if state.phase == "PREPARING" else state.phase)
    return state


def _returned(
    plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement, now: float
) -> State | None:
    """The state that goes back, and why; None where nothing speaks for it."""
    if plan.unusable:
        return _to(state, now, "RETURNING", _sentence(plan.unusable), failed=True)
    if plan.order == "abort":
        return _to(state, now, "RETURNING", "A person ordered to abort.")
    for release in plan.candidates if state.phase != "PROMOTING" else (plan.new,):
        found = wanting.state_of(release, observed)
        said = f"Version {release.arm}"
        if found.state == "FAILED":
            why = f": {found.reason}" if found.reason else ""
            return _to(state, now, "RETURNING", _sentence(f"{said} failed{why}"), failed=True)
        # Where the old one is gone too it was the target that lost them; both are loaded again.
        kept = plan.old is not None and wanting.state_of(plan.old, observed).state == "READY"
        if found.state == "ABSENT" and state.running_at is not None and kept:
            return _to(state, now, "RETURNING", f"{said} is gone from the target while it was in use.", failed=True)
        late = not state.in_force and found.state != "READY" and now - state.since > plan.course.ready_s
        if late and state.paused_at is None:
            within = plans.span(plan.course.ready_s)
            return _to(state, now, "RETURNING", f"{said} was not ready within {within}.", failed=True)
    unknown = state.phase == "PREPARING" and plan.course.guard is not None and not observed.measured
    if unknown and now - state.since > plan.course.ready_s and state.paused_at is None:
        return _to(state, now, "RETURNING", "The counts of requests are not to be had.", verdict="INCONCLUSIVE")
    if judgement.verdict == "ABORT" and plan.order != "promote":
        return _to(state, now, "RETURNING", _sentence(judgement.words), verdict="ABORT")
    return None


def _onward(
    plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement, now: float
) -> State:
    """The state that goes on, where the present step is passed."""
    course, stage = plan.course, _stage(plan, state)
    if state.phase == "PROMOTING":
        kept = state.in_force and now - state.since >= course.keep_s
        return replace(state, phase="DONE", outcome="new") if kept else state
    if plan.order == "promote" and (state.phase == "RUNNING" or wanting.ready(plan.new, observed)):
        against = f", against the evidence: {judgement.words}." if judgement.verdict == "ABORT" else "."
        return _to(state, now, "PROMOTING", f"A person ordered to promote{against}")
    proof = _proof(plan, state, observed, judgement)
    passed = (
        state.in_force
        and now - state.since >= stage.hold_s
        and (observed.measured or not _judged(plan, state))
        and (not stage.asked or _asked(plan, state, observed) > state.asked)
        and (proof or not stage.proven)
    )
    running_s = 0.0 if state.running_at is None else now - state.running_at
    early = proof and not stage.mirror and course.early_s is not None and running_s >= course.early_s
    if early or (passed and state.stage + 1 == len(course.stages)):
        return _ended(plan, state, judgement, now)
    if passed:
        # What follows a mirror is a new comparison, with requests of its own.
        begun = {"running_at": None, "phase": "PREPARING"} if stage.mirror else {}
        return replace(state, stage=state.stage + 1, in_force=False, since=now, **begun)
    if course.max_s and running_s >= course.max_s:
        said = (f"Not at its end within {plans.span(course.max_s)}.", *_doubts(plan, state, observed, judgement))
        return _to(state, now, "RETURNING", " ".join(said), verdict="INCONCLUSIVE")
    return state


def _ended(plan: plans.Plan, state: State, judgement: evidence.Judgement, now: float) -> State:
    """Where the course leads once it is passed, and on what grounds."""
    stage = _stage(plan, state)
    proven = judgement.verdict == "PROMOTE" and (stage.proven or plan.course.early_s is not None)
    said = _sentence(judgement.words) if proven else "All steps passed."
    if plan.old is None:
        said = "There is nothing to compare it with."
    verdict: Verdict = "PROMOTE" if proven else ""
    if plan.course.ends == "old":
        return _to(state, now, "RETURNING", f"{said} This was a trial.", verdict=verdict)
    return _to(state, now, "PROMOTING", said, verdict=verdict)


def _to(
    state: State,
    now: float,
    phase: Literal["PROMOTING", "RETURNING"],
    words: str,
    *,
    verdict: Verdict = "",
    failed: bool = False,
) -> State:
    """The state that leaves the course for one of the two ends."""
    return replace(
        state, phase=phase, in_force=False, since=now, paused_at=None, words=words, verdict=verdict, failed=failed
    )


def _stage(plan: plans.Plan, state: State) -> base.Stage:
    """What is to be in force: the stage of the course, or all requests for the new release."""
    stage = plan.course.stages[state.stage]
    if state.phase != "PROMOTING":
        return stage
    return base.Stage((100.0, *(0.0 for _ in plan.against)), old_capacity=plan.course.stages[-1].old_capacity)


def _asked(plan: plans.Plan, state: State, observed: deployment.Observed) -> int:
    """How many requests of this rollout its least asked candidate was asked, or had mirrored to it."""
    stage = _stage(plan, state)
    if stage.mirror:
        return wanting.since(state.mirrored, observed.mirrored).compared
    return 0 if state.began is None else wanting.asked(plan, stage, observed, state.began)


def _judged(plan: plans.Plan, state: State) -> bool:
    """Whether evidence has a say at the present stage."""
    mirrored = plan.course.stages[state.stage].mirror
    return (plan.course.mirror_guard if mirrored else plan.course.guard) is not None


def _proof(plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement) -> bool:
    """Whether the verdict PROMOTE stands on something: known counts, and requests of every candidate."""
    counted = _asked(plan, state, observed) > 0
    return judgement.verdict == "PROMOTE" and state.in_force and observed.measured and counted


def _doubts(plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement) -> list[str]:
    """What the evidence says, or what keeps it from speaking."""
    if not state.in_force:
        return ["This step is not in force yet."]
    if not observed.measured:
        return ["The counts of requests are not known, so nothing is concluded."]
    idle = _stage(plan, state).asked and _asked(plan, state, observed) <= state.asked
    found = ["No request at this step."] if idle else []
    return [*found, _sentence(judgement.words)] if judgement.words else found


def _words(plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement) -> str:
    """What happens and why, for people: one or two sentences with their numbers."""
    new, old = f"version {plan.new.arm}", f"version {plan.old.arm}" if plan.old else ""
    if state.phase == "DONE":
        has = new if state.outcome == "new" else old
        return f"{state.words} {_capital(has)} has all requests." if has else f"{state.words} Nothing runs."
    if state.phase == "RETURNING":
        return f"{state.words} All requests go back to {old}."
    if state.phase == "PROMOTING":
        stays = f"; {old} stays loaded for {plans.span(plan.course.keep_s)}" if old and plan.course.keep_s else ""
        done = f"{_capital(new)} has all requests{stays}." if state.in_force else f"All requests go to {new}."
        said = f"{state.words} {done}"
    elif state.phase == "PREPARING":
        loading = " and ".join(f"version {release.arm}" for release in plan.candidates)
        then = f"; {old} has all requests" if old else ""
        ordered = " A person ordered to promote it: once it is ready." if plan.order == "promote" else ""
        said = f"{_capital(loading)} is being loaded{then}.{ordered}"
    else:
        said = " ".join((_share(plan, state), *_doubts(plan, state, observed, judgement)))
    return f"Paused by a person. {said}" if state.paused_at is not None else said


def _share(plan: plans.Plan, state: State) -> str:
    stage = _stage(plan, state)
    if stage.mirror:
        return f"Version {plan.new.arm} is asked {stage.mirror:g} % of the requests too, unseen."
    has = " and ".join(
        f"version {release.arm} has {share:g} % of the requests"
        for release, share in zip(plan.candidates, stage.shares, strict=True)
    )
    rungs: list[Sequence[float]] = list(dict.fromkeys(one.shares for one in plan.course.stages if any(one.shares)))
    step = f" (step {rungs.index(stage.shares) + 1} of {len(rungs)})" if stage.shares in rungs else ""
    return f"{_capital(has)}{step}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _sentence(words: str) -> str:
    return f"{_capital(words).rstrip('.')}."
