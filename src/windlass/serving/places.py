"""The places of one server's workers: which are filled and by whom, who is hung, and what is kept of who ended.

Held by the fleet, which says what a worker at a place is to serve. Must never know a spec beyond passing it on, and
never fill more places than the plan has.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from windlass import errors
from windlass.serving import channel, lending, member, starting
from windlass.serving.metrics import board as boards
from windlass.serving.metrics import totals
from windlass.serving.transport import sockets

log = logging.getLogger("windlass")
# An interpreter and its libraries on a busy machine.
_STARTED_BY_THEN_S = 60.0
# Whoever looks so late was kept from running itself: others were too.
_LATE_S = 1.0


class Places:
    """All of it belongs to the loop's thread."""

    def __init__(
        self,
        listening: socket.socket,
        most: int,
        shares: lending.Lending,
        handle: Callable[[member.Member, channel.Body], Awaitable[Any]],
        died: Callable[[member.Member, int], None],
        *,
        quiet: bool,
    ) -> None:
        """`most` workers at once; `handle` answers what one asks, `died(one, requests)` is told of an end unforeseen.

        `listening` is the socket that all of them accept from; it is closed by `shut`.
        """
        self.members: dict[int, member.Member] = {}
        self.memory = totals.Memory.create(most)
        self._listening = listening
        self._board = boards.Board.create(most + 1)
        self._shared = member.Shared(listening.fileno(), self._board.fd, self.memory.fd, quiet)
        self._lending = shares
        self._handle = handle
        self._died = died
        self._looked = time.monotonic()

    def living(self) -> list[member.Member]:
        """Who has not ended, nor is being ended."""
        return [one for one in self.members.values() if one.alive]

    def filled(self) -> int:
        """How many places have somebody who stays."""
        return sum(one.state != member.LEAVING for one in self.living())

    def room(self) -> bool:
        """Whether there is a free place."""
        return len(self.members) < self.memory.workers

    def least_useful(self, surplus: int) -> list[member.Member]:
        """So many of those that stay: first who does not serve yet, then who has the fewest requests under way."""
        staying = [one for one in self.living() if one.state != member.LEAVING]
        board = self._board
        staying.sort(
            key=lambda one: (
                one.state == member.SERVING,
                board.under_way(one.place),
                board.connections(one.place),
            )
        )
        return staying[: max(0, surplus)]

    def serving(self) -> list[member.Member]:
        """The workers that answer."""
        return [one for one in self.living() if one.state == member.SERVING]

    def ready(self) -> bool:
        """Whether a worker that makes progress can answer."""
        return any(self._board.age_s(one.place) < boards.STALE_S for one in self.serving())

    async def fill(self, first: channel.Start, begun: starting.Starting | None = None) -> member.Member:
        """A worker at a free place, by a process that has `begun` or by a new one."""
        place = min(set(range(1, self.memory.workers + 1)) - self.members.keys())
        begun = starting.Starting() if begun is None else begun
        one = member.Member(begun, place, self._shared, lambda body: self._handle(one, body))
        self.members[place] = one
        await one.open(first, self._gone)
        if one.alive:
            # Not before it can be told what it was lent.
            self._lending.join(one)
        return one

    def _gone(self, one: member.Member) -> None:
        """A process has ended."""
        del self.members[one.place]
        lost = self.memory.fold(one.place)
        self._board.clear(one.place)
        self._lending.leave(one)
        if one.state != member.LEAVING:
            self._died(one, lost)

    def end_hung(self) -> None:
        """Kill who makes no progress: who fills its place takes its connections."""
        now = time.monotonic()
        late, self._looked = now - self._looked > _LATE_S, now
        for one in [] if late else self.living():
            age = self._board.age_s(one.place)
            most = boards.STALE_S if age < float("inf") else _STARTED_BY_THEN_S
            silent = min(age, now - one.started)
            if silent > most and one.state != member.LEAVING:
                log.warning("%s has not turned for %.1f s and is replaced", one.name, silent)
                one.kill()

    def shut(self) -> None:
        """Leave the socket to the workers: once each has taken what waits and closed it, callers are refused."""
        sockets.shut(self._listening)

    def about(self, one: member.Member, told: dict[str, Any] | None) -> dict[str, Any]:
        """What operators see of a worker; `told` is its own word."""
        age = self._board.age_s(one.place)
        return {
            "place": one.place,
            "pid": one.pid,
            "state": one.state,
            "connections": self._board.connections(one.place),
            "heartbeat_age_s": round(age, 3) if age < float("inf") else None,
            "generation": told["generation"] if told is not None else None,
            "processes": told["processes"] if told is not None else [],
        }


async def ask_all(
    members: list[member.Member], ask: Callable[[member.Member], Awaitable[Any]]
) -> list[BaseException | None]:
    """None for each that did it, its error for each that did not."""
    answers = await asyncio.gather(*(ask(one) for one in members), return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else None for answer in answers]


async def ask_first(
    members: list[member.Member], ask: Callable[[member.Member], Awaitable[Any]]
) -> list[BaseException | None]:
    """The same, but one of them first: its error is raised, and nobody else is asked."""
    await ask(members[0])
    return [None, *await ask_all(members[1:], ask)]


async def first_up(places: Places, within_s: float) -> list[member.Member]:
    """Those that serve, as soon as there is one; `Unavailable` if there is none in time."""
    give_up = time.monotonic() + within_s
    while not (members := places.serving()):
        if time.monotonic() > give_up:
            raise errors.Unavailable("no worker is up just now", hint="Try again in a moment.")
        await asyncio.sleep(0.05)
    return members
