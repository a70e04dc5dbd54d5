"""What every strategy is: parameters that were checked, and the course of stages that they stand for.

Implemented by each file beside this one; `plan.py` reads the parameters, `decide.py` follows the course. Must never
decide: a course is fixed before the rollout starts.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from windlass import errors
from windlass.rollout import evidence
from windlass.types import spec

DAY_S = 86_400.0


class Stage(msgspec.Struct, frozen=True):
    """One step of a course. It is passed when its shares are in force, every arm is READY, and all that it asks holds.

    `shares` are the candidates' parts of the requests in percent, the new release's first; the old one has the rest.
    `capacity` is which part of the load the candidates must be able to carry, `old_capacity` the old release.
    `mirror` is the percentage of requests that the new release is asked too, unseen; then it has no share.
    `hold_s` is the least time in force. `asked`: the candidates must have been asked since the stage began, and the
    counts must be known. `proven`: only the verdict PROMOTE passes it.
    """

    shares: tuple[float, ...] = (0.0,)
    hold_s: float = 0.0
    capacity: float = 100.0
    old_capacity: float = 100.0
    mirror: float = 0.0
    asked: bool = False
    proven: bool = False


class Course(msgspec.Struct, frozen=True):
    """All that the one state machine needs to know of a strategy.

    No release gets requests before it is READY, whatever the first stage says; loading may take `ready_s`. `guard`
    judges the requests, `mirror_guard` the mirrored ones (None: nothing is judged). `ends` is where the traffic goes
    after the last stage. Where `early_s` is given, the verdict PROMOTE ends the course after that time with requests,
    whichever the stage. After `max_s` with requests (0: never) it ends INCONCLUSIVE, at the old release. The old
    release stays loaded for `keep_s` after the new one has all requests. `sticky`, `override`, `pins`: `spec.Endpoint`.
    """

    stages: tuple[Stage, ...]
    guard: evidence.Guard | None = None
    mirror_guard: evidence.Guard | None = None
    ends: Literal["new", "old"] = "new"
    ready_s: float = 1800.0
    early_s: float | None = None
    max_s: float = 0.0
    keep_s: float = 0.0
    sticky: str = ""
    override: bool = False
    pins: tuple[spec.Pin, ...] = ()


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Parameters of one strategy; values that no course can follow are `UsageError`.

    `ready_s`: how long a release may take to be loaded, verified and warm. `keep_s`: how long the old one stays loaded
    after the new one has all requests, so that the way back takes no loading.
    """

    ready_s: float = 1800.0
    keep_s: float = 0.0

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """`UsageError` for a parameter out of range."""
        within("ready_s", self.ready_s, 1, 7 * DAY_S)
        within("keep_s", self.keep_s, 0, 30 * DAY_S)

    def course(self, candidates: int = 1) -> Course:
        """What these parameters stand for, with so many releases beside the old one."""
        raise NotImplementedError


def within(name: str, value: float, least: float, most: float) -> None:
    """`UsageError` naming the parameter if a number is not within its bounds (both included)."""
    if not (math.isfinite(value) and least <= value <= most):
        raise errors.UsageError(f"the strategy's {name} is {value:g}; it may be from {least:g} to {most:g}.")
