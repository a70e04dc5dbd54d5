"""The servers that are measured: how each is started on its core, asked, weighed and stopped.

Called by `bench.py`. A peer is a folder in peers/ with what a user of it would write, and a line in `PEERS`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import calls
import load
import numpy as np

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "build" / "benchmarks" / "logs"
START_LIMIT_S = 90
STOP_LIMIT_S = 15


@dataclass(frozen=True)
class Server:
    """`command` gives the arguments for a port; `path` is the route to ask."""

    name: str
    command: Callable[[int], list[str]]
    path: str
    cwd: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ask: Callable[[str, load.Request], np.ndarray] = load.ask
    cores: tuple[int, ...] = (load.SERVER_CORE,)
    folder: str = ""


def _peer(name: str, program: str, arguments: Callable[[int], list[str]], path: str, **environment: str) -> Server:
    """`name` is the peer's folder, and after a dash which of its servers this is."""
    folder = name.partition("-")[0]
    venv = ROOT / ".venvs" / folder / "bin"
    return Server(
        name,
        lambda port: [str(venv / program), *arguments(port)],
        path,
        cwd=ROOT / "benchmarks" / "peers" / folder,
        folder=folder,
        environment={"PATH": f"{venv}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


UVICORN = ["app:app", "--host=127.0.0.1", "--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning"]
PEERS = {
    server.name: server
    for server in (
        _peer("fastapi", "uvicorn", lambda port: [*UVICORN, f"--port={port}"], "/v2/models/model/infer"),
        _peer("litserve", "python", lambda port: ["app.py", str(port)], "/infer"),
        _peer("mlserver", "mlserver", lambda _: ["start", "."], "/v2/models/model/infer"),
        _peer(
            "bentoml",
            "bentoml",
            lambda port: ["serve", "app:Service", "--host=127.0.0.1", f"--port={port}", "--quiet"],
            "/infer",
            BENTOML_DO_NOT_TRACK="True",
        ),
        *(
            replace(
                _peer(f"grpcio-{kind}", "python", lambda port, kind=kind: ["app.py", str(port), kind], calls.PATH),
                ask=calls.ask,
            )
            for kind in ("threads", "asyncio")
        ),
    )
}


def why_missing(peer: str) -> str:
    """Empty if the peer is installed, else the last line of what went wrong."""
    folder = PEERS[peer].folder
    if (ROOT / ".venvs" / folder / ".stamp").exists():
        return ""
    log = ROOT / ".venvs" / f"{folder}.error"
    lines = [line for line in log.read_text().splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else "not installed: run benchmarks/setup"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A server that has given its first right answer, `start_s` seconds after it was started."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    start_s: float

    def pss_mb(self) -> float:
        """The proportional memory of all its processes, in MB of 10^6 bytes."""
        return sum(_field(pid, "smaps_rollup", "Pss:") for pid in family(self.process.pid)) * 1024 / 1e6

    def cpu_s(self) -> float:
        """The processor time that all its processes have taken so far."""
        ticks = 0
        for pid in family(self.process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def loops_cpu_s(self) -> float:
        """The processor time of its processes' main threads, where the event loops run, without the models' own."""
        taken = 0
        for pid in family(self.process.pid):
            with contextlib.suppress(OSError):
                taken += int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
        return taken / 1e9


def _field(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def family(leader: int) -> set[int]:
    """The processes that come from the one we started: its session, and all descendants in sessions of their own."""
    parents: dict[int, int] = {}
    found = {leader}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        if int(fields[3]) == leader:
            found.add(int(stat.parent.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found & parents.keys()


@contextlib.contextmanager
def running(server: Server, model: Path, request: load.Request, expected: np.ndarray) -> Iterator[Running]:
    """The server on its core, from its first right answer on; stopped at the end, all of it."""
    request = request.along(server.headers)
    port = free_port()
    ports = {f"MLSERVER_{kind}_PORT": str(free_port()) for kind in ("GRPC", "METRICS")}
    environment = {**os.environ, "MODEL": str(model), "MLSERVER_HTTP_PORT": str(port), **ports, **server.environment}
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{server.name}.log"
    url = f"http://127.0.0.1:{port}{server.path}"
    start = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, server.cores)), *server.command(port)],
            cwd=server.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        answer = _first_answer(process, url, request, server, log)
        taken = time.perf_counter() - start
        if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"benchmarks: {server.name} answers wrongly: {answer[:4]} for {expected[:4]}")
        yield Running(server.name, process, url, taken)
        if not np.allclose(server.ask(url, request), expected, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"benchmarks: {server.name} answers wrongly after the load")
    finally:
        _stop(process)


def _first_answer(
    process: subprocess.Popen[bytes], url: str, request: load.Request, server: Server, log: Path
) -> np.ndarray:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            return server.ask(url, request)
        except urllib.error.HTTPError as e:
            if e.code not in (404, 500, 503):
                raise SystemExit(f"benchmarks: {url} answers {e.code}: {e.read()[:300]!r}") from None
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.01)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise SystemExit(f"benchmarks: {url} does not answer; the end of {log}:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the family to end; what has not ended in time is killed."""
    members = family(process.pid)
    for sign, patience in ((signal.SIGTERM, STOP_LIMIT_S), (signal.SIGKILL, 5)):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            process.poll()
            members = {pid for pid in members if _lives(pid)}
            if not members:
                return
            time.sleep(0.02)
    print(f"benchmarks: these processes would not end: {members}", file=sys.stderr)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
