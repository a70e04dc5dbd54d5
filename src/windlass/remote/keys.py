"""The API keys behind a control plane, with the methods and values of `records.keys.Keys`.

Opened by the CLI where a server is given. Must never ask for a secret twice: what the plane tells once is lost if the
reply is.
"""

from __future__ import annotations

from windlass.client import plane
from windlass.records import keys


class Keys:
    """The keys of one control plane. `actor` is not sent: the plane knows whose key it is."""

    def __init__(self, to: plane.Plane) -> None:
        self._plane = to

    def close(self) -> None:
        """Close the connections."""
        self._plane.close()

    def create(self, wish: keys.Wish, *, actor: str) -> keys.Made:
        """A new key; `NotAllowed` if it may more than the caller's own."""
        return self._plane.once("POST", "/keys", keys.Made, wish)

    def every(self) -> tuple[keys.Listed, ...]:
        """All keys, revoked ones too, the oldest first."""
        return self._plane.every("/keys", keys.Listed)

    def rotate(self, identity: str, *, actor: str) -> keys.Made:
        """A new secret beside the one that the key had."""
        return self._plane.once("POST", f"/keys/{plane.quoted(identity)}/rotate", keys.Made)

    def end_old(self, identity: str, *, actor: str) -> None:
        """Only the newest secret is good from now on."""
        self._plane.send("POST", f"/keys/{plane.quoted(identity)}/end-old", object)

    def revoke(self, identity: str, *, actor: str, reason: str = "") -> None:
        """A key is no longer good."""
        self._plane.send("POST", f"/keys/{plane.quoted(identity)}/revoke", object, {"reason": reason})
