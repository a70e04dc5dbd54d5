"""What every target can: run what is wanted of one deployment, and say what came of it.

Implemented by each file beside this one; called by the controller alone, from threads of its own. Must never decide:
what is wanted comes from a rollout, what is observed is told as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from windlass.types import deployment


class Exposed(Protocol):
    """Who was sent where: one line of a target's exposure log (the fields of the data plane's `Exposure`)."""

    @property
    def time(self) -> float:
        """When, in seconds since the epoch."""
        ...

    @property
    def request(self) -> str:
        """The request's id."""
        ...

    @property
    def arm(self) -> str:
        """The arm it was sent to."""
        ...

    @property
    def key(self) -> str:
        """A keyed hash of its sticky key; empty if it had none."""
        ...


class Differing(Protocol):
    """A mirrored request to which the shadow gave another class (the fields of the data plane's log of the name)."""

    @property
    def time(self) -> float:
        """When they were compared, in seconds since the epoch."""
        ...

    @property
    def request(self) -> str:
        """The request's id."""
        ...

    @property
    def arm(self) -> str:
        """The arm whose answer was sent."""
        ...

    @property
    def shadow(self) -> str:
        """The arm that was asked too."""
        ...

    @property
    def answered(self) -> str:
        """The class in the answer that was sent."""
        ...

    @property
    def mirrored(self) -> str:
        """The class that the shadow gave."""
        ...

    @property
    def epoch(self) -> int:
        """The `Wanted.epoch` under which the request was answered: the number of the rollout."""
        ...


class Target(Protocol):
    """A place where deployments run. All calls are idempotent; each may take seconds and raise `WindlassError`."""

    def apply(self, wanted: deployment.Wanted) -> None:
        """Make it so: new arms are loaded, verified and warmed before they are asked; then the shares change at once.

        Returns when the shares are in force. Other shares, or another `slow_ms`, begin a new generation. An arm that
        cannot be loaded is `GateRefused` or `CorruptPackage`, and what served before serves on. `Unavailable`: the
        target does not answer, and it is not known what it runs.
        """
        ...

    def observe(self, name: str) -> deployment.Observed:
        """What runs, and counts since the deployment began there, cumulative over restarts; else `Unavailable`."""
        ...

    def exposures(self, name: str, since: float) -> Iterator[Exposed]:
        """Which request went to which arm, from a time (seconds since the epoch) on, oldest first."""
        ...

    def differing(self, name: str, since: float) -> Iterator[Differing]:
        """The mirrored requests of one row with two classes, compared from a time (epoch seconds) on, oldest first."""
        ...

    def remove(self, name: str) -> None:
        """Run it no more; nothing happens if it does not run."""
        ...
