"""What one rollout is to do, fixed before it starts: its releases, and the course that its strategy stands for.

Made by the controller from the stored wish, and by previews. Must never look at what came of it: that is `decide.py`.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from windlass import errors, plugins
from windlass.rollout import forecast
from windlass.rollout.strategies import base
from windlass.types import deployment


class Plan(msgspec.Struct, frozen=True):
    """One rollout. `old` is None where nothing was live before. `number` is the rollout's, in its deployment.

    `paused` and `order` are people's words at this moment, `unusable` says why one of its releases may not run any
    more (it was revoked, say); all else stays as it is while the rollout lasts.
    """

    name: str
    new: deployment.Release
    old: deployment.Release | None
    against: tuple[deployment.Release, ...]
    course: base.Course
    kind: str = "recreate"
    number: int = 0
    salt: str = ""
    serving: deployment.Serving = deployment.Serving()
    paused: bool = False
    order: str = ""
    unusable: str = ""

    @property
    def candidates(self) -> tuple[deployment.Release, ...]:
        """The releases beside the old one, in the order of a stage's shares."""
        return (self.new, *self.against)


def strategy_of(wished: deployment.Strategy) -> base.Strategy:
    """The strategy with its parameters checked; `UsageError` names the nearest kind or parameter."""
    try:
        kind: type[base.Strategy] = plugins.load("strategies", wished.kind)
    except errors.NotFound as e:
        raise errors.UsageError(e.message, hint=e.hint) from None
    known = kind.__struct_fields__
    for name in wished.parameters:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise errors.UsageError(
                f"{wished.kind} has no parameter '{name[:64]}'.",
                hint=f"Did you mean '{close[0]}'?" if close else f"It has {', '.join(sorted(known))}.",
            )
    try:
        return msgspec.convert(wished.parameters, kind)
    except msgspec.ValidationError as e:
        at = re.search(r"`\$\.([^`]*)`", str(e))
        what = str(e).split(" - at ")[0].lower()
        raise errors.UsageError(f"{wished.kind}'s {at.group(1) if at else 'parameters'}: {what}.") from None


def make(desired: deployment.Desired, old: deployment.Release | None, *, number: int = 1) -> Plan:
    """The plan to bring a deployment from `old`, which is live, to what is desired.

    Where nothing is live, or the same bytes are, there is nothing to compare: then whatever the strategy, the new one
    is loaded and gets all requests. `UsageError` as `strategy_of`, and for releases that the strategy cannot take.
    """
    strategy = strategy_of(desired.strategy)
    candidates = (desired.release, *desired.against)
    course = strategy.course(len(candidates))
    arms = [release.arm for release in (*candidates, old) if release is not None]
    if old is not None and old.digest == desired.release.digest and old.arm == desired.release.arm:
        old = None
        arms.pop()
    if len(set(arms)) != len(arms):
        raise errors.UsageError(
            f"the rollout of '{desired.name}' names version {max(set(arms), key=arms.count)} twice.",
            hint="Give each release once; the live one is part of every comparison already.",
        )
    if old is None:
        course = base.Course((base.Stage(),), ready_s=course.ready_s)
    return Plan(
        name=desired.name,
        new=desired.release,
        old=old,
        against=desired.against if old else (),
        course=course,
        kind=desired.strategy.kind,
        number=number,
        salt=desired.salt,
        serving=desired.serving,
        paused=desired.paused,
        order=desired.order,
    )


def explain(plan: Plan) -> tuple[str, ...]:
    """The steps in words, one sentence each, with their shares and least times."""
    course, new = plan.course, f"version {plan.new.arm}"
    said = [f"Load {_listed(plan)}, for at most {span(course.ready_s)}: no requests before it is verified and warm."]
    for before, stage in zip((None, *course.stages), course.stages, strict=False):
        if before is not None and stage.shares == before.shares and stage.mirror == before.mirror:
            continue
        held = f" for at least {span(stage.hold_s)}" if stage.hold_s else ""
        needs = ", until there is a verdict" if stage.proven else " and while it is asked" if stage.asked else ""
        if stage.mirror:
            said.append(f"Mirror {stage.mirror:g} % of the requests to {new}, unseen{held}{needs}.")
        elif any(stage.shares):
            shares = ", ".join(
                f"{share:g} % to version {release.arm}"
                for share, release in zip(stage.shares, plan.candidates, strict=True)
            )
            said.append(f"Send {shares}{held}{needs}.")
    if plan.old is None:
        return (*said, f"Send all requests to {new}: there is nothing to compare with.")
    old = f"version {plan.old.arm}"
    if course.early_s is not None:
        said.append(f"Proof of no harm sends all requests to {new} after {span(course.early_s)} with requests.")
    if course.guard or course.mirror_guard:
        said.append(f"Evidence of harm sends all requests back to {old} at once, at any step.")
    if course.max_s:
        said.append(f"If it has not ended after {span(course.max_s)} with requests, {old} stays (inconclusive).")
    if course.ends == "old":
        return (*said, f"At the end {old} has all requests, whatever was found.")
    kept = f"; {old} stays loaded for {span(course.keep_s)}" if course.keep_s else ""
    return (*said, f"At the end {new} has all requests{kept}.")


def expect(plan: Plan, *, rate: float, bad: float, regression: float = 3.0) -> forecast.Forecast | None:
    """How long to a verdict with `rate` requests a second, of which `bad` (of 1) end badly at the old release.

    None where the strategy asks for no evidence from requests.
    """
    course = plan.course
    steps = [(stage.shares[0], stage.hold_s) for stage in course.stages if stage.shares[0] > 0]
    if course.guard is None or not steps or steps[-1][0] >= 100:
        return None
    return forecast.expect(
        course.guard, steps, rate=rate, errors=bad, regression=regression, horizon_s=course.max_s or base.DAY_S
    )


def span(seconds: float) -> str:
    """`90 s`, `5 min`, `36 h`, `14 days`: the largest unit that leaves no part, but two days at least are days."""
    for unit, name in ((base.DAY_S, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _listed(plan: Plan) -> str:
    return " and ".join(f"version {release.arm}" for release in plan.candidates)
