"""One worker: loads what its supervisor says, answers callers until it is told to stop, then loses nothing.

Started by `starting.py`, told its place by its supervisor. Must never outlive its supervisor, and never
import the registry, a capture library or anything of the control plane: it is given paths and digests.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from windlass import errors, plugins, telemetry
from windlass.packaging import archive, contained, session
from windlass.security import confine
from windlass.serving import channel, starting
from windlass.serving.door import door as doors
from windlass.serving.door import identity, leases, limits, routes
from windlass.serving.metrics import access_log, counters, log_writer, totals
from windlass.serving.metrics import board as boards
from windlass.serving.routing import pool, replicated
from windlass.serving.transport import acceptor, addresses, arrival, listener, tls
from windlass.storage import blobs
from windlass.types import spec

log = logging.getLogger("windlass")
# A thread that comes back with a result gets its turn after this, not after Python's 5 ms.
SWITCH_INTERVAL_S = 5e-4
BEAT_S = 0.1
_THREADS = 2
_STDERR = 2
# For what is written last to leave the process.
_LAST_WORDS_S = 0.5
# For models to give back what is more than memory: processes, folders.
_UNLOAD_S = 0.5
_COLLECT_EVERY = 20_000


class Worker:
    """The models and the door of this process. All of it runs on one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wanted: spec.Spec,
        series: counters.Counters | None = None,
        read: Callable[[], counters.Counters] | None = None,
    ) -> None:
        """Counts go to `series`; `read` gives those of all workers."""
        series = counters.Counters() if series is None else series
        self.pool = pool.Pool(loop, series, verdicts=wanted.verdicts, state=wanted.state, read=read)
        self.pool.expect(wanted)
        self.allowances = limits.Allowances()
        self._loop = loop
        self._wanted = wanted
        self._series = series
        self._executor = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="prepare")
        self._access_log = access_log.Log(_STDERR, series) if wanted.access_log else None

    def listener(self, models: replicated.Replicated) -> listener.Listener:
        """What the connections of callers share; requests are answered as unavailable until their model is loaded."""
        wanted = self._wanted
        names = plugins.catalog()["protocols"]
        public = routes.RouteTable(plugins.load("protocols", name)() for name in names)
        host, _ = addresses.split(wanted.listen)
        # Beyond loopback somebody else has vouched for the network (the CLI asks); names are theirs to choose.
        hosts = wanted.hosts or (() if addresses.is_loopback(host) else ("*",))
        trusted = identity.LOCAL if not wanted.keys else None
        self._door = doors.Door(public, models, wanted.limits, hosts=hosts, trusted=trusted, allowances=self.allowances)
        self._door.use_keys(wanted.keys, wanted.key_pepper)
        self._listener = listener.Listener(
            self._loop,
            self._door,
            self._series,
            self._executor,
            access_log=self._access_log,
            allow=wanted.allow,
        )
        return self._listener

    def revoke(self, left: tuple[spec.Key, ...], pepper: str) -> None:
        """Only these keys from now on."""
        self._door.use_keys(left, pepper)
        self._wanted = msgspec.structs.replace(self._wanted, keys=left, key_pepper=pepper)

    async def apply(self, wanted: spec.Spec, *, back: bool = False, weights: Mapping[str, int] | None = None) -> None:
        """Put a spec in force: models and keys. Addresses and limits are those the process was started with.

        `Conflict` if it is not newer than the one in force, unless it is to go `back` to it.
        """
        doors.read_pepper(wanted.key_pepper)
        if back:
            self.pool.generation = wanted.generation - 1
        self.pool.check_generation(wanted)
        # Revoking does not wait for models to load, nor for them to load well; a new key comes with its models.
        known = {key.id for key in self._wanted.keys}
        self.revoke(tuple(key for key in wanted.keys if key.id in known), wanted.key_pepper)
        await self.pool.apply(wanted, weights)
        self._door.use_keys(wanted.keys, wanted.key_pepper)
        self._wanted = msgspec.structs.replace(
            self._wanted, generation=wanted.generation, keys=wanted.keys, key_pepper=wanted.key_pepper
        )

    async def finish(self) -> None:
        """Finish what is in flight within `grace_s`, then tell those who still wait, and unload."""
        one = self._listener
        one.drain()
        give_up = self._loop.time() + self._wanted.grace_s
        while one.connections and self._loop.time() < give_up:
            await asyncio.sleep(0.01)
        if one.connections:
            log.warning(
                "%d connections were still open after the grace time of %s s",
                len(one.connections),
                self._wanted.grace_s,
            )
            one.end(errors.Unavailable("the server is stopping and could not wait for this answer"))
            # Who still sends reads its answer first: what is closed over unread data loses what was written.
            give_up = self._loop.time() + _LAST_WORDS_S
            while one.connections and self._loop.time() < give_up:
                await asyncio.sleep(0.01)
        self.pool.close()
        await self.pool.freed(_UNLOAD_S)
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._access_log is not None:
            self._access_log.close()

    def status(self) -> dict[str, Any]:
        """What is served, loading or failed."""
        models = self.pool
        arms = [(routing.endpoint.name, arm.loaded) for routing in models.served.values() for arm in routing.arms]
        sizes = {(name, loaded.version): _bytes(loaded.session.package) for name, loaded in arms}
        return {
            "processes": [
                {"model": name, "version": loaded.version, "pid": model.pid, "restarts": model.restarts}
                for name, loaded in arms
                if isinstance(model := loaded.session.model, contained.Contained)
            ],
            "generation": models.generation,
            "ready": models.ready(),
            "refused": [{"name": name, **msgspec.to_builtins(failed)} for name, failed in models.failed.items()],
            "models": [
                {"name": s.name, "version": s.version, "state": s.state, "reason": s.reason}
                | ({"bytes": sizes.get((s.name, s.version), 0)} if s.state == "READY" else {})
                | (models.config(s.name, s.version) if s.state == "READY" else {})
                for s in models.states()
            ],
        }

    @property
    def under_way(self) -> int:
        """Requests of callers that have no answer yet."""
        return self._door.in_flight

    def count(self) -> None:
        """Show what is open and waiting now."""
        self._series.gauge(telemetry.CONNECTIONS)[0] = len(self._listener.connections)
        self._series.gauge(telemetry.PENDING)[0] = self._door.pending_bytes
        waiting: collections.Counter[tuple[str, ...]] = collections.Counter()
        for routing in self.pool.served.values():
            # Two arms may be one in memory.
            for arm in set(routing.arms):
                waiting[arm.view.name, arm.view.version, arm.variant] += arm.batch.queued_rows
        for key, runs in self._series.runs.items():
            runs.queued[0] = waiting[key]


def _bytes(package: archive.Package) -> int:
    """The size of a package's model."""
    return sum(blob.size for blob in package.manifest.model.blobs.values())


class Post:
    """This worker's place in its fleet: does what the supervisor says, and shows that the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, place: int, shared: list[int]) -> None:
        """`shared` are the descriptors of the listening socket, the board and the counters."""
        listen, board, memory = shared
        self.done = loop.create_future()
        self._loop = loop
        self._place = place
        self._board = boards.Board(board)
        self._memory = totals.Memory.attach(memory)
        self.series = self._memory.writer(place)
        self._socket = socket.socket(fileno=listen)
        self._socket.setblocking(False)  # noqa: FBT003 - the library's signature
        self._channel = channel.Channel(self.handle, _orphaned)
        self._frozen = False

    async def open(self, end: socket.socket) -> None:
        """Take up the channel."""
        await self._loop.create_unix_connection(lambda: self._channel, sock=end)

    async def handle(self, body: channel.Body) -> Any:
        """Answer the supervisor."""
        match body:
            case channel.Start():
                return self._start(body)
            case channel.Weigh():
                return await self._loop.run_in_executor(None, _weigh, body.spec)
            case channel.Open():
                return await self._acceptor.open(alone=body.alone)
            case channel.Apply():
                return await self._apply(body)
            case channel.Prepare():
                await self._worker.pool.prepare(body.spec)
            case channel.Grant():
                self._demand(self._worker.allowances.grant(body.shares))
            case channel.Revoke():
                return self._worker.revoke(body.keys, body.pepper)
            case channel.Change():
                return await self._change(body)
            case channel.Status():
                return self._worker.status()
            case channel.Ready():
                self._worker.pool.serving = body.ready
            case channel.Drain():
                self._worker.pool.serving = False
                await self._acceptor.drain()
                await self._worker.finish()
                self._tell_bad()
                self.done.set_result(None)
            case _:
                raise errors.Unsupported(f"a worker is not asked for {type(body).__name__}")
        return None

    def _start(self, body: channel.Start) -> None:
        self._worker = Worker(self._loop, body.spec, self.series, self._memory.read)
        # Until the supervisor says so: who came before all workers are there would all come to this one.
        self._worker.pool.serving = False
        shared = self._worker.listener(replicated.Replicated(self._worker.pool, self._ask_all))
        reloading = tls.Reloading(body.spec.tls) if body.spec.tls is not None else None
        if reloading is not None:
            reloading.watch(self._loop)
        self._acceptor = acceptor.Acceptor(
            shared,
            self._socket,
            lambda: arrival.Arrival(shared),
            self._board,
            self._place,
            reloading.current if reloading is not None else None,
        )
        self._beat()

    async def _apply(self, body: channel.Apply) -> None:
        await self._worker.apply(body.spec, back=body.back, weights=body.weights)
        if not self._frozen:
            # What is here now stays: it need not be walked again, and a request leaves nothing for the collector.
            self._frozen = True
            gc.collect()
            gc.freeze()
            gc.set_threshold(_COLLECT_EVERY, 50, 100)

    async def _change(self, body: channel.Change) -> None:
        changed: asyncio.Future[errors.WindlassError | None] = self._loop.create_future()
        change = self._worker.pool.load if body.load else self._worker.pool.unload
        change(body.name, changed.set_result)
        error = await changed
        if error is not None:
            raise error

    async def _ask_all(self, name: str, load: bool) -> None:
        await self._channel.ask(channel.Change(name, load))

    def _beat(self) -> None:
        self._loop.call_later(BEAT_S, self._beat)
        self._board.beat(self._place, self._acceptor.count)
        self._board.work(self._place, self._worker.under_way)
        self._worker.count()
        self._demand(self._worker.allowances.wants())
        self._tell_bad()

    def _tell_bad(self) -> None:
        bad = self._worker.pool.told.take()
        if bad:
            self._channel.tell(channel.Told(bad))

    def _demand(self, wants: dict[str, leases.Want]) -> None:
        if wants:
            self._channel.tell(channel.Demand(wants))


def _weigh(wanted: spec.Spec) -> tuple[int, int]:
    """The bytes of a spec's models, and how many run in processes of their own.

    A package that cannot be read weighs nothing until it is loaded and says why.
    """
    total = apart = 0
    for endpoint in wanted.endpoints:
        for arm in endpoint.arms:
            try:
                package = (
                    archive.open_path(Path(arm.path))
                    if arm.path
                    else archive.open_store(blobs.BlobStore(arm.store), arm.digest)
                )
            except errors.WindlassError:
                continue
            total += _bytes(package)
            apart += endpoint.placement == "process" or session.carries_code(package.manifest.model.runtime)
    return total, apart


def _orphaned() -> None:
    """The supervisor is gone: nobody would restart this worker, count it or stop it."""
    os._exit(1)


async def _serve(end: socket.socket, place: int, shared: list[int], *, quiet: bool) -> None:
    post = Post(asyncio.get_running_loop(), place, shared)
    # Whoever does not read the log must not stop this loop.
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(message)s",
        handlers=[log_writer.Handler(_STDERR, post.series)],
    )
    await post.open(end)
    await post.done


def main() -> None:
    """The command line. Signals are for the supervisor, who passes them on in its own words."""
    parser = argparse.ArgumentParser(prog="windlass-worker", description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("channel", "parent"):
        parser.add_argument(f"--{name}", required=True, type=int)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    confine.die_with(options.parent)
    end = socket.socket(fileno=options.channel)
    told = starting.told(end)
    if told is None:
        return
    place, quiet, shared = told
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(end, place, shared, quiet=quiet))
    # A run or a load that goes on in a thread must not hold up a worker that has said good-bye.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
