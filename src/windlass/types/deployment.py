"""Deployments: what people want to run, what is asked of a target for it, and what a target says came of it.

The seam between the API, the rows, the rollout's decisions, the controller and the targets. Must never hold a
reference that needs a registry to understand it, a clock, or a decision.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from windlass.types import spec


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A version, resolved once. `ref` is what was asked for; `signature` is what code needs to run."""

    name: str
    version: int
    digest: str
    ref: str = ""
    signature: str = ""

    @property
    def arm(self) -> str:
        """The name of its arm, in weights, counts and logs."""
        return str(self.version)


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a release takes over: a name in the catalogue's `strategies`, and that strategy's own parameters."""

    kind: str = "recreate"
    parameters: dict[str, Any] = {}


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the endpoint answers, whichever release does: the fields of `spec.Endpoint` of the same names."""

    max_batch: int = 0
    max_queue: int = 0
    max_queue_delay_ms: float = 0.0
    max_queue_ms: float = 0.0
    slo_p99_ms: float = 0.0
    timeout_ms: int = 0
    placement: Literal["auto", "inline", "thread", "process"] = "auto"
    threads: int = 0


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What people want of one deployment (an endpoint's name). Written by the API and the CLI only.

    `release` is where traffic is to end. `against` are further releases, for strategies that compare several. When the
    rollout ends at `release`, the model's `alias` moves there in the same transaction (empty: none does).
    `paused` freezes at the step reached; `order` is a person's word about the rollout under way: `promote` and `abort`
    end it without evidence. `salt` decides where sticky keys fall, and stays the same over a deployment's life.
    """

    name: str
    release: Release
    strategy: Strategy = Strategy()
    target: str = "local"
    serving: Serving = Serving()
    against: tuple[Release, ...] = ()
    alias: str = "production"
    salt: str = ""
    paused: bool = False
    order: Literal["", "promote", "abort"] = ""


Phase = Literal["EMPTY", "PREPARING", "RUNNING", "PAUSED", "PROMOTING", "RETURNING", "LIVE", "FAILED"]


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the controller saw last: which generation of the wish it has taken up, what is live, and why in words.

    LIVE: `live` has all traffic and nothing is under way. FAILED: the wish cannot be carried out; `live` serves on.
    """

    generation: int = 0
    phase: Phase = "EMPTY"
    live: Release | None = None
    shares: dict[str, float] = {}
    rollout: int = 0
    words: str = ""
    at: float = 0.0


# What is asked of a target.


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One release behind an endpoint. `share` of the requests in percent; 0: loaded, warm, and not asked.

    `capacity`: which part of the whole load it must be able to carry, in percent, on targets that have instances.
    """

    release: Release
    share: float = 100.0
    capacity: float = 100.0


class Mirror(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A release that is asked the same and never answers; as `spec.Shadow`."""

    release: Release
    share: float = 100.0
    atol: float = 1e-5
    rtol: float = 1e-3


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a target is to run for one deployment. The shares sum to 100. Applying it twice changes nothing.

    `slow_ms`: ok answers that took longer are counted as slow too (0: none are). `epoch` is the rollout's number: the
    sticky keys whose bad events are remembered are forgotten when it changes.
    """

    name: str
    arms: tuple[Arm, ...]
    mirror: Mirror | None = None
    sticky: str = ""
    salt: str = ""
    slow_ms: float = 0.0
    epoch: int = 0
    override: bool = False
    pins: tuple[spec.Pin, ...] = ()
    serving: Serving = Serving()


# What a target says.


class ArmState(msgspec.Struct, frozen=True):
    """READY: loaded, verified and warm. FAILED says why in `reason`."""

    state: Literal["ABSENT", "LOADING", "READY", "FAILED"]
    reason: str = ""


class Counts(msgspec.Struct, frozen=True):
    """What came of the requests that were drawn for one arm under one generation of the weights; cumulative.

    `latency` counts ok answers up to each of the observed bounds and above the last. `slow` are those ok answers that
    took longer than the wish's `slow_ms`. `first_bad` counts the sticky keys whose first bad event of the epoch fell
    here: failed, expired, rejected or slow (None: nothing sticks).
    """

    admitted: int = 0
    ok: int = 0
    rejected: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    latency: tuple[int, ...] = ()
    slow: int = 0
    first_bad: int | None = None


class Segment(msgspec.Struct, frozen=True):
    """The counts while one set of shares was in force. `shares` are percentages, and were the drawn probabilities."""

    generation: int
    shares: dict[str, float]
    counts: dict[str, Counts]


class Mirrored(msgspec.Struct, frozen=True):
    """What came of a mirror: requests compared, those that differed, those where it failed or was left out."""

    compared: int = 0
    disagreed: int = 0
    failed: int = 0
    dropped: int = 0
    # Of compared rows with scores: all, and those with the same highest.
    rows: int = 0
    same: int = 0
    # Compared requests of one row to which both gave a class, and those to which they gave two.
    classed: int = 0
    class_differed: int = 0


class Labelled(msgspec.Struct, frozen=True):
    """Of a rollout's mirrored requests with two classes, those with a label: who was right about how many."""

    old: int = 0
    new: int = 0
    neither: int = 0


class Observed(msgspec.Struct, frozen=True):
    """What one deployment is on its target at this moment. `bounds` of latencies are in seconds.

    `measured` is False when the states are known and the counts are not: then nothing may be concluded from them.
    """

    at: float
    arms: dict[str, ArmState] = {}
    shares: dict[str, float] = {}
    generation: int = 0
    segments: tuple[Segment, ...] = ()
    bounds: tuple[float, ...] = ()
    mirrored: Mirrored | None = None
    measured: bool = True
    # Scores in [0, 1] by arm, in the order in which they came; 1 is best. From feedback, joined by the controller.
    scores: dict[str, tuple[float, ...]] = {}
    # From feedback too; None: it was not asked for.
    labelled: Labelled | None = None
