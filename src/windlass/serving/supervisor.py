"""The supervisor: holds the sockets, starts the workers that answer, and passes on what operators and signals say.

Run by `__main__.py`. Must never load a model or answer a caller, so that nothing a model does can end it.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from windlass import errors
from windlass.serving import admin, fleet, log_file, overview, sizing, starting
from windlass.serving.door import door as doors
from windlass.serving.door import identity, routes
from windlass.serving.metrics import counters, log_writer
from windlass.serving.transport import arrival, listener, sockets
from windlass.types import spec, strict_json

log = logging.getLogger("windlass")
_STDERR = 2


class Supervisor:
    """The sockets of a server, and its fleet."""

    def __init__(self, wanted: spec.Spec, *, quiet: bool) -> None:
        self.spec = wanted
        self.addresses: dict[str, str] = {}
        self._series = counters.Counters()
        self._servers: list[asyncio.AbstractServer] = []
        self._listeners: list[listener.Listener] = []
        self._executor = concurrent.futures.ThreadPoolExecutor(1)
        public = self._bind("listen", wanted.listen)
        self.fleet = fleet.Fleet(wanted, public, cores=sizing.cores(), quiet=quiet)

    async def open(self) -> None:
        """Listen for operators."""
        server = overview.Overview(self.fleet, self.addresses)
        await self._listen(self._bind("admin", self.spec.admin), admin.Admin(server))
        if self.spec.control:
            self.addresses["control"] = self.spec.control
            await self._listen(sockets.listen_unix(self.spec.control), admin.Control(server))

    async def close(self) -> None:
        """Let the workers finish, then say good-bye to operators."""
        await self.fleet.close()
        for server in self._servers:
            server.close()
        for one in self._listeners:
            one.end(errors.Unavailable("the server has stopped"))
        if self.spec.control:
            Path(self.spec.control).unlink(missing_ok=True)

    async def _listen(self, sock: socket.socket, protocol: admin.Admin) -> None:
        loop = asyncio.get_running_loop()
        table = routes.RouteTable([protocol])
        door = doors.Door(table, admin.NoModels(), self.spec.limits, hosts=(), trusted=identity.OPERATOR)
        shared = listener.Listener(loop, door, self._series, self._executor)
        make = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._servers.append(await make(lambda: arrival.Arrival(shared), sock=sock, backlog=sockets.BACKLOG))
        self._listeners.append(shared)

    def _bind(self, name: str, address: str) -> socket.socket:
        sock = sockets.listen(address)
        self.addresses[name] = sockets.url(sock, "https" if name == "listen" and self.spec.tls is not None else "http")
        return sock


async def serve(
    wanted: spec.Spec, first: starting.Starting, ready_fd: int | None, *, quiet: bool, kept: Path | None
) -> None:
    """Run until SIGTERM or SIGINT. `ready_fd` gets one line of JSON with the addresses once everything is loaded.

    `first` is the first worker's process; `kept` is the file of its log, where it is to be kept short.
    """
    loop = asyncio.get_running_loop()
    if kept is not None:
        log_file.keep_short(loop, kept)
    supervisor = Supervisor(wanted, quiet=quiet)
    stop = asyncio.Event()
    restarts: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, _restart, supervisor.fleet, restarts)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loading = asyncio.ensure_future(supervisor.fleet.start(first))
    await supervisor.open()
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    try:
        if loading.done():
            loading.result()
            stopping.cancel()
            _told(supervisor, ready_fd)
            await stop.wait()
            log.info("stopping: finishing what is in flight")
        else:
            log.info("stopping before everything was loaded")
            loading.cancel()
    finally:
        await supervisor.close()


def _restart(workers: fleet.Fleet, going: set[asyncio.Task[None]]) -> None:
    if not going:
        task = asyncio.get_running_loop().create_task(_restarted(workers))
        going.add(task)
        task.add_done_callback(going.discard)


async def _restarted(workers: fleet.Fleet) -> None:
    try:
        await workers.restart()
    except errors.WindlassError as e:
        log.warning("the workers were not all replaced: %s", e)


def _told(supervisor: Supervisor, ready_fd: int | None) -> None:
    serving = supervisor.fleet.spec.endpoints
    names = ", ".join(f"{e.name} ({', '.join(arm.version for arm in e.arms)})" for e in serving) or "no models yet"
    log.info("serving %s on %s (%s)", names, supervisor.addresses["listen"], _entrance(supervisor.fleet.spec))
    log.info("metrics on %s/metrics", supervisor.addresses["admin"])
    if ready_fd is not None:
        # Whoever started it may be gone: it was to outlive him.
        with contextlib.suppress(BrokenPipeError), os.fdopen(ready_fd, "w") as ready:
            ready.write(json.dumps({"pid": os.getpid(), **supervisor.addresses}) + "\n")


def _entrance(wanted: spec.Spec) -> str:
    """What callers have to bring."""
    keys = f"{len(wanted.keys)} API key{'s'[: len(wanted.keys) != 1]}" if wanted.keys else "no API keys"
    certificates = ", client certificates" if wanted.tls is not None and wanted.tls.client_ca else ""
    return f"{keys}, {'no TLS' if wanted.tls is None else 'TLS'}{certificates}"


def main(first: starting.Starting) -> None:
    """The command line; `first` is the first worker's process, begun already."""
    parser = argparse.ArgumentParser(
        prog="python -m windlass.serving", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--spec", required=True, type=Path, help="the serving spec, a JSON file")
    parser.add_argument("--ready-fd", type=int, help="a file descriptor that is told the addresses")
    parser.add_argument("--log", type=Path, help="the file that stderr goes to, which is kept short")
    parser.add_argument(starting.DETACHED, action="store_true", help="go on in a session of its own")
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    options = parser.parse_args()
    # Keys that callers sent are in memory: no file is to be made of it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whoever does not read the log must not stop the supervisor's loop.
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(message)s",
        handlers=[log_writer.Handler(_STDERR, counters.Counters())],
    )
    try:
        wanted = strict_json.decode(_read(options.spec), spec.Spec, what=str(options.spec))
        asyncio.run(serve(wanted, first, options.ready_fd, quiet=options.quiet, kept=options.log))
    except errors.WindlassError as e:
        logging.shutdown()
        sys.stderr.write(f"Error: {e}\n")
        sys.exit(e.exit_code)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise errors.UsageError(f"cannot read the spec {path}: {e.strerror}") from None
