"""What a target is to run at one stage of a rollout, and whether it does.

Called by `decide.py`. Must never give a share to a release that is not READY.
"""

from __future__ import annotations

import math

import msgspec

from windlass.rollout import plan as plans
from windlass.rollout.strategies import base
from windlass.types import deployment

# Shares are decimal fractions: what is in force may differ by the rounding of floats.
_ROUNDING = 1e-6
_ABSENT = deployment.ArmState("ABSENT")


def state_of(release: deployment.Release, observed: deployment.Observed) -> deployment.ArmState:
    """What the target says of a release; ABSENT if it says nothing."""
    return observed.arms.get(release.arm, _ABSENT)


def ready(release: deployment.Release, observed: deployment.Observed) -> bool:
    """Whether it could be given requests now: READY, and an arm of the endpoint already, be it with no share."""
    return state_of(release, observed).state == "READY" and release.arm in observed.shares


def alone(plan: plans.Plan, release: deployment.Release | None) -> deployment.Wanted | None:
    """One release with all requests, and nothing of the strategy; None where there is none."""
    if release is None:
        return None
    return deployment.Wanted(
        name=plan.name, arms=(deployment.Arm(release),), salt=plan.salt, epoch=plan.number, serving=plan.serving
    )


def returning(plan: plans.Plan, observed: deployment.Observed, slow_ms: float) -> deployment.Wanted | None:
    """All requests to the old release. What else is loaded stays so, so that only shares change: that is fastest."""
    if plan.old is None:
        return None
    warm = tuple(deployment.Arm(r, share=0.0) for r in plan.candidates if ready(r, observed))
    return _wanted(plan, (deployment.Arm(plan.old), *warm), base.Stage(), slow_ms)


def staged(
    plan: plans.Plan, stage: base.Stage, observed: deployment.Observed, slow_ms: float
) -> deployment.Wanted | None:
    """The shares of a stage; as long as a release that should get some is not READY, all candidates are only loaded."""
    if plan.old is None:
        return alone(plan, plan.new)
    if stage.mirror:
        return _wanted(plan, (deployment.Arm(plan.old),), stage, slow_ms)
    given = zip(plan.candidates, stage.shares, strict=True)
    safe = all(not share or ready(r, observed) or observed.shares.get(r.arm, 0.0) > 0 for r, share in given)
    shares = stage.shares if safe else tuple(0.0 for _ in stage.shares)
    arms = (
        deployment.Arm(plan.old, _rest(shares), stage.old_capacity if safe else 100.0),
        *(deployment.Arm(r, share, stage.capacity) for r, share in zip(plan.candidates, shares, strict=True)),
    )
    return _wanted(plan, arms, stage, slow_ms)


def in_force(plan: plans.Plan, stage: base.Stage, observed: deployment.Observed) -> bool:
    """Whether a stage's shares are those of the target, and every release that it takes is READY."""
    if stage.mirror:
        return state_of(plan.new, observed).state == "READY"
    if plan.old is None:
        return ready(plan.new, observed) and _all(plan.new, observed)
    return all(
        ready(r, observed) and math.isclose(observed.shares[r.arm], share, abs_tol=_ROUNDING)
        for r, share in zip(plan.candidates, stage.shares, strict=True)
    ) and math.isclose(observed.shares.get(plan.old.arm, 0.0), _rest(stage.shares), abs_tol=_ROUNDING)


def back(plan: plans.Plan, observed: deployment.Observed) -> bool:
    """Whether the old release has all requests; where there is none, there is nothing to go back to."""
    return plan.old is None or _all(plan.old, observed)


def asked(plan: plans.Plan, stage: base.Stage, observed: deployment.Observed, began: int) -> int:
    """How many requests the least asked candidate of a stage was asked, under later weights than `began`."""
    counts = [segment.counts for segment in observed.segments if segment.generation > began]
    return min(
        sum(arms[release.arm].admitted for arms in counts if release.arm in arms)
        for release, share in zip(plan.candidates, stage.shares, strict=True)
        if share or not any(stage.shares)
    )


def since(before: deployment.Mirrored, mirrored: deployment.Mirrored | None) -> deployment.Mirrored:
    """What a mirror compared after `before`. Where the target lost counts, all that it has is new."""
    now = msgspec.structs.astuple(mirrored or deployment.Mirrored())
    more = [a - b for a, b in zip(now, msgspec.structs.astuple(before), strict=True)]
    return deployment.Mirrored(*(now if min(more) < 0 else more))


def _rest(shares: tuple[float, ...]) -> float:
    return round(100.0 - sum(shares), 6)


def _all(release: deployment.Release, observed: deployment.Observed) -> bool:
    return math.isclose(observed.shares.get(release.arm, 0.0), 100.0, abs_tol=_ROUNDING)


def _wanted(plan: plans.Plan, arms: tuple[deployment.Arm, ...], stage: base.Stage, slow_ms: float) -> deployment.Wanted:
    course, names = plan.course, {arm.release.arm for arm in arms}
    mirror = deployment.Mirror(plan.new, stage.mirror, course.atol, course.rtol) if stage.mirror else None
    return deployment.Wanted(
        name=plan.name,
        arms=arms,
        mirror=mirror,
        sticky=course.sticky,
        salt=plan.salt,
        slow_ms=slow_ms,
        epoch=plan.number,
        override=course.override,
        pins=tuple(pin for pin in course.pins if pin.arm in names),
        serving=plan.serving,
    )
