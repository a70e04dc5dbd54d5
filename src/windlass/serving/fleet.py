"""The workers of one server: filled places, one spec in force in all of them, and what is done when one dies or hangs.

Driven by the supervisor and its control socket. A spec is tried by one worker, then by the others, and is in force in
all or in none. Must never serve a model itself, and never let a request wait for what it does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from windlass import errors
from windlass.serving import channel, crashes, last_good, lending, member, sizing
from windlass.serving.door import door as doors
from windlass.serving.metrics import board as boards
from windlass.serving.metrics import totals
from windlass.serving.transport import sockets
from windlass.types import spec

log = logging.getLogger("windlass")
_WATCH_S = 0.25
_ANSWER_S = 1.0
_ANY_UP_S = 5.0
# An interpreter and its libraries on a busy machine.
_STARTED_BY_THEN_S = 60.0
# Beyond the grace time a worker tells those who still wait, then ends.
_LAST_S = 1.0


class Fleet:
    """All of it belongs to the loop's thread. `spec` is in force, or is being loaded for the first time."""

    def __init__(self, wanted: spec.Spec, listening: socket.socket, *, cores: int, quiet: bool = False) -> None:
        """`listening` is the socket that all workers accept from; the fleet closes it."""
        self._listening = listening
        self.spec = wanted
        self.plan = sizing.Plan(wanted.workers or 1, 0, "not chosen yet")
        self.members: dict[int, member.Member] = {}
        self.fell_back = ""
        self.restarts = 0
        self.stopping = False
        self._cores = cores
        # While a worker is replaced, two of them have a place.
        places = 2 * max(cores, wanted.workers) + 1
        self.memory = totals.Memory.create(places - 1)
        self._board = boards.Board.create(places)
        self._shared = member.Shared(listening.fileno(), self._board.fd, self.memory.fd, quiet)
        self._last_good = last_good.LastGood(wanted.state)
        self._judge = crashes.Judge(self.plan.workers)
        self._lending = lending.Lending(wanted.state)
        self._loaded: set[str] = set()
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # Starting and stopping

    async def start(self) -> None:
        """Fill every place and put the spec in force; raises what the first worker says against it."""
        async with self._changing:
            self._begin_with_good()
            self._lending.use(self.spec.keys)
            self._spawn_task(self._lending.run())
            first = await self._spawn()
            await self._choose(first)
            await first.ask(channel.Open(self.plan.workers == 1))
            others = [await self._spawn() for _ in range(self.plan.workers - 1)]
            await self._bring_up(first, opened=True)
            refused = await _all(others, self._bring_up)
            for one, error in zip(others, refused, strict=True):
                # One that died is started again like any other.
                if error is not None and one.alive:
                    raise error
            self._judge.in_force()
        self._spawn_task(self._watch())

    def _begin_with_good(self) -> None:
        why = self._last_good.why_bad(self.spec)
        good = self._last_good.good
        if why and good is not None:
            self.fell_back = why
            self.spec = _with_models_of(good, self.spec)
            log.warning("the spec's models are not served: %s", why)

    async def _choose(self, first: member.Member) -> None:
        asked = self.spec.workers
        alone = asked == 1 or (not asked and self._cores == 1)
        weight = 0 if alone else await first.ask(channel.Weigh(self.spec))
        self.plan = sizing.choose(self._cores, asked, weight)
        self._judge = crashes.Judge(self.plan.workers)
        log.info("%s", self.plan.reason)

    async def close(self) -> None:
        """Not ready from now on; go on for `pre_stop_s`, then let every worker finish what is in flight and end."""
        self.stopping = True
        for one in self._living():
            one.state = member.LEAVING
            one.tell(channel.Unready())
        await asyncio.sleep(self.spec.pre_stop_s)
        # From now on only workers hold it: when each has taken what waits and closed its own, callers are refused.
        sockets.shut(self._listening)
        await asyncio.gather(*(self._leave(one) for one in self._living()))
        self._lending.save()

    async def _leave(self, one: member.Member) -> None:
        await one.leave(self.spec.grace_s + _LAST_S)

    # Places

    def _living(self) -> list[member.Member]:
        return [one for one in self.members.values() if one.alive]

    def serving(self) -> list[member.Member]:
        """The workers that answer."""
        return [one for one in self._living() if one.state == member.SERVING]

    async def _spawn(self) -> member.Member:
        place = min(set(range(1, self.memory.workers + 1)) - self.members.keys())
        one = member.Member(place, self._shared, lambda body: self._asked(one, body))
        self.members[place] = one
        await one.open(channel.Start(self.spec), self._gone)
        if one.alive:
            # Not before it can be told what it was lent.
            self._lending.join(one)
        return one

    async def _bring_up(self, one: member.Member, *, opened: bool = False) -> None:
        """Put in force there what is in force; only then it takes connections."""
        while one.spec is not self.spec:
            await one.apply(self.spec, self._fitted(self.spec), back=one.spec is not None)
            for name in sorted(self._loaded):
                await one.ask(channel.Change(name, load=True))
        if not opened:
            await one.ask(channel.Open(self.plan.workers == 1))
        one.state = member.SERVING

    def _fitted(self, wanted: spec.Spec) -> spec.Spec:
        """With the plan's threads where an endpoint leaves them open."""
        if not self.plan.threads:
            return wanted
        endpoints = tuple(
            e if e.threads else msgspec.structs.replace(e, threads=self.plan.threads) for e in wanted.endpoints
        )
        return msgspec.structs.replace(wanted, endpoints=endpoints)

    def _gone(self, one: member.Member) -> None:
        """A process has ended."""
        del self.members[one.place]
        lost = self.memory.fold(one.place)
        self._board.clear(one.place)
        self._lending.leave(one)
        if one.state == member.LEAVING or self.stopping:
            return
        pause = self._judge.died()
        self.restarts += 1
        status = one.ended.result()
        log.warning("%s ended with status %d; %d requests were lost", one.name, status, lost)
        if self._judge.looping:
            self._spawn_task(self._fall_back())
        self._spawn_task(self._refill(pause))

    async def _refill(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        if self.stopping:
            return
        try:
            one = await self._spawn()
        except OSError as e:
            log.warning("no worker can be started: %s", e)
            self._spawn_task(self._refill(self._judge.died()))
            return
        try:
            await self._bring_up(one)
        except errors.WindlassError as e:
            # Its end brings the next try.
            log.warning("%s cannot serve: %s", one.name, e)
            one.kill()

    async def _watch(self) -> None:
        """Replace what makes no progress; a spec that went through its trial is good."""
        while not self.stopping:
            await asyncio.sleep(_WATCH_S)
            for one in self._living():
                silent = min(self._board.age_s(one.place), time.monotonic() - one.started)
                most = boards.STALE_S if self._board.age_s(one.place) < float("inf") else _STARTED_BY_THEN_S
                if silent > most and one.state != member.LEAVING:
                    log.warning("%s has not turned for %.1f s and is replaced", one.name, silent)
                    one.kill()
            if not self._judge.on_trial and not self._changing.locked():
                self._last_good.keep(self.spec)

    async def restart(self) -> None:
        """Replace every worker by a new one that is warm before the old one leaves."""
        async with self._changing:
            for old in self.serving():
                new = await self._spawn()
                try:
                    await self._bring_up(new)
                except errors.WindlassError:
                    await new.leave(0)
                    raise
                await self._leave(old)
        log.info("every worker was replaced")

    # The spec

    async def apply(self, wanted: spec.Spec) -> tuple[str, ...]:
        """Put a spec in force in every worker, or in none; the names of workers that had to be replaced for it.

        Revoked keys end at once, whatever becomes of the models. `Conflict` if the spec is not newer than the one in
        force, `GateRefused` if its models crashed their workers before.
        """
        async with self._changing:
            doors.read_pepper(wanted.key_pepper)
            if wanted.generation <= self.spec.generation:
                raise errors.Conflict(
                    f"generation {wanted.generation} is not above {self.spec.generation}, which is in force"
                )
            why = self._last_good.why_bad(wanted)
            if why:
                raise errors.GateRefused(f"this spec's models are not served: {why}")
            unreached = await self._revoke(wanted)
            self._lending.use(wanted.keys)
            try:
                taken = await self._try(wanted)
            except errors.WindlassError:
                self._lending.use(self.spec.keys)
                raise
            if not self._judge.looping:
                self._last_good.keep(self.spec)
            keys = msgspec.structs.replace(self.spec, keys=wanted.keys, key_pepper=wanted.key_pepper)
            self._put_in_force(_with_models_of(wanted, keys), why="")
            for one in taken:
                one.spec = self.spec
            self._loaded &= {endpoint.name for endpoint in wanted.repository}
            await self._level()
            return unreached

    def _put_in_force(self, wanted: spec.Spec, why: str) -> None:
        self.spec = wanted
        self.fell_back = why
        self._judge.in_force()

    async def _revoke(self, wanted: spec.Spec) -> tuple[str, ...]:
        known = {key.id for key in self.spec.keys}
        left = tuple(key for key in wanted.keys if key.id in known)
        if left == self.spec.keys and wanted.key_pepper == self.spec.key_pepper:
            return ()
        # Whoever starts or comes back from now on starts without them.
        before, self.spec = self.spec, msgspec.structs.replace(self.spec, keys=left, key_pepper=wanted.key_pepper)
        living = self._living()
        told = await asyncio.gather(
            *(one.ask(channel.Revoke(left, wanted.key_pepper), _ANSWER_S) for one in living), return_exceptions=True
        )
        unreached = []
        for one, answer in zip(living, told, strict=True):
            if isinstance(answer, BaseException):
                unreached.append(one.name)
                one.kill()
            elif one.spec is before:
                one.spec = self.spec
        return tuple(unreached)

    async def _try(self, wanted: spec.Spec) -> list[member.Member]:
        """One worker first, then the others: all of them; if one refuses, those that took it go back."""
        give_up = time.monotonic() + _ANY_UP_S
        while not (members := self.serving()):
            if time.monotonic() > give_up:
                raise errors.Unavailable("no worker is up just now", hint="Try again in a moment.")
            await asyncio.sleep(_WATCH_S)
        sent = self._fitted(wanted)
        await members[0].ask(channel.Apply(sent))
        answers = await asyncio.gather(*(one.ask(channel.Apply(sent)) for one in members[1:]), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        taken = [
            members[0],
            *(o for o, a in zip(members[1:], answers, strict=True) if not isinstance(a, BaseException)),
        ]
        if refused:
            for one in taken:
                one.spec = None
            await self._level()
            raise refused[0]
        return taken

    async def _level(self) -> None:
        """Whoever serves anything but the spec in force goes over to it; who cannot is replaced."""
        for one in self.serving():
            if one.spec is not self.spec:
                try:
                    await one.apply(self.spec, self._fitted(self.spec), back=True)
                except errors.WindlassError as e:
                    log.warning("%s cannot go over to generation %d: %s", one.name, self.spec.generation, e)
                    one.kill()

    async def _fall_back(self) -> None:
        async with self._changing:
            good = self._last_good.good
            if good is None or good.endpoints == self.spec.endpoints or not self._judge.looping:
                return
            why = f"generation {self.spec.generation} crashed its workers again and again"
            log.error("%s: generation %d is put back", why, good.generation)
            self._last_good.blame(self.spec, why)
            self._put_in_force(_with_models_of(good, self.spec), why)
            await self._level()

    # What workers and operators ask

    async def _asked(self, one: member.Member, body: channel.Body) -> Any:
        match body:
            case channel.Demand():
                return self._lending.demand(one, body.wants)
            case channel.Change():
                return await self.change(body.name, body.load)
            case _:
                raise errors.Unsupported(f"a supervisor is not asked for {type(body).__name__}")

    async def change(self, name: str, load: bool) -> None:
        """Load or unload a repository model in every worker; if one cannot load it, none has it that had it not."""
        async with self._changing:
            members = self.serving()
            answers = await _all(members, lambda one: one.ask(channel.Change(name, load=load)))
            refused = [a for one, a in zip(members, answers, strict=True) if a is not None and one.alive]
            if not refused:
                (self._loaded.add if load else self._loaded.discard)(name)
                return
            if load and name not in self._loaded:
                taken = [one for one, a in zip(members, answers, strict=True) if a is None]
                await _all(taken, lambda one: one.ask(channel.Change(name, load=False)))
            raise refused[0]

    def ready(self) -> bool:
        """Whether a worker that makes progress can answer."""
        return not self.stopping and any(self._board.age_s(one.place) < boards.STALE_S for one in self.serving())

    async def status(self) -> dict[str, Any]:
        """Every worker, and the models as the one with the newest spec tells them."""
        members = self._living()
        answers = await asyncio.gather(
            *(one.ask(channel.Status(), _ANSWER_S) for one in members), return_exceptions=True
        )
        told = [answer if isinstance(answer, dict) else None for answer in answers]
        newest = max(filter(None, told), key=lambda t: t["generation"], default={"generation": 0, "models": []})
        return {
            "generation": newest["generation"],
            "ready": self.ready(),
            "plan": msgspec.to_builtins(self.plan),
            "fell_back": self.fell_back,
            "restarts": self.restarts,
            "workers": [self._about(one, answer) for one, answer in zip(members, told, strict=True)],
            "models": newest["models"],
        }

    def _about(self, one: member.Member, told: dict[str, Any] | None) -> dict[str, Any]:
        age = self._board.age_s(one.place)
        return {
            "place": one.place,
            "pid": one.pid,
            "state": one.state,
            "connections": self._board.connections(one.place),
            "heartbeat_age_s": round(age, 3) if age < float("inf") else None,
            "generation": told["generation"] if told is not None else None,
        }

    def _spawn_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _with_models_of(wanted: spec.Spec, started: spec.Spec) -> spec.Spec:
    """The models of one spec; addresses and limits are those the server was started with, and no key comes back."""
    names = ("generation", "endpoints", "repository", "managed")
    return msgspec.structs.replace(started, **{name: getattr(wanted, name) for name in names})


async def _all(
    members: list[member.Member], ask: Callable[[member.Member], Awaitable[Any]]
) -> list[BaseException | None]:
    """None for each that did it, its error for each that did not."""
    answers = await asyncio.gather(*(ask(one) for one in members), return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else None for answer in answers]
