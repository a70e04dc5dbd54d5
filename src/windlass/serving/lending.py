"""Divides the limits of keys among the workers of a fleet, ten times a second, over their channels.

Held by the fleet, which says who comes and goes; `leases.py` does the sums. Must never promise a worker what another
still holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from windlass.serving import channel, member
from windlass.serving.door import leases
from windlass.types import spec


class Lending:
    """The limits of one server. A worker is known by its process id: another at its place starts with nothing."""

    def __init__(self, state: str) -> None:
        """`state` is a folder for what keys have used today; empty: it is forgotten at the end."""
        self._lessor = leases.Lessor(state)
        self._members: dict[int, member.Member] = {}

    def join(self, one: member.Member) -> None:
        """A worker begins, and can be told what it is lent."""
        self._members[one.pid] = one
        self._lessor.join(one.pid)
        self._grant()

    def leave(self, one: member.Member) -> None:
        """A worker has ended, perhaps before it had begun."""
        self._members.pop(one.pid, None)
        self._lessor.leave(one.pid)

    def use(self, keys: Iterable[spec.Key]) -> None:
        """The keys from now on; every worker is told its shares before anything that is said to it later."""
        self._lessor.use(keys)
        self._grant()

    def demand(self, one: member.Member, wants: Mapping[str, leases.Want]) -> None:
        """What a worker says it needs, and gives back."""
        self._lessor.demand(one.pid, wants)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            self._grant()
            self._lessor.save()
            await asyncio.sleep(leases.PERIOD_S)

    def save(self) -> None:
        """Write what was used, for good."""
        self._lessor.save(last=True)

    def _grant(self) -> None:
        for pid, shares in self._lessor.grants().items():
            self._members[pid].tell(channel.Grant(shares))
