"""A target that runs nothing: it remembers what is wanted, and does to it what it is told to do (the shipped fake).

Used by tests and simulations of rollouts. Must never be more forgiving than a real target, or differ from what
`base.Target` promises: the same suite runs against both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from windlass import errors
from windlass.targets import base
from windlass.types import deployment

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROUNDING = 1e-6


class Exposure(msgspec.Struct, frozen=True):
    """One line of the exposure log."""

    time: float
    request: str
    arm: str
    key: str = ""


class Differing(msgspec.Struct, frozen=True):
    """One line of the log of mirrored requests with two classes."""

    time: float
    request: str
    arm: str
    shadow: str
    answered: str
    mirrored: str
    epoch: int = 0


class _Run(msgspec.Struct, frozen=True):
    """What one deployment is at this moment; replaced as a whole."""

    wanted: deployment.Wanted | None
    pending: tuple[str, ...] = ()
    generation: int = 0
    segments: tuple[deployment.Segment, ...] = ()
    mirrored: deployment.Mirrored = deployment.Mirrored()
    scores: dict[str, tuple[float, ...]] = {}


class Memory:
    """Deployments in memory. Arms are named as in `Release.arm`; all faults last until they are taken back.

    `refused` and `failed` give an arm's reason, `loading` are arms that are not done yet. `away`: the target does not
    answer; `deaf`: it does what it is told and the answer is lost; `blind`: it knows its arms and not its counts.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._log: dict[str, list[Exposure]] = {}
        self._differing: dict[str, list[Differing]] = {}
        self.refused: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.loading: set[str] = set()
        self.away = False
        self.deaf = False
        self.blind = False

    # What every target can.

    def apply(self, wanted: deployment.Wanted) -> None:
        """As `base.Target.apply`. While an arm is `loading` it is `Unavailable`, and the shares stay as they are."""
        self._answer()
        _check(wanted)
        run = self._runs.get(wanted.name, _Run(None))
        asked = [arm.release.arm for arm in wanted.arms] + ([wanted.mirror.release.arm] if wanted.mirror else [])
        for arm in asked:
            if arm in self.refused:
                raise errors.GateRefused(f"version {arm} of '{wanted.name}' was refused: {self.refused[arm]}")
        if any(arm in self.loading for arm in asked):
            self._runs[wanted.name] = msgspec.structs.replace(run, pending=tuple(asked))
            raise errors.Unavailable(f"'{wanted.name}' is still being loaded.")
        self._runs[wanted.name] = _put(run, wanted)
        if self.deaf:
            raise errors.Unavailable("the target's answer was lost.")

    def observe(self, name: str) -> deployment.Observed:
        """As `base.Target.observe`. A deployment that is not run has no arms and no shares."""
        self._answer()
        run = self._runs.get(name, _Run(None))
        return deployment.Observed(
            at=self._clock(),
            arms={arm: self._state(arm) for arm in (*_arms(run.wanted), *run.pending)},
            shares=_shares(run.wanted),
            generation=run.generation,
            segments=() if self.blind else run.segments,
            bounds=BOUNDS,
            mirrored=None if self.blind else run.mirrored,
            measured=not self.blind,
            scores=run.scores,
        )

    def exposures(self, name: str, since: float) -> Iterator[base.Exposed]:
        """As `base.Target.exposures`: what `expose` was told."""
        self._answer()
        return iter([line for line in self._log.get(name, ()) if line.time >= since])

    def differing(self, name: str, since: float) -> Iterator[base.Differing]:
        """As `base.Target.differing`: what `differ` was told."""
        self._answer()
        return iter([line for line in self._differing.get(name, ()) if line.time >= since])

    def remove(self, name: str) -> None:
        """As `base.Target.remove`. The counts stay, as those of a real target do."""
        self._answer()
        if name in self._runs:
            self._runs[name] = msgspec.structs.replace(self._runs[name], wanted=None, pending=())

    # What happens to it.

    def count(self, name: str, counts: Mapping[str, deployment.Counts]) -> None:
        """Requests came and were answered, under the shares in force: added to what each arm had."""
        run = self._runs[name]
        *before, last = run.segments
        total = dict(last.counts)
        for arm, more in counts.items():
            total[arm] = _sum(total[arm], more) if arm in total else more
        segments = (*before, msgspec.structs.replace(last, counts=total))
        self._runs[name] = msgspec.structs.replace(run, segments=segments)

    def mirror(self, name: str, more: deployment.Mirrored) -> None:
        """Mirrored requests were compared: added to those before."""
        run = self._runs[name]
        mirrored = deployment.Mirrored(
            *(a + b for a, b in zip(msgspec.structs.astuple(run.mirrored), msgspec.structs.astuple(more), strict=True))
        )
        self._runs[name] = msgspec.structs.replace(run, mirrored=mirrored)

    def score(self, name: str, scores: Mapping[str, tuple[float, ...]]) -> None:
        """Labels came: the scores of each arm's answers, after those before."""
        run = self._runs[name]
        known = {arm: run.scores.get(arm, ()) + more for arm, more in scores.items()}
        self._runs[name] = msgspec.structs.replace(run, scores=run.scores | known)

    def expose(self, name: str, line: Exposure) -> None:
        """A request was sent to an arm."""
        self._log.setdefault(name, []).append(line)

    def differ(self, name: str, line: Differing) -> None:
        """A mirrored request got two classes."""
        self._differing.setdefault(name, []).append(line)

    def lose(self, name: str) -> None:
        """The target was started anew and runs nothing; what it counted is known still."""
        self._runs[name] = msgspec.structs.replace(self._runs[name], wanted=None, pending=())

    def forget(self, name: str) -> None:
        """The counts are lost, against what a target promises."""
        run = self._runs[name]
        empty = tuple(msgspec.structs.replace(segment, counts={}) for segment in run.segments)
        self._runs[name] = msgspec.structs.replace(run, segments=empty, mirrored=deployment.Mirrored())

    def _answer(self) -> None:
        if self.away:
            raise errors.Unavailable("the target does not answer.")

    def _state(self, arm: str) -> deployment.ArmState:
        if arm in self.failed:
            return deployment.ArmState("FAILED", self.failed[arm])
        return deployment.ArmState("LOADING" if arm in self.loading else "READY")


def _check(wanted: deployment.Wanted) -> None:
    """`UsageError` for what no target could run."""
    names = [arm.release.arm for arm in wanted.arms]
    if not names or len(set(names)) != len(names):
        raise errors.UsageError(f"'{wanted.name}' has no arm, or one twice: {', '.join(names)}.")
    shares = [arm.share for arm in wanted.arms]
    if min(shares) < 0 or not math.isclose(sum(shares), 100, abs_tol=_ROUNDING):
        raise errors.UsageError(f"the shares of '{wanted.name}' sum to {sum(shares):g}, not to 100.")
    if wanted.mirror is not None and wanted.mirror.release.arm in names:
        raise errors.UsageError(f"'{wanted.name}' mirrors to one of its own arms.")
    if any(pin.arm not in names for pin in wanted.pins):
        raise errors.UsageError(f"'{wanted.name}' pins a header to a release that is not among its arms.")


def _put(run: _Run, wanted: deployment.Wanted) -> _Run:
    """What runs now; with other shares than before, or another threshold of slow answers, under a new generation."""
    if run.wanted is not None and (_shares(run.wanted), run.wanted.slow_ms) == (_shares(wanted), wanted.slow_ms):
        return msgspec.structs.replace(run, wanted=wanted, pending=())
    generation = run.generation + 1
    segment = deployment.Segment(generation, _shares(wanted), {})
    segments = (*run.segments, segment)
    return msgspec.structs.replace(run, wanted=wanted, pending=(), generation=generation, segments=segments)


def _shares(wanted: deployment.Wanted | None) -> dict[str, float]:
    return {arm.release.arm: arm.share for arm in wanted.arms} if wanted else {}


def _arms(wanted: deployment.Wanted | None) -> tuple[str, ...]:
    if wanted is None:
        return ()
    return (*_shares(wanted), *((wanted.mirror.release.arm,) if wanted.mirror else ()))


def _sum(one: deployment.Counts, other: deployment.Counts) -> deployment.Counts:
    latency = (
        tuple(a + b for a, b in zip(one.latency, other.latency, strict=True))
        if one.latency and other.latency
        else one.latency or other.latency
    )
    first = None if one.first_bad is None and other.first_bad is None else (one.first_bad or 0) + (other.first_bad or 0)
    added = {
        name: getattr(one, name) + getattr(other, name)
        for name in ("admitted", "ok", "rejected", "expired", "cancelled", "failed", "slow")
    }
    return deployment.Counts(latency=latency, first_bad=first, **added)
