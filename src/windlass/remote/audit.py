"""The audit behind a control plane: who changed what, when and why, and whether the chain of entries is whole.

Opened by the CLI where a server is given. Must never take the plane's word for the chain where heads were exported
before: they are sent along, and compared there.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.client import plane
from windlass.records import audit


class Audit:
    """The audit of one control plane."""

    def __init__(self, to: plane.Plane) -> None:
        self._plane = to

    def close(self) -> None:
        """Close the connections."""
        self._plane.close()

    def entries(
        self,
        *,
        subject: str = "",
        actor: str = "",
        action: str = "",
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
    ) -> tuple[audit.Entry, ...]:
        """Entries that the caller may see, the oldest first."""
        return self._plane.every(
            "/audit",
            audit.Entry,
            limit=limit or plane.ALL,
            subject=subject,
            actor=actor,
            action=action,
            since=since,
            until=until,
        )

    def verify(self, heads: Sequence[audit.Head] = ()) -> audit.Verified:
        """Whether every entry follows from the one before, and the chain holds these heads."""
        return self._plane.send("POST", "/audit/verify", audit.Verified, {"heads": heads})

    def head(self) -> audit.Head:
        """Where the chain ends now."""
        return self._plane.get("/audit/head", audit.Head)
