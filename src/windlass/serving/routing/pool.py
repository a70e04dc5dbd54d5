"""The models of one server: which versions are loaded, which answer, and the way from one state to the next.

Implements `types.directory.ModelDirectory`; driven by the control socket and, for repository models, by clients.
A new version is loaded, checked and warm before it takes a request, and the old one is unloaded when its last request
is answered. Must never let a failed load touch what serves.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from windlass import errors
from windlass.serving.door import visible
from windlass.serving.metrics import counters
from windlass.serving.routing import arms, differing, disagreements, exposures, firsts, loader, router, shadow
from windlass.serving.scheduling import polling
from windlass.types import directory, spec

Done: TypeAlias = Callable[[errors.WindlassError | None], None]
Part: TypeAlias = arms.Arm | shadow.Shadow
# By their identity: what is the same in memory.
_Parts: TypeAlias = dict[spec.Endpoint, Part]
_Loads: TypeAlias = dict[spec.Endpoint, loader.Loaded]
# What was prepared for a spec that does not come is let go after this.
PREPARED_S = 60.0


class Failed(msgspec.Struct, frozen=True):
    """An arm that could not be loaded, and why."""

    arm: str
    version: str
    digest: str
    reason: str


class Pool:
    """All of it belongs to the loop's thread, but for loading, which runs on a thread of its own."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        series: counters.Counters,
        *,
        verdicts: str = "",
        state: str = "",
        read: Callable[[], counters.Counters] | None = None,
    ) -> None:
        """`verdicts` is where probation remembers, `state` where exposures and disagreements are kept, if anywhere.

        Counts go to `series`; `read` gives those of all workers, where there are several.
        """
        self.generation = 0
        self.serving = True
        self.served: dict[str, router.Routing] = {}
        # Sticky keys that had a bad event.
        self.told = firsts.Told()
        self._loop = loop
        self._counters = series
        self._read = read or (lambda: series)
        self._poller = polling.Poller(loop)
        self._verdicts = verdicts
        self._state = state
        self._exposures = exposures.Exposures(state, series)
        self._random = random.Random()
        self._managed = False
        self._weights: Mapping[str, int] = {}
        # Loaded for a spec that is about to come, by whose signatures were trusted.
        self._prepared: dict[tuple[spec.Endpoint, tuple[str, ...]], loader.Loaded] = {}
        self._trusted: tuple[str, ...] = ()
        self._loading: dict[str, str] = {}
        # By endpoint, what could not be loaded last: beside what serves, or of the repository.
        self.failed: dict[str, Failed] = {}
        self._repository: dict[str, spec.Endpoint] = {}
        # One for each arm and shadow that is not closed yet; done when its memory is free.
        self._closing: dict[Part, asyncio.Future[None]] = {}
        self._changing = asyncio.Lock()
        self._loader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="loader")

    def expect(self, wanted: spec.Spec) -> None:
        """What the first spec names is loading: whoever asks for it before it is applied is told to come back."""
        self._loading.update({e.name: e.arms[0].version for e in wanted.endpoints})

    async def apply(self, wanted: spec.Spec, weights: Mapping[str, int] | None = None) -> None:
        """Serve what the spec says: load what is new, then swap all of it at once, then let the old drain.

        `weights` are the generations of the endpoints' weights, by name; the spec's own where it says none.

        What is in memory already is not loaded again: a change of shares alone loads nothing. `Conflict` if the spec
        is not newer than the one in force. Any error leaves everything as it was.
        """
        async with self._changing:
            self.check_generation(wanted)
            for endpoint in (*wanted.endpoints, *wanted.repository):
                router.check(endpoint)
            stale = self._unsigned(wanted.trusted)
            there = self._in_memory(stale)
            served = {name: routing.endpoint for name, routing in self.served.items() if name not in stale}
            weights = weights or {}
            new = [e for e in wanted.endpoints if served.get(e.name) != e or self._weighs_otherwise(e.name, weights)]
            loads = await self._load_all(new, there, wanted.trusted)
            routings = self._build(new, {e.name: weights.get(e.name, wanted.generation) for e in new}, there, loads)
            # From here on nothing can fail: all of the spec is in force, or none of it.
            self._loading.clear()
            self._weights = weights
            self._repository = {e.name: e for e in wanted.repository}
            self._managed = wanted.managed
            self._trusted = wanted.trusted
            self.generation = wanted.generation
            for routing in routings:
                self._swap(routing)
            keep = {e.name for e in wanted.endpoints} | (set(self._repository) - stale)
            for name in [name for name in self.served if name not in keep]:
                self._retire(self.served.pop(name))
            self.failed = {name: failed for name, failed in self.failed.items() if name in self._repository}

    def _weighs_otherwise(self, name: str, weights: Mapping[str, int]) -> bool:
        return self.served[name].generation != weights.get(name, self.served[name].generation)

    def check_generation(self, wanted: spec.Spec) -> None:
        """`Conflict` unless the spec is newer than the one in force."""
        if wanted.generation <= self.generation:
            raise errors.Conflict(f"generation {wanted.generation} is not above {self.generation}, which is in force")

    def _unsigned(self, trusted: tuple[str, ...]) -> set[str]:
        """What carries code, if a key was withdrawn: it has to be signed by another, which its next load checks."""
        if set(self._trusted) <= set(trusted):
            return set()
        return {name for name, routing in self.served.items() if any(part.loaded.apart for part in _parts(routing))}

    def _in_memory(self, stale: set[str]) -> _Parts:
        found: _Parts = {}
        for name, routing in self.served.items():
            if name not in stale:
                found.update((part.identity, part) for part in _parts(routing))
        return found

    async def prepare(self, wanted: spec.Spec) -> None:
        """Load what a spec names and is not in memory, for when it is applied. Others may be applied meanwhile."""
        for endpoint in wanted.endpoints:
            router.check(endpoint)
        there = self._in_memory(self._unsigned(wanted.trusted))
        loads = await self._load_all(list(wanted.endpoints), there, wanted.trusted)
        for key, loaded in loads.items():
            self._prepared[key, wanted.trusted] = loaded
            self._loop.call_later(PREPARED_S, self._forget, (key, wanted.trusted), loaded)

    def _forget(self, key: tuple[spec.Endpoint, tuple[str, ...]], loaded: loader.Loaded) -> None:
        if self._prepared.get(key) is loaded:
            del self._prepared[key]
            loaded.session.close()

    def _build(
        self, endpoints: list[spec.Endpoint], weights: Mapping[str, int], there: _Parts, loads: _Loads
    ) -> list[router.Routing]:
        """The routings of endpoints, from what is `there` and what was loaded; nothing is in force yet."""
        made: _Parts = {}
        try:
            for endpoint in endpoints:
                every = [arms.identity(part) for part in arms.parts(endpoint)]
                arms.check_alike(endpoint, [loads[key] if key in loads else there[key].loaded for key in every])
            for endpoint in endpoints:
                for part in arms.parts(endpoint):
                    key = arms.identity(part)
                    if key in loads:
                        made[key] = self._part(part, loads[key])
                        del loads[key]
        except Exception:
            for one in made.values():
                one.close(_nobody_waits)
            for loaded in loads.values():
                loaded.session.close()
            raise
        every_part = there | made
        routings = [self._routing(endpoint, weights[endpoint.name], every_part) for endpoint in endpoints]
        for one in made.values():
            self._watch(one)
        return routings

    async def _load_all(self, endpoints: list[spec.Endpoint], there: _Parts, trusted: tuple[str, ...]) -> _Loads:
        loads: _Loads = {}
        self._loading.update({e.name: e.arms[0].version for e in endpoints})
        try:
            for endpoint in endpoints:
                for part in arms.parts(endpoint):
                    key = arms.identity(part)
                    if key not in there and key not in loads:
                        prepared = self._prepared.pop((key, trusted), None)
                        if prepared is not None:
                            loads[key] = prepared
                            continue
                        work = functools.partial(loader.load, part, self._verdicts, trusted)
                        loads[key] = await self._loop.run_in_executor(self._loader, work)
                self.failed.pop(endpoint.name, None)
        except Exception as e:
            # Whatever it was, nothing of a spec that failed stays in memory.
            for loaded in loads.values():
                loaded.session.close()
            reason = e.message if isinstance(e, errors.WindlassError) else "an unexpected fault"
            arm = part.arms[0]
            self.failed[endpoint.name] = Failed(arm.name, arm.version, arm.digest, reason)
            raise
        finally:
            for endpoint in endpoints:
                self._loading.pop(endpoint.name, None)
        return loads

    def _part(self, part: spec.Endpoint, loaded: loader.Loaded) -> Part:
        """The arm or the shadow of a loaded version."""
        if part.shadow is None:
            return arms.prepare(self._loop, self._counters, self._poller, part, loaded)
        counts = shadow.Counts(self._counters, part.name, part.shadow.arm.name)
        store, log = disagreements.Store(self._state, part.name), differing.Log(self._state, part.name)
        made = shadow.Shadow(self._loop, part, loaded, counts, store, log)
        made.start()
        return made

    def _routing(self, endpoint: spec.Endpoint, generation: int, every: _Parts) -> router.Routing:
        parts = [every[arms.identity(part)] for part in arms.parts(endpoint)]
        loaded = tuple(part for part in parts if isinstance(part, arms.Arm))
        mirrored = next((part for part in parts if isinstance(part, shadow.Shadow)), None)
        routing = router.routing(
            endpoint, generation, loaded, mirrored, self._exposures, self.told, self._random.random
        )
        if routing.view.route is not None:
            self._exposures.start()
        return routing

    def _watch(self, part: Part) -> None:
        """Close it when no routing uses it any more."""
        freed = self._closing[part] = self._loop.create_future()

        def closed() -> None:
            del self._closing[part]
            freed.set_result(None)

        part.uses.retire(lambda: part.close(closed))

    def _swap(self, new: router.Routing) -> None:
        old = self.served.get(new.endpoint.name)
        self.served[new.endpoint.name] = new
        if new.shadow is not None and new.endpoint.shadow is not None:
            new.shadow.settings = new.endpoint.shadow
        if old is not None:
            self._retire(old)

    def _retire(self, old: router.Routing) -> None:
        """Let go of its arms once its last request is answered."""

        def drained() -> None:
            for part in _parts(old):
                part.uses.release()

        old.lease.retire(drained)

    def close(self) -> None:
        """Unload everything as it drains."""
        self.serving = False
        for old in self.served.values():
            self._retire(old)
        for part in list(self._closing):
            if isinstance(part, shadow.Shadow):
                part.finish()
        for key, loaded in list(self._prepared.items()):
            self._forget(key, loaded)
        self._exposures.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def freed(self, within_s: float) -> None:
        """Wait until the memory of all that was retired is free, or so long."""
        if self._closing:
            await asyncio.wait(list(self._closing.values()), timeout=within_s)

    # directory.ModelDirectory

    def find(self, name: str, version: str = "") -> directory.ModelView:
        """The endpoint's view; `NotFound` or `Unavailable` in the words that clients look for."""
        routing = self.served.get(name)
        if routing is not None:
            view = routing.versions.get(version) if version else routing.view
            if view is not None:
                return view
            raise errors.NotFound(
                f"Request for unknown model: '{name[:128]}' version {version[:16]} is not found: "
                f"version {' and '.join(routing.versions)} is served"
            )
        if name in self._loading:
            raise errors.Unavailable(f"model '{name}' is loading", retry_after_s=1)
        if name in self.failed:
            raise errors.Unavailable(f"model '{name}' failed to load", retry_after_s=30)
        raise visible.unknown(name)

    def states(self) -> tuple[directory.ModelState, ...]:
        """What is served (each version), loading, failed, or may be loaded."""
        found = {
            name: [directory.ModelState(name, version, "READY") for version in routing.versions]
            for name, routing in self.served.items()
        }
        for name, version in self._loading.items():
            found.setdefault(name, [directory.ModelState(name, version, "LOADING")])
        for name, endpoint in self._repository.items():
            reason = self.failed[name].reason if name in self.failed else "unloaded"
            found.setdefault(name, [directory.ModelState(name, endpoint.arms[0].version, "UNAVAILABLE", reason)])
        for name, failed in self.failed.items():
            found.setdefault(name, [directory.ModelState(name, failed.version, "UNAVAILABLE", failed.reason)])
        return tuple(state for name in sorted(found) for state in found[name])

    def live(self) -> bool:
        """The loop turns, or nobody could ask."""
        return True

    def ready(self) -> bool:
        """True once the first spec is in force, until the server drains."""
        return self.serving and self.generation > 0

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:
        """Counts of one endpoint's versions, or of all that are served; `NotFound` if it is not."""
        if name:
            self.find(name, version)
        names = [name] if name else sorted(self.served)
        found = self._read()
        return tuple(
            found.statistics(each, one) for each in names for one in self.served[each].versions if version in ("", one)
        )

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """What is in force for one endpoint: batching, placement, measurements, limits; and its arms, if several."""
        found = self.find(name, version)
        routing = self.served[name]
        arm = next(arm for arm in routing.arms if arm.view.version == found.version)
        return arm.describe() | router.describe(routing)

    def load(self, name: str, done: Done) -> None:
        """Load (or reload) a repository model by name."""
        self._change(done, self._load_one, name)

    def unload(self, name: str, done: Done) -> None:
        """Unload a repository model; it can be loaded again. Done when its memory is free."""
        self._change(done, self._unload_one, name)

    def _change(self, done: Done, change: Callable[[str], Any], name: str) -> None:
        if self._managed:
            done(errors.NotAllowed("this server's models are managed: clients may not load or unload them"))
            return
        if name not in self._repository:
            done(errors.NotFound(f"failed to load '{name[:128]}': no such model in the repository"))
            return

        def finished(task: asyncio.Task[None]) -> None:
            error = task.exception()
            if error is not None and not isinstance(error, errors.WindlassError):
                error = errors.InternalError(f"failed to change '{name}': {error}")
            done(error)

        self._loop.create_task(change(name)).add_done_callback(finished)

    async def _load_one(self, name: str) -> None:
        async with self._changing:
            endpoint = self._repository[name]
            loads = await self._load_all([endpoint], {}, self._trusted)
            generation = self._weights.get(name, self.generation)
            self._swap(self._build([endpoint], {name: generation}, {}, loads)[0])

    async def _unload_one(self, name: str) -> None:
        async with self._changing:
            old = self.served.pop(name, None)
        if old is not None:
            self._retire(old)
        # What is left of it in memory drains now: a request may hold it for long, and no other change waits for that.
        freed = [waits for part, waits in self._closing.items() if part.identity.name == name]
        if freed:
            await asyncio.wait(freed)


def _parts(routing: router.Routing) -> tuple[Part, ...]:
    """One entry for each use: two arms may be one in memory."""
    return routing.arms if routing.shadow is None else (*routing.arms, routing.shadow)


def _nobody_waits() -> None:
    """What was made for a spec that failed goes without a word."""
