"""The workers of one server: one spec in force in all of them, and what is done when one dies.

Driven by the supervisor and its control socket. A spec is tried by one worker, then by the others, and is in force in
all or in none. Must never serve a model itself, and never let a request wait for what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from typing import Any

import msgspec

from windlass import errors
from windlass.serving import channel, crashes, last_good, lending, member, places, sizing, starting, weights
from windlass.serving.door import door as doors
from windlass.serving.metrics import outcomes
from windlass.serving.routing import firsts
from windlass.types import spec

log = logging.getLogger("windlass")
_WATCH_S = 0.25
_ANSWER_S = 1.0
_ANY_UP_S = 5.0
# Beyond the grace time a worker tells those who still wait, then ends.
_LAST_S = 1.0
# So many workers may be asked for later, or as many as there are cores or were asked for first.
_ROOM = 4


class Fleet:
    """All of it belongs to the loop's thread. `spec` is in force, or is being loaded for the first time."""

    def __init__(self, wanted: spec.Spec, listening: socket.socket, *, cores: int, quiet: bool = False) -> None:
        """`listening` is the socket that all workers accept from; the fleet closes it."""
        self.spec = wanted
        self.plan = sizing.Plan(wanted.workers or 1, 0, "not chosen yet")
        self.fell_back = self.refused = ""
        self.restarts = 0
        self.stopping = False
        # Whether every place has been filled once.
        self._started = False
        self._cores = cores
        self._lending = lending.Lending(wanted.state)
        self._most = max(cores, wanted.workers, _ROOM)
        # While a worker is replaced, two of them have a place.
        self.places = places.Places(listening, 2 * self._most, self._lending, self._asked, self._died, quiet=quiet)
        self.memory = self.places.memory
        self._weights = weights.Weights()
        self._heard = firsts.Heard()
        self._instance = secrets.token_hex(8)
        self._last_good = last_good.LastGood(wanted.state)
        self._judge = crashes.Judge(self.plan.workers)
        # What a server that starts now would be planned like.
        self.next_plan = self.plan
        self._loaded: set[str] = set()
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # Starting and stopping

    async def start(self, begun: starting.Starting | None = None) -> None:
        """Fill every place and put the spec in force; raises what the first worker says against it.

        `begun` is a process that has been started for it already.
        """
        async with self._changing:
            self._begin_with_good()
            self._lending.use(self.spec.keys)
            self._spawn_task(self._lending.run())
            self._spawn_task(self._watch())
            self._weights.keep(self.spec, self._weights.propose(self.spec))
            first = await self._fill(begun)
            await self._choose(first)
            others = [await self._fill() for _ in range(self.plan.workers - 1)]
            await first.ask(channel.Open(self.plan.workers == 1))
            await self._bring_up(first, opened=True)
            refused = await places.ask_all(others, self._bring_up)
            for one, error in zip(others, refused, strict=True):
                # One that died is started again like any other.
                if error is not None and one.alive:
                    raise error
            self._judge.in_force()
        self._started = True
        for one in self.places.serving():
            one.tell(channel.Ready(ready=True))

    def _begin_with_good(self) -> None:
        why = self._last_good.why_bad(self.spec)
        good = self._last_good.good
        if why and good is not None:
            self.fell_back = why
            self.spec = _with_models_of(good, self.spec)
            log.warning("the spec's models are not served: %s", why)

    async def _choose(self, first: member.Member) -> None:
        self.plan = self.next_plan = await self._planned(first)
        self._judge = crashes.Judge(self.plan.workers)
        log.info("%s", self.plan.reason)

    async def _planned(self, one: member.Member) -> sizing.Plan:
        """How a server with the spec in force would be planned if it started now."""
        asked = self.spec.workers
        if asked == 1 or (not asked and self._cores == 1):
            return sizing.choose(self._cores, asked, 0)
        weight, programs = await one.ask(channel.Weigh(self.spec))
        return sizing.choose(self._cores, asked, weight, programs)

    async def close(self) -> None:
        """Not ready from now on; go on for `pre_stop_s`, then let every worker finish what is in flight and end."""
        self.stopping = True
        for one in self.places.living():
            one.state = member.LEAVING
            one.tell(channel.Ready(ready=False))
        await asyncio.sleep(self.spec.pre_stop_s)
        self.places.shut()
        await asyncio.gather(*(self._leave(one) for one in self.places.living()))
        self._lending.save()

    async def _leave(self, one: member.Member) -> None:
        await one.leave(self.spec.grace_s + _LAST_S)

    # Places

    async def _fill(self, begun: starting.Starting | None = None) -> member.Member:
        return await self.places.fill(channel.Start(self.spec), begun)

    async def _bring_up(self, one: member.Member, *, opened: bool = False) -> None:
        """Put in force there what is in force; only then it takes connections."""
        await self._catch_up(one)
        if not opened:
            await one.ask(channel.Open(self.plan.workers == 1))
        one.state = member.SERVING
        # What came into force while it opened; from here on it is told with the others.
        await self._catch_up(one)
        if self._started and one.state == member.SERVING:
            one.tell(channel.Ready(ready=True))

    async def _catch_up(self, one: member.Member) -> None:
        while one.spec is not self.spec:
            await one.apply(self.spec, self._sent(back=one.spec is not None))
        for name in sorted(self._loaded - one.loaded):
            await one.change(name, load=True)

    def _sent(self, *, back: bool) -> channel.Apply:
        """What is in force, as a worker is told."""
        return channel.Apply(self.plan.fitted(self.spec), back, dict(self._weights.in_force))

    def _died(self, one: member.Member, lost: int) -> None:
        """A worker has ended that was not to."""
        if self.stopping:
            return
        pause = self._judge.died()
        self.restarts += 1
        log.warning("%s ended with status %d; %d requests were lost", one.name, one.ended.result(), lost)
        if self._judge.looping:
            self._spawn_task(self._fall_back())
        self._spawn_task(self._refill(pause))

    async def _refill(self, pause_s: float = 0.0) -> None:
        """Fill one place, if one is free."""
        await asyncio.sleep(pause_s)
        if self.stopping or self.places.filled() >= self.plan.workers:
            return
        if not self.places.room():
            # Those that leave still have theirs.
            self._spawn_task(self._refill(_WATCH_S))
            return
        try:
            one = await self._fill()
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
            self.places.end_hung()
            if not self._judge.on_trial and not self._changing.locked():
                self._last_good.keep(self.spec)

    async def restart(self) -> None:
        """Replace every worker by a new one that is warm before the old one leaves."""
        async with self._changing:
            try:
                for old in self.places.serving():
                    if old.alive and not self.stopping:
                        await self._replace(old)
            finally:
                # A place that was left free, since the new one was there already, or one whose new one did not come up.
                for _ in range(self.plan.workers - self.places.filled()):
                    self._spawn_task(self._refill())
        log.info("every worker was replaced")

    async def _replace(self, old: member.Member) -> None:
        new = await self._fill()
        try:
            await self._bring_up(new)
        except errors.WindlassError:
            await new.leave(0)
            raise
        await self._leave(old)

    # The spec

    async def apply(self, wanted: spec.Spec) -> tuple[str, ...]:
        """Put a spec in force in every worker, or in none; the names of workers that had to be replaced for it.

        One that loads nothing does not wait for one that does. Revoked keys end at once, whatever becomes of the
        models. `Conflict` if the spec is not newer than the one in force, `GateRefused` if its models crashed before.
        """
        async with self._changing:
            self._check(wanted)
            unreached = await self._revoke(wanted)
        try:
            await self._prepare(wanted)
            async with self._changing:
                self._check(wanted)
                await self._go_over(wanted)
        except errors.WindlassError as e:
            if not isinstance(e, errors.Conflict):
                self.refused = f"generation {wanted.generation} was refused: {e}"
            raise
        return unreached

    def _check(self, wanted: spec.Spec) -> None:
        doors.read_pepper(wanted.key_pepper)
        if wanted.workers > self._most:
            raise errors.UsageError(f"there is room for {self._most} workers", hint="Start anew to have more.")
        if wanted.generation <= self.spec.generation:
            now = self.spec.generation
            raise errors.Conflict(f"generation {wanted.generation} is not above {now}, which is in force")
        why = self._last_good.why_bad(wanted)
        if why:
            raise errors.GateRefused(f"this spec's models are not served: {why}")

    async def _go_over(self, wanted: spec.Spec) -> None:
        self._lending.use(wanted.keys)
        generations = self._weights.propose(wanted)
        try:
            taken = await self._try(wanted, generations)
        except errors.WindlassError:
            self._lending.use(self.spec.keys)
            raise
        if not self._judge.looping:
            self._last_good.keep(self.spec)
        names = ("keys", "key_pepper", "trusted")
        others = {name: getattr(wanted, name) for name in names} | {"workers": wanted.workers or self.spec.workers}
        self._put_in_force(_with_models_of(wanted, msgspec.structs.replace(self.spec, **others)), generations, why="")
        for one in taken:
            one.spec = self.spec
        self._loaded &= {endpoint.name for endpoint in wanted.repository}
        await self._level()
        with contextlib.suppress(errors.WindlassError):
            self.next_plan = await self._planned(taken[0])
        if wanted.workers not in (0, self.plan.workers):
            await self._scale(wanted.workers)

    async def _scale(self, workers: int) -> None:
        """Go over to so many workers, on as many threads; new ones load and old ones drain after this returns."""
        self.plan = msgspec.structs.replace(sizing.choose(self._cores, workers, 0), threads=self.plan.threads)
        self._judge = crashes.Judge(workers)
        if workers > 1:
            await places.ask_all(self.places.serving(), lambda one: one.ask(channel.Open(alone=False), _ANSWER_S))
        for one in self.places.least_useful(self.places.filled() - workers):
            # Its place is not to be filled again.
            one.state = member.LEAVING
            self._spawn_task(self._leave(one))
        for _ in range(workers - self.places.filled()):
            self._spawn_task(self._refill())

    def _put_in_force(self, wanted: spec.Spec, generations: dict[str, int], why: str) -> None:
        self.spec = wanted
        self._weights.keep(wanted, generations)
        self.fell_back, self.refused = why, ""
        self._judge.in_force()

    async def _revoke(self, wanted: spec.Spec) -> tuple[str, ...]:
        known = {key.id for key in self.spec.keys}
        left = tuple(key for key in wanted.keys if key.id in known)
        if left == self.spec.keys and wanted.key_pepper == self.spec.key_pepper:
            return ()
        # Whoever starts or comes back from now on starts without them.
        before, self.spec = self.spec, msgspec.structs.replace(self.spec, keys=left, key_pepper=wanted.key_pepper)
        living = self.places.living()
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

    async def _prepare(self, wanted: spec.Spec) -> None:
        """Have every worker load what is new. Takes its time, while specs that load nothing come into force."""
        members = await places.first_up(self.places, _ANY_UP_S)
        body = channel.Prepare(self.plan.fitted(wanted))
        refused = [a for a in await places.ask_first(members, lambda one: one.ask(body)) if a is not None]
        if refused:
            raise refused[0]

    async def _try(self, wanted: spec.Spec, generations: dict[str, int]) -> list[member.Member]:
        """One worker first, then the others: all of them; if one refuses, those that took it go back."""
        members = await places.first_up(self.places, _ANY_UP_S)
        body = channel.Apply(self.plan.fitted(wanted), weights=generations)
        answers = await places.ask_first(members, lambda one: one.ask(body))
        refused = [answer for answer in answers if answer is not None]
        taken = [one for one, answer in zip(members, answers, strict=True) if answer is None]
        if refused:
            for one in taken:
                one.spec = None
            await self._level()
            raise refused[0]
        return taken

    async def _level(self) -> None:
        """Whoever serves anything but the spec in force goes over to it; who cannot is replaced."""
        for one in self.places.serving():
            if one.spec is not self.spec:
                try:
                    await one.apply(self.spec, self._sent(back=True))
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
            back = _with_models_of(good, self.spec)
            self._put_in_force(back, self._weights.propose(back), why)
            await self._level()

    # What workers and operators ask

    async def _asked(self, one: member.Member, body: channel.Body) -> Any:
        match body:
            case channel.Demand():
                return self._lending.demand(one, body.wants)
            case channel.Told():
                return self._heard.hear(body.bad)
            case channel.Change():
                return await self.change(body.name, body.load)
            case _:
                raise errors.Unsupported(f"a supervisor is not asked for {type(body).__name__}")

    async def change(self, name: str, load: bool) -> None:
        """Load or unload a repository model in every worker; if one cannot load it, none has it that had it not."""
        async with self._changing:
            members = self.places.serving()
            answers = await places.ask_all(members, lambda one: one.change(name, load=load))
            refused = [a for one, a in zip(members, answers, strict=True) if a is not None and one.alive]
            if not refused:
                (self._loaded.add if load else self._loaded.discard)(name)
                return
            if load and name not in self._loaded:
                taken = [one for one, a in zip(members, answers, strict=True) if a is None]
                await places.ask_all(taken, lambda one: one.change(name, load=False))
            raise refused[0]

    def known(self) -> outcomes.Known:
        """What the outcomes mean."""
        endpoints, drawn = self.spec.endpoints, self._weights.drawn
        generations = self._weights.in_force
        return outcomes.Known(self._instance, self.spec.generation, endpoints, generations, drawn, self._heard.count)

    def ready(self) -> bool:
        """Whether a worker that makes progress can answer; at the start, once all that were planned can."""
        return self._started and not self.stopping and self.places.ready()

    def _spawn_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _with_models_of(wanted: spec.Spec, started: spec.Spec) -> spec.Spec:
    """The models of one spec; addresses and limits are those the server was started with, and no key comes back."""
    names = ("generation", "endpoints", "repository", "managed")
    return msgspec.structs.replace(started, **{name: getattr(wanted, name) for name in names})
