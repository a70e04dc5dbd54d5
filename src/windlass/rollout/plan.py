"""What one rollout is to do, fixed before it starts: its releases, and the course that its strategy stands for.

Made by the controller from the stored wish, and by previews. Must never look at what came of it: that is `decide.py`.
"""

from __future__ import annotations

import msgspec

from windlass.rollout.strategies import base
from windlass.types import deployment


class Plan(msgspec.Struct, frozen=True):
    """One rollout. `old` is None where nothing was live before. `number` is the rollout's, in its deployment.

    `paused` and `order` are people's words at this moment, all else stays as it is while the rollout lasts.
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


def strategy_of(wished: deployment.Strategy) -> base.Strategy:
    """The strategy with its parameters checked; `UsageError` names the nearest kind or parameter."""
    raise NotImplementedError


def make(desired: deployment.Desired, old: deployment.Release | None, *, number: int = 1) -> Plan:
    """The plan to bring a deployment from `old`, which is live, to what is desired.

    Where nothing is live, or the same release is, there is nothing to compare: then whatever the strategy, the new one
    is loaded and gets all requests. `UsageError` as `strategy_of`.
    """
    raise NotImplementedError


def explain(plan: Plan) -> tuple[str, ...]:
    """The steps in words, one sentence each, with their shares and least times."""
    raise NotImplementedError
