"""The open connections of a listener, counted by peer, and which peers may have one.

Asked by `arrival.py` for each new connection; held by the listener. A peer is the address that the kernel names, never
one that a header claims. Must never keep a count for a peer that has no connection.
"""

from __future__ import annotations

import ipaddress
from typing import Protocol, TypeAlias

from windlass import errors
from windlass.types import spec

# The peer of a unix socket: whoever may open the file.
LOCAL = "local"
_MAPPED = "::ffff:"
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Sweepable(Protocol):
    """A connection, as its listener sees it."""

    peer: str

    def sweep(self, now: float) -> None:
        """Close what took too long; `now` is on the listener's clock."""
        ...

    def drain(self) -> None:
        """Close as soon as nothing is under way."""
        ...

    def end(self, error: errors.WindlassError) -> None:
        """Answer all that is under way with an error, and close."""
        ...


class Connections(set[Sweepable]):
    """The connections of one listener. `allow` are the networks (CIDR) whose peers may connect; none: all."""

    def __init__(self, limits: spec.ServerLimits, allow: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.by_peer: dict[str, int] = {}
        self._limits = limits
        self._allow = networks(allow)

    def add(self, connection: Sweepable) -> None:
        """One more; twice is once."""
        if connection not in self:
            super().add(connection)
            peer = plain(connection.peer)
            self.by_peer[peer] = self.by_peer.get(peer, 0) + 1

    def discard(self, connection: Sweepable) -> None:  # type: ignore[override]  # only connections are in it
        """One less; twice is once."""
        if connection in self:
            super().discard(connection)
            peer = plain(connection.peer)
            left = self.by_peer[peer] - 1
            if left:
                self.by_peer[peer] = left
            else:
                del self.by_peer[peer]

    def refusal(self, peer: str) -> str:
        """Why this peer gets no connection now, as a reason to count it by; empty if it gets one.

        `peer` is an address, or `LOCAL`, which is never refused for where it comes from.
        """
        if len(self) >= self._limits.max_connections:
            return "too_many_connections"
        if peer == LOCAL:
            return ""
        peer = plain(peer)
        if self._allow and not _within(peer, self._allow):
            return "address_not_allowed"
        if self.by_peer.get(peer, 0) >= self._limits.max_connections_per_peer:
            return "too_many_connections_of_peer"
        return ""


def peer_of(name: object) -> str:
    """The address in what a transport or `accept` calls the peer's name; `LOCAL` for a unix socket."""
    return plain(str(name[0])) if isinstance(name, tuple) and name else LOCAL


def plain(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket as what it is."""
    return address.removeprefix(_MAPPED) if address.startswith(_MAPPED) and "." in address else address


def networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    """Networks in CIDR notation (an address alone is itself); `UsageError` names the first that is none."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as e:
            raise errors.UsageError(
                f"'{text[:100]}' in the spec's allow list is no network: {e}.", hint="Write it as 10.1.0.0/16."
            ) from None
    return tuple(found)


def _within(address: str, allowed: tuple[_Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in allowed)
