"""The models of one server: which versions are loaded, which answers, and the way from one to the next.

Implements `types.directory.ModelDirectory`; driven by the control socket and, for repository models, by clients.
A new version is loaded, checked and warm before it takes a request, and the old one is unloaded when its last request
is answered. Must never let a failed load touch what serves.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import errors, plugins
from windlass.serving import batcher, counters, instance, loader, polling, stack, visible
from windlass.types import contract, directory, refs, spec


class Served(msgspec.Struct, frozen=True):
    """One endpoint that answers."""

    endpoint: spec.Endpoint
    loaded: loader.Loaded
    view: directory.ModelView
    batch: batcher.Batcher
    instance: instance.Inline | instance.Threaded


class Pool:
    """All of it belongs to the loop's thread, but for loading, which runs on a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, series: counters.Counters, *, verdicts: str = "") -> None:
        self.generation = 0
        self.serving = True
        self.served: dict[str, Served] = {}
        self._loop = loop
        self._counters = series
        self._poller = polling.Poller(loop)
        self._verdicts = verdicts
        self._managed = False
        self._loading: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._repository: dict[str, spec.Endpoint] = {}
        self._changing = asyncio.Lock()
        self._loader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def apply(self, wanted: spec.Spec) -> None:
        """Serve what the spec says: load what is new, then swap all of it at once, then let the old drain.

        `Conflict` if the spec is not newer than the one in force. Any load error leaves everything as it was.
        """
        async with self._changing:
            self.check_generation(wanted)
            for endpoint in (*wanted.endpoints, *wanted.repository):
                check_endpoint(endpoint)
            new = [e for e in wanted.endpoints if e.name not in self.served or self.served[e.name].endpoint != e]
            loaded = await self._load_all(new)
            prepared = self._prepare_all(new, loaded)
            # From here on nothing can fail: all of the spec is in force, or none of it.
            self._repository = {e.name: e for e in wanted.repository}
            self._managed = wanted.managed
            self.generation = wanted.generation
            for served in prepared:
                self._swap(served)
            keep = {e.name for e in wanted.endpoints} | set(self._repository)
            for name in [name for name in self.served if name not in keep]:
                self._retire(self.served.pop(name))
            self._failed = {name: reason for name, reason in self._failed.items() if name in keep}

    def check_generation(self, wanted: spec.Spec) -> None:
        """`Conflict` unless the spec is newer than the one in force."""
        if wanted.generation <= self.generation:
            raise errors.Conflict(f"generation {wanted.generation} is not above {self.generation}, which is in force")

    async def _load_all(self, endpoints: list[spec.Endpoint]) -> list[loader.Loaded]:
        loaded: list[loader.Loaded] = []
        self._loading.update({e.name: e.arms[0].version for e in endpoints})
        try:
            for endpoint in endpoints:
                loaded.append(await self._loop.run_in_executor(self._loader, loader.load, endpoint, self._verdicts))
                self._failed.pop(endpoint.name, None)
        except Exception as e:
            # Whatever it was, nothing of a spec that failed stays in memory.
            for version in loaded:
                version.session.close()
            self._failed[endpoint.name] = e.message if isinstance(e, errors.WindlassError) else "an unexpected fault"
            raise
        finally:
            for endpoint in endpoints:
                self._loading.pop(endpoint.name, None)
        return loaded

    def _prepare_all(self, endpoints: list[spec.Endpoint], loaded: list[loader.Loaded]) -> list[Served]:
        try:
            return [self._prepare(endpoint, version) for endpoint, version in zip(endpoints, loaded, strict=True)]
        except Exception:
            for version in loaded:
                version.session.close()
            raise

    def _prepare(self, endpoint: spec.Endpoint, loaded: loader.Loaded) -> Served:
        model = loaded.session.model
        place: instance.Inline | instance.Threaded
        place = instance.Inline(model) if loaded.inline else instance.Threaded(self._loop, model)
        manifest = loaded.session.package.manifest
        best = loaded.timing.best_rows
        plan = batcher.Plan(
            max_rows=min(best, endpoint.max_batch) if endpoint.max_batch else best,
            max_queue=endpoint.max_queue or max(256, 32 * best),
            delay_s=endpoint.max_queue_delay_ms / 1000,
        )
        series = self._counters.runs_of(endpoint.name, loaded.version)
        answered_one = self._poller.answered if loaded.inline else None
        batch = batcher.Batcher(
            self._loop, place, plan, manifest.signature, series, loaded.version, answered_one=answered_one
        )
        view = directory.ModelView(
            name=endpoint.name,
            version=loaded.version,
            versions=(loaded.version,),
            platform=plugins.load("runtimes", manifest.model.runtime).platform,
            signature=manifest.signature,
            contract=_contract(loaded, endpoint),
            limits=manifest.limits,
            transformer=loaded.session.transformer,
            labels=manifest.labels,
            infer=stack.compose(
                self._loop, batch.submit, timeout_s=endpoint.timeout_ms / 1000, timed=not loaded.inline
            ),
            lease=directory.Lease(),
        )
        return Served(endpoint, loaded, view, batch, place)

    def _swap(self, new: Served) -> None:
        old = self.served.get(new.endpoint.name)
        self.served[new.endpoint.name] = new
        if old is not None:
            self._retire(old)

    def _retire(self, old: Served) -> None:
        old.view.lease.retire(old.instance.close)

    def close(self) -> None:
        """Unload everything as it drains."""
        self.serving = False
        for old in self.served.values():
            self._retire(old)
        self._loader.shutdown(wait=False, cancel_futures=True)

    # directory.ModelDirectory

    def find(self, name: str, version: str = "") -> directory.ModelView:
        """The endpoint's view; `NotFound` or `Unavailable` in the words that clients look for."""
        served = self.served.get(name)
        if served is not None and (not version or version == served.view.version):
            return served.view
        if name in self._loading and served is None:
            raise errors.Unavailable(f"model '{name}' is loading", retry_after_s=1)
        if served is None and name in self._failed:
            raise errors.Unavailable(f"model '{name}' failed to load", retry_after_s=30)
        if served is None:
            raise visible.unknown(name)
        raise errors.NotFound(
            f"Request for unknown model: '{name[:128]}' version {version[:16]} is not found: "
            f"version {served.view.version} is served"
        )

    def states(self) -> tuple[directory.ModelState, ...]:
        """What is served, loading, failed, or may be loaded."""
        found = {name: directory.ModelState(name, s.view.version, "READY") for name, s in self.served.items()}
        for name, endpoint in self._repository.items():
            found.setdefault(
                name,
                directory.ModelState(name, endpoint.arms[0].version, "UNAVAILABLE", self._failed.get(name, "unloaded")),
            )
        for name, reason in self._failed.items():
            found.setdefault(name, directory.ModelState(name, "", "UNAVAILABLE", reason))
        for name, version in self._loading.items():
            if name not in self.served:
                found[name] = directory.ModelState(name, version, "LOADING")
        return tuple(found[name] for name in sorted(found))

    def live(self) -> bool:
        """The loop turns, or nobody could ask."""
        return True

    def ready(self) -> bool:
        """True once the first spec is in force, until the server drains."""
        return self.serving and self.generation > 0

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:
        """Counts of one endpoint, or of all that are served; `NotFound` if it is not."""
        views = [self.find(name, version)] if name else [s.view for _, s in sorted(self.served.items())]
        return tuple(self._counters.statistics(view.name, view.version) for view in views)

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """What is in force for one endpoint: batching, placement, measurements, limits."""
        view = self.find(name, version)
        served = self.served[view.name]
        return {
            "digest": served.loaded.digest,
            "placement": "inline" if served.loaded.inline else "thread",
            "threads": served.loaded.threads,
            "preferred_batch": served.loaded.timing.best_rows,
            "measured_run_us": {str(n): round(s * 1e6, 1) for n, s in served.loaded.timing.seconds.items()},
            "max_batch": view.limits.max_batch,
            "max_queue_delay_ms": served.endpoint.max_queue_delay_ms,
            "timeout_ms": served.endpoint.timeout_ms,
            "load_s": round(served.loaded.seconds, 3),
        }

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Load (or reload) a repository model by name."""
        self._change(done, self._load_one, name)

    def unload(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Unload a repository model; it can be loaded again."""
        self._change(done, self._unload_one, name)

    def _change(
        self, done: Callable[[errors.WindlassError | None], None], change: Callable[[str], Any], name: str
    ) -> None:
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
            loaded = await self._load_all([endpoint])
            self._swap(self._prepare_all([endpoint], loaded)[0])

    async def _unload_one(self, name: str) -> None:
        async with self._changing:
            old = self.served.pop(name, None)
        if old is not None:
            # A request may hold it for long: no other change waits for that.
            freed = self._loop.create_future()
            old.view.lease.retire(lambda: freed.set_result(None))
            await freed
            old.instance.close()


def check_endpoint(endpoint: spec.Endpoint) -> None:
    """`UsageError` if an endpoint of a spec cannot be served as it stands."""
    refs.check_name(endpoint.name)
    if len(endpoint.arms) != 1:
        raise errors.Unsupported(f"endpoint '{endpoint.name}' has {len(endpoint.arms)} arms: this server routes to one")


def _contract(loaded: loader.Loaded, endpoint: spec.Endpoint) -> contract.Contract:
    limits = loaded.session.package.manifest.limits
    if not endpoint.max_batch or endpoint.max_batch >= limits.max_batch:
        return loaded.session.contract
    return contract.Contract(
        loaded.session.package.manifest.signature, max_rows=endpoint.max_batch, max_elements=limits.max_elements
    )
