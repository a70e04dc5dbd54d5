"""One worker process as its supervisor sees it: started, asked, watched, told to leave, and seen to its end.

Made by `fleet.py`, for each place anew. Must never be trusted to answer: whatever it is asked may end with its death.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from windlass import errors
from windlass.serving import channel, starting
from windlass.types import spec

STARTING, SERVING, LEAVING, KILLED = "starting", "serving", "leaving", "killed"


class Shared(msgspec.Struct, frozen=True):
    """The descriptors of what all workers share, and whether they log warnings only."""

    listen: int
    board: int
    counters: int
    quiet: bool


class Member:
    """The worker at a place.

    `spec` is what it has in force, `loaded` what it loaded beside; `ended` is its exit status once it has one.
    """

    def __init__(
        self, process: starting.Starting, place: int, shared: Shared, handle: Callable[[channel.Body], Awaitable[Any]]
    ) -> None:
        """Tell a process that begins its place; `handle` answers what it asks."""
        self.place = place
        self.state = STARTING
        self.started = time.monotonic()
        self.spec: spec.Spec | None = None
        self.loaded: set[str] = set()
        self.channel = channel.Channel(handle, lambda: None)
        self._told_to_leave = False
        self._ours = process.socket
        self._process = process.process
        self.pid = self._process.pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # One that has ended already hears nothing; its end is seen all the same.
        with contextlib.suppress(OSError):
            process.tell(place, (shared.listen, shared.board, shared.counters), quiet=shared.quiet)

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.place} (process {self.pid})"

    async def open(self, first: channel.Start, gone: Callable[[Member], None]) -> None:
        """Take up the channel and send the first word; `gone` is called once, when the process has ended."""
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(self.pid)

        def seen() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self.channel.close()
            self.ended.set_result(self._process.wait())
            gone(self)

        loop.add_reader(descriptor, seen)
        await loop.create_unix_connection(lambda: self.channel, sock=self._ours)
        self.channel.tell(first)

    async def ask(self, body: channel.Body, timeout_s: float | None = None) -> Any:
        """The worker's answer; `Unavailable` names it if it gave none."""
        try:
            return await self.channel.ask(body, timeout_s)
        except errors.Unavailable as e:
            if self.channel.open:
                raise
            raise errors.Unavailable(f"{self.name} ended before it had answered") from e

    def tell(self, body: channel.Body) -> None:
        """Say what wants no answer, if anybody is there to hear it."""
        with contextlib.suppress(errors.Unavailable):
            self.channel.tell(body)

    async def apply(self, wanted: spec.Spec, sent: channel.Apply) -> None:
        """Put `wanted` in force there, as `sent`."""
        await self.ask(sent)
        self.spec = wanted

    async def change(self, name: str, *, load: bool) -> None:
        """Load or unload a model of the repository there."""
        await self.ask(channel.Change(name, load=load))
        (self.loaded.add if load else self.loaded.discard)(name)

    @property
    def alive(self) -> bool:
        """Whether its end has neither been seen nor brought about."""
        return self.state != KILLED and not self.ended.done()

    async def leave(self, within_s: float) -> None:
        """Have it finish what is in flight and end; kill it if it has not within this time."""
        self.state = LEAVING
        if not self._told_to_leave:
            self._told_to_leave = True
            self.tell(channel.Drain())
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), within_s)
        except TimeoutError:
            self._kill()
            await self.ended

    def kill(self) -> None:
        """End it at once; its place is filled again."""
        self.state = KILLED
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
