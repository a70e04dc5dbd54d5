"""One worker: listens, loads what the spec says, answers until it is told to stop, then loses nothing.

Started as `python -m windlass.serving.worker --spec FILE` by the CLI and the Python face. Must never import the
registry, a capture library or anything of the control plane: it is given paths and digests.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from windlass import errors, plugins, telemetry
from windlass.serving import addresses, admin, counters, http1, identity, listener, metrics, pool, routes
from windlass.serving import door as doors
from windlass.types import spec, strict_json

log = logging.getLogger("windlass")
access = logging.getLogger("windlass.access")
# A thread that comes back with a result gets its turn after this, not after Python's 5 ms.
SWITCH_INTERVAL_S = 5e-4
_BACKLOG = 1_024
_THREADS = 2
# For what is written last to leave the process.
_LAST_WORDS_S = 0.1
_COLLECT_EVERY = 20_000


class Worker:
    """A server in this process. All of it runs on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wanted: spec.Spec) -> None:
        self.addresses: dict[str, str] = {}
        self.stop = asyncio.Event()
        self._loop = loop
        self._wanted = wanted
        self._started = time.time()
        self._servers: list[asyncio.AbstractServer] = []
        self._executor = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="prepare")
        self._series = counters.Counters()
        self._pool = pool.Pool(loop, self._series, verdicts=wanted.verdicts)
        self._exporter = metrics.Exporter(self._read, self._facts)
        self._listeners: list[listener.Listener] = []

    async def open(self) -> None:
        """Listen on every address; requests are answered as unavailable until their model is loaded."""
        wanted = self._wanted
        about = self._about
        names = plugins.catalog()["protocols"]
        public = routes.RouteTable(plugins.load("protocols", name)() for name in names)
        host, _ = addresses.split(wanted.listen)
        # Beyond loopback somebody else has vouched for the network (the CLI asks); names are theirs to choose.
        hosts = wanted.hosts or (() if addresses.is_loopback(host) else ("*",))
        trusted = identity.LOCAL if not wanted.keys else None
        self._door = await self._listen("listen", wanted.listen, public, hosts, trusted)
        self._door.use_keys(wanted.keys, wanted.key_pepper)
        operator = routes.RouteTable([admin.Admin(self._pool, self._exporter, about)])
        await self._listen("admin", wanted.admin, operator, (), identity.OPERATOR)
        if wanted.control:
            control = routes.RouteTable(
                [admin.Control(self._pool, self._exporter, about, self.apply, lambda: self._wanted)]
            )
            await self._listen("control", wanted.control, control, (), identity.OPERATOR)

    async def apply(self, wanted: spec.Spec) -> None:
        """Put a spec in force: models and keys. Addresses and limits are those the process was started with."""
        doors.read_pepper(wanted.key_pepper)
        self._pool.check_generation(wanted)
        # Revoking does not wait for models to load, nor for them to load well; a new key comes with its models.
        known = {key.id for key in self._wanted.keys}
        left = tuple(key for key in wanted.keys if key.id in known)
        self._door.use_keys(left, wanted.key_pepper)
        self._wanted = msgspec.structs.replace(self._wanted, keys=left, key_pepper=wanted.key_pepper)
        await self._pool.apply(wanted)
        self._door.use_keys(wanted.keys, wanted.key_pepper)
        self._wanted = msgspec.structs.replace(
            self._wanted,
            generation=wanted.generation,
            endpoints=wanted.endpoints,
            repository=wanted.repository,
            managed=wanted.managed,
            keys=wanted.keys,
            key_pepper=wanted.key_pepper,
        )

    async def close(self) -> None:
        """Not ready from now on; go on for `pre_stop_s`, stop accepting, finish what is in flight, within `grace_s`."""
        wanted = self._wanted
        self._pool.serving = False
        if wanted.pre_stop_s:
            await asyncio.sleep(wanted.pre_stop_s)
        for server in self._servers:
            server.close()
        for one in self._listeners:
            one.drain()
        give_up = self._loop.time() + wanted.grace_s
        while any(one.connections for one in self._listeners) and self._loop.time() < give_up:
            await asyncio.sleep(0.01)
        left = sum(len(one.connections) for one in self._listeners)
        if left:
            log.warning("%d connections were still open after the grace time of %s s", left, wanted.grace_s)
            for one in self._listeners:
                one.end(errors.Unavailable("the server is stopping and could not wait for this answer"))
            await asyncio.sleep(_LAST_WORDS_S)
        self._pool.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if wanted.control:
            Path(wanted.control).unlink(missing_ok=True)

    async def _listen(
        self,
        name: str,
        address: str,
        table: routes.RouteTable,
        hosts: tuple[str, ...],
        trusted: identity.Identity | None,
    ) -> doors.Door:
        door = doors.Door(table, self._pool, self._wanted.limits, hosts=hosts, trusted=trusted)
        log_access = _log_access if self._wanted.access_log and name == "listen" else None
        shared = listener.Listener(self._loop, door, self._series, self._executor, access_log=log_access)
        self._listeners.append(shared)
        try:
            if name == "control":
                server = await self._loop.create_unix_server(
                    lambda: http1.Connection(shared), sock=_unix_socket(address)
                )
                self.addresses[name] = address
            else:
                host, port = addresses.split(address)
                server = await self._loop.create_server(
                    lambda: http1.Connection(shared), host, port, backlog=_BACKLOG, reuse_address=True
                )
                bound = server.sockets[0].getsockname()
                shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
                self.addresses[name] = f"http://{shown}:{bound[1]}"
        except OSError as e:
            raise errors.Unavailable(
                f"cannot listen on {address}: {e.strerror or e}.", hint="Choose another port, or stop what uses it."
            ) from None
        self._servers.append(server)
        return door

    def _read(self) -> counters.Counters:
        self._series.gauge(telemetry.CONNECTIONS)[0] = sum(len(one.connections) for one in self._listeners)
        for served in self._pool.served.values():
            self._series.runs_of(served.view.name, served.view.version).queued[0] = served.batch.queued_rows
        return self._series

    def _facts(self) -> metrics.Facts:
        models = [
            metrics.Model(
                name,
                served.view.version,
                "",
                served.loaded.seconds,
                sum(blob.size for blob in served.loaded.session.package.manifest.model.blobs.values()),
            )
            for name, served in self._pool.served.items()
        ]
        return metrics.Facts(self._pool.generation, tuple(models))

    def _about(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "started": self._started, "addresses": self.addresses}


def _unix_socket(path: str) -> socket.socket:
    """A socket that only this user can open, made under a mask so that there is no moment when others could."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        unix.bind(path)
    finally:
        os.umask(mask)
    return unix


def _log_access(method: bytes, target: bytes, peer: str, request_id: str, status: int | None) -> None:
    line = {
        "method": method.decode("latin-1"),
        "path": target.decode("latin-1")[:512],
        "peer": peer,
        "request_id": request_id,
        "status": status or 200,
    }
    access.info(json.dumps(line))


async def serve(wanted: spec.Spec, ready_fd: int | None) -> None:
    """Run until SIGTERM or SIGINT. `ready_fd` gets one line of JSON with the addresses once everything is loaded."""
    loop = asyncio.get_running_loop()
    worker = Worker(loop, wanted)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop.set)
    await worker.open()
    loading = asyncio.ensure_future(worker.apply(wanted))
    stopping = asyncio.ensure_future(worker.stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        log.info("stopping before everything was loaded")
        loading.cancel()
        await worker.close()
        return
    stopping.cancel()
    loading.result()
    # What is here now stays: it need not be walked again, and a request leaves nothing behind for the collector.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 50, 100)
    names = ", ".join(f"{e.name} ({e.arms[0].version})" for e in wanted.endpoints) or "no models yet"
    log.info("serving %s on %s", names, worker.addresses["listen"])
    log.info("metrics on %s/metrics", worker.addresses["admin"])
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w") as ready:
            ready.write(json.dumps({"pid": os.getpid(), **worker.addresses}) + "\n")
    await worker.stop.wait()
    log.info("stopping: finishing what is in flight")
    await worker.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="windlass-worker", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--spec", required=True, type=Path, help="the serving spec, a JSON file")
    parser.add_argument("--ready-fd", type=int, help="a file descriptor that is told the addresses")
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        wanted = strict_json.decode(_read(options.spec), spec.Spec, what=str(options.spec))
        uvloop.run(serve(wanted, options.ready_fd))
    except errors.WindlassError as e:
        sys.stderr.write(f"Error: {e}\n")
        sys.exit(e.exit_code)
    # A run or a load that goes on in a thread must not hold up a server that has said good-bye.
    logging.shutdown()
    os._exit(0)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise errors.UsageError(f"cannot read the spec {path}: {e.strerror}") from None


if __name__ == "__main__":
    main()
