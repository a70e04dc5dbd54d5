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
    release stays loaded for `keep_s` after the new one has all requests. Mirrored answers differ beyond
    `atol + rtol * |answer|`. `sticky`, `override` and `pins` are as in `spec.Endpoint`.
    """

    stages: tuple[Stage, ...]
    guard: evidence.Guard | None = None
    mirror_guard: evidence.Guard | None = None
    ends: Literal["new", "old"] = "new"
    ready_s: float = 1800.0
    early_s: float | None = None
    max_s: float = 0.0
    keep_s: float = 0.0
    atol: float = 1e-5
    rtol: float = 1e-3
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

    def course(self, candidates: int) -> Course:
        """What these parameters stand for, with so many releases beside the old one; `UsageError` if it takes fewer."""
        raise NotImplementedError


class Judged(Strategy, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What strategies have in common that compare requests: error rates and limits as in `evidence.Guard`.

    After `max_s` without a verdict the old release stays. `sticky`: requests of one `caller`, or with one value of
    `header:NAME`, all go to one release. `pins` send a header's value to a release, named by its version; `override`
    lets callers name it themselves: neither counts as evidence. Without `slow_ms` the old release's answers say what is
    slow; `latency = false`: slow answers are no harm.
    """

    alpha: float = 0.01
    delta: float = 0.5
    margin: float = 0.005
    r0: float = 1.0
    slow_r0: float = 1.25
    slow_ms: float = 0.0
    latency: bool = True
    max_s: float = DAY_S
    sticky: str = ""
    override: bool = False
    pins: tuple[spec.Pin, ...] = ()

    def check(self) -> None:
        super().check()
        within("alpha", self.alpha, 1e-9, 0.5)
        within("delta", self.delta, 0.01, 10)
        within("margin", self.margin, 1e-6, 1)
        within("r0", self.r0, 1, 32)
        within("slow_r0", self.slow_r0, 1, 32)
        within("slow_ms", self.slow_ms, 0, 3_600_000)
        within("max_s", self.max_s, 1, 90 * DAY_S)
        if self.slow_ms and not self.latency:
            raise errors.UsageError("the strategy has slow_ms, and latency = false.", hint="Give one of the two.")
        if self.sticky not in ("", "caller") and not self.sticky.removeprefix("header:").strip(": "):
            raise errors.UsageError("the strategy sticks to no header.", hint="Write header:NAME, or caller.")
        if self.sticky not in ("", "caller") and not self.sticky.startswith("header:"):
            raise errors.UsageError(
                f"the strategy cannot stick to '{self.sticky[:64]}'.", hint="Write header:NAME, or caller."
            )

    def guard(self) -> evidence.Guard:
        """What judges the real requests."""
        return evidence.Guard(
            alpha=self.alpha,
            delta=self.delta,
            margin=self.margin,
            r0=self.r0,
            slow_r0=self.slow_r0,
            slow_ms=self.slow_ms,
            latency=self.latency,
            sticky=bool(self.sticky),
        )


def within(name: str, value: float, least: float, most: float) -> None:
    """`UsageError` naming the parameter if a number is not within its bounds (both included)."""
    if not (math.isfinite(value) and least <= value <= most):
        raise errors.UsageError(f"the strategy's {name} is {value:g}; it may be from {least:g} to {most:g}.")


def one_candidate(kind: str, candidates: int) -> None:
    """`UsageError` where a strategy that compares one release with the old one is given several."""
    if candidates != 1:
        raise errors.UsageError(
            f"{kind} takes one release, and is given {candidates}.", hint="To compare several, use experiment."
        )


def ramp(steps: tuple[float, ...], step_s: float) -> tuple[Stage, ...]:
    """Growing shares (percent) of one candidate, each for at least `step_s` and with requests; proof ends the last.

    `UsageError` if they do not grow, or are not above 0 and below 100.
    """
    if not steps or any(not 0 < step < 100 for step in steps) or list(steps) != sorted(set(steps)):
        listed = ", ".join(f"{step:g}" for step in steps) or "none"
        raise errors.UsageError(
            f"the strategy's steps are {listed}.",
            hint="Give shares in percent that grow, above 0 and below 100: at 100 there is nothing to compare with.",
        )
    within("step_s", step_s, 0, 30 * DAY_S)
    return tuple(Stage((step,), hold_s=step_s, asked=True, proven=step == steps[-1]) for step in steps)
