"""The one state machine of all rollouts: from what was seen and judged to what is wanted next.

Called by the controller after each look at the target, and by simulations. Must never look at a clock, a store or a
target, and never send a request to a release that is not READY.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from windlass.rollout import evidence
from windlass.rollout import plan as plans
from windlass.types import deployment

Verdict = Literal["", "CONTINUE", "PROMOTE", "ABORT", "INCONCLUSIVE"]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a rollout remembers; stored as JSON between two looks (`msgspec.to_builtins`, `msgspec.convert`).

    It is equal to the one before as long as nothing happens, so that it need not be stored again. `began` is the
    generation of the weights before the start, `slow_ms` the threshold of slow answers, fixed at the start. `since` is
    when the present step was first seen in force, `running_at` when a candidate was first asked. `asked` is how many
    requests each candidate had been asked when the stage began. `verdict` and `words` say why it ends.
    """

    phase: Literal["PREPARING", "RUNNING", "PROMOTING", "RETURNING", "DONE"] = "PREPARING"
    stage: int = 0
    began: int = 0
    slow_ms: float = 0.0
    started_at: float = 0.0
    since: float | None = None
    running_at: float | None = None
    paused_at: float | None = None
    asked: tuple[int, ...] = ()
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
    raise NotImplementedError


def judge(plan: plans.Plan, state: State, observed: deployment.Observed) -> evidence.Judgement:
    """What the evidence says at this step of the course, over all its candidates: harm by any, or proof for the new."""
    raise NotImplementedError


def decide(
    plan: plans.Plan, state: State, observed: deployment.Observed, judgement: evidence.Judgement, now: float
) -> Step:
    """The next step. The controller stores `state`, applies `wanted`, looks, and asks again: at once if it changed.

    After a crash it applies what the stored state wanted (`wanted`) and goes on. A release that the target refused to
    load is told as an arm that FAILED, with the reason. Deciding twice from the same look changes nothing more.
    """
    raise NotImplementedError


def wanted(plan: plans.Plan, state: State, observed: deployment.Observed) -> deployment.Wanted | None:
    """What the target is to run in this state: the same for the same state, but for releases that are not READY yet."""
    raise NotImplementedError
