"""The controller's hands: what it does to targets, and what it sees of them.

Used by `deployments.py`. Must never do anything to a target without the lead, nor decide what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from windlass import errors
from windlass.controller import feedback, lead
from windlass.records import rollouts
from windlass.targets import base
from windlass.types import deployment

# A release that cannot be run, or not so, however often it is tried.
_REFUSALS = (
    errors.GateRefused,
    errors.CorruptPackage,
    errors.NotAllowed,
    errors.NotFound,
    errors.Unsupported,
    errors.UsageError,
)


class Hands:
    """All targets of one controller. `told` adds to what is seen what people said of it afterwards."""

    def __init__(
        self,
        leading: lead.Lead,
        targets: Mapping[str, base.Target],
        told: feedback.Feedback,
        clock: Callable[[], float],
    ) -> None:
        self._lead = leading
        self._targets = targets
        self._told = told
        self._clock = clock
        # By deployment: what was applied last, and why the target would not.
        self._applied: dict[str, deployment.Wanted | None] = {}
        self._refused: dict[str, errors.WindlassError] = {}

    def seen(self, wish: deployment.Desired) -> deployment.Observed:
        """What runs; where the target does not answer, that nothing is known."""
        try:
            return self._target(wish).observe(wish.name)
        except errors.Unavailable:
            return deployment.Observed(self._clock(), measured=False)

    def measured(self, wish: deployment.Desired, under_way: rollouts.Rollout) -> deployment.Observed:
        """What runs and what came of it, with what was told of it afterwards; `Unavailable` as `observe`."""
        target = self._target(wish)
        observed = target.observe(wish.name)
        if wish.name in self._refused:
            refusal = self._refused[wish.name]
            failed = deployment.ArmState("FAILED", refusal.message)
            # What is asked of a release may be wrong for it though it is ready, such as to share requests.
            arms = {
                release.arm: failed
                for release in (under_way.new, *under_way.against)
                if isinstance(refusal, errors.UsageError)
                or release.arm not in observed.arms
                or observed.arms[release.arm].state != "READY"
            }
            observed = msgspec.structs.replace(observed, arms=observed.arms | arms)
        return self._told.scores(target, wish.name, observed, under_way.started_at)

    def labelled(
        self, wish: deployment.Desired, under_way: rollouts.Rollout, observed: deployment.Observed
    ) -> deployment.Observed:
        """What was observed with who was right about the mirrored requests that have a label."""
        return self._told.labelled(self._target(wish), under_way, observed)

    def apply(self, wish: deployment.Desired, wanted: deployment.Wanted | None) -> bool:
        """Make it so, if we still lead; whether there is something new to look at. None: nothing is to run.

        A target that refuses goes on with what it had: that a release cannot be loaded is for the rollout to know, and
        is raised only where it is known already.
        """
        name, target = wish.name, self._target(wish)
        self._lead.check()
        before = self._applied.get(name)
        self._applied[name] = wanted
        try:
            if wanted is None:
                target.remove(name)
            else:
                target.apply(wanted)
        except _REFUSALS as e:
            if name in self._refused:
                raise
            self._refused[name] = e
            return True
        self._refused.pop(name, None)
        return wanted != before

    def refused(self, name: str) -> bool:
        """Whether the target would not do what it was told last."""
        return name in self._refused

    def late(self, wish: deployment.Desired) -> None:
        """Join what people said after the last rollout ended."""
        self._told.late(self._target(wish), wish.name)

    def remove(self, wish: deployment.Desired) -> None:
        """Run it no more, and forget it."""
        self.apply(wish, None)
        self._told.forget(wish.name)
        self._applied.pop(wish.name, None)

    def _target(self, wish: deployment.Desired) -> base.Target:
        if wish.target not in self._targets:
            raise errors.NotFound(f"there is no target '{wish.target}' here: {', '.join(sorted(self._targets))}.")
        return self._targets[wish.target]
