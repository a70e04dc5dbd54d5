"""A home with controllers in processes of their own, callers whose every answer is kept, and a PostgreSQL that stops.

Used by the drills of rollouts only. Must never leave a process behind.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import psycopg
import pytest

from windlass import references, settings
from windlass.client import control
from windlass.packaging import build, draft
from windlass.records import deployments as stored
from windlass.records import feedback, rollouts
from windlass.serving import launch
from windlass.storage import database
from windlass.types import deployment, evidence, signature, spec

HERE = Path(__file__).parent
# Long enough for a controller that shares its core with others to renew it in time.
TTL_S = 2.5
WINDLASS = str(Path(sys.executable).parent / "windlass")
ROW = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}]}


class Answer(NamedTuple):
    """When it was asked and answered (epoch seconds), the status (0: no answer), the version, the request's id."""

    asked: float
    at: float
    status: int
    version: str
    request: str


class Callers:
    """A few callers who ask again as soon as they were answered, with a short rest."""

    def __init__(self, url: str, name: str, *, many: int = 4, rest_s: float = 0.01, key: str = "") -> None:
        self._url, self._rest_s = f"{url}/v2/models/{name}/infer", rest_s
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._over = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(many)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(headers=self._headers, timeout=30) as client:
            while not self._over.wait(self._rest_s):
                asked = time.time()
                try:
                    answer = client.post(self._url, json=ROW)
                except httpx.TransportError:
                    self.answers.append(Answer(asked, time.time(), 0, "", ""))
                    continue
                version = answer.json()["model_version"] if answer.is_success else ""
                request = answer.headers.get("x-request-id", "")
                self.answers.append(Answer(asked, time.time(), answer.status_code, version, request))

    def of(self, version: str) -> list[Answer]:
        """What a version answered."""
        return [one for one in list(self.answers) if one.version == version]

    @property
    def failed(self) -> list[Answer]:
        """What was not answered as it should."""
        return [one for one in list(self.answers) if one.status != 200]

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Api:
    """The control plane's API, as its admin asks it."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=30)

    def ask(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """The status of the answer, and the answer."""
        answer = self._http.request(method, path, json=body or None)
        return answer.status_code, answer.json()

    def done(self, method: str, path: str, **body: Any) -> Any:
        """The answer, where the request is to succeed."""
        status, found = self.ask(method, path, **body)
        assert 200 <= status < 300, found
        return found

    def deploy(self, release: deployment.Release, **wish: Any) -> None:
        """Wish a release under its own name."""
        self.done(
            "PUT", f"/deployments/{release.name}", name=release.name, ref=f"{release.name}@{release.version}", **wish
        )

    def live(self, release: deployment.Release, seconds: float = 60.0) -> None:
        """Wait until all requests are answered by a release."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.done("GET", f"/deployments/{release.name}")
            status = found["status"]
            current = status.get("generation") == found["generation"] and status.get("phase") in ("LIVE", "FAILED")
            if current and (status.get("live") or {}).get("version") == release.version:
                return
            if time.monotonic() > deadline:
                pytest.fail(f"version {release.version} is not live: {status}\n{self.told(release.name)}")
            time.sleep(0.02)

    def told(self, name: str) -> str:
        """The words of each step of the last rollout, a line each."""
        last = self.done("GET", f"/deployments/{name}/rollouts")["items"][0]
        steps = self.done("GET", f"/rollouts/{last['id']}/steps")["items"]
        return "\n".join(f"{one['number']} {one['phase']} {one.get('verdict', '')}: {one['words']}" for one in steps)

    def close(self) -> None:
        self._http.close()


class Plane:
    """A home, releases of models that answer with what they get, and controllers on it."""

    def __init__(self, folder: Path, db: str = "") -> None:
        flags = {"home": folder / "home", "registry.db": db, "serve.port": 0, "serve.admin_port": 0}
        self.configuration = settings.load(flags, environ={})
        self.rows = database.open_database(self.configuration.database_url)
        self.registry = references.open_registry(self.configuration)
        self._folder = folder
        self._acts = folder / "acts.jsonl"
        self._children: list[subprocess.Popen[bytes]] = []
        self._callers: list[Callers] = []
        self._apis: list[Api] = []

    # What people do

    def release(self, name: str, **behaviour: Any) -> deployment.Release:
        """The next version of a model, READY; `behaviour` as in `runtimes.echo`."""
        x = signature.TensorSpec("x", "FP32", ("batch", 4))
        y = msgspec.structs.replace(x, name="y")
        rows = np.full((2, 4), 0.1, np.float32)
        made = draft.Draft(
            files={"echo.json": msgspec.json.encode({"inputs": [x], "outputs": [y], **behaviour})},
            signature=signature.Signature((x,), (y,)),
            trials=(draft.Trial("tenths", {"x": rows}, {"y": rows}),),
            framework="echo",
            runtime="echo",
            max_batch=8,
        )
        package = build.build(made, name=name)
        passed = (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)
        pushed = self.registry.push(package, name=name, actor="ada", evidence=passed)
        return deployment.Release(name, pushed.version, package.digest)

    def wish(self, release: deployment.Release, kind: str = "recreate", **parameters: Any) -> None:
        strategy = deployment.Strategy(kind, parameters)
        desired = deployment.Desired(release.name, release, strategy, salt="s")
        with self.rows.write() as connection:
            stored.put(connection, desired, expected=None, actor="ada", now=time.time())

    def live(self, release: deployment.Release) -> None:
        """Deploy it at once, and wait until it is live."""
        self.wish(release)
        self.until(lambda: self.status(release.name).live == release and self.settled(release.name))

    def say(self, name: str, scores: dict[str, float]) -> None:
        """Tell how good answers were, by their requests' ids."""
        given = [feedback.Given(score, request=request) for request, score in scores.items()]
        with self.rows.write() as connection:
            feedback.add(connection, name, given, now=time.time())

    # What is on record

    def status(self, name: str) -> deployment.Status:
        with self.rows.read() as connection:
            found = stored.get(connection, name)
        assert found is not None
        return found.status if found.status.generation == found.generation else deployment.Status()

    def settled(self, name: str) -> bool:
        return self.status(name).phase in ("LIVE", "FAILED")

    def last(self, name: str) -> rollouts.Rollout:
        with self.rows.read() as connection:
            return rollouts.of(connection, name, limit=1)[0]

    def steps(self, name: str) -> tuple[rollouts.Step, ...]:
        with self.rows.read() as connection:
            return rollouts.steps(connection, rollouts.of(connection, name, limit=1)[0].id)

    def ended(self, name: str, new: deployment.Release, seconds: float = 60.0) -> rollouts.Rollout:
        """The rollout to a release, once it has ended."""
        self.until(lambda: self.last(name).new == new and self.last(name).ended_at is not None, seconds)
        return self.last(name)

    def until(self, what: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.acts()[-3:]
            time.sleep(0.03)

    def acts(self) -> list[dict[str, Any]]:
        """What the controllers wrote down; the last line may be half of one."""
        if not self._acts.exists():
            return []
        found = []
        for line in self._acts.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def in_force(self) -> list[dict[str, Any]]:
        """The specs that controllers put in force, in the server's order."""
        done = [act for act in self.acts() if act["what"] == "spec" and not act["error"]]
        return sorted(done, key=lambda act: act["generation"])

    # Processes

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The controllers are told nothing of what came of requests."""
        mute = self._acts.with_name(f"{self._acts.name}.mute")
        mute.touch()
        try:
            yield
        finally:
            mute.unlink()

    def control(self, dies: int = 0, ttl_s: float = TTL_S) -> subprocess.Popen[bytes]:
        """A controller, or a line of them that die, as `controlled.py` says."""
        home, database_url = str(self.configuration.home), self.configuration.database_url
        line = [sys.executable, str(HERE / "controlled.py"), home, database_url, str(self._acts), str(ttl_s), str(dies)]
        self._children.append(subprocess.Popen(line, start_new_session=True))
        return self._children[-1]

    def url(self) -> str:
        path = launch.find(self.configuration.home)
        assert path is not None
        talk = control.Control(path)
        try:
            return str(talk.status()["addresses"]["listen"])
        finally:
            talk.close()

    def in_server(self) -> spec.Spec:
        """The spec that the server has in force."""
        path = launch.find(self.configuration.home)
        assert path is not None
        with contextlib.closing(control.Control(path)) as talk:
            return talk.current()

    def callers(self, name: str, **how: Any) -> Callers:
        self._callers.append(Callers(self.url(), name, **how))
        return self._callers[-1]

    def up(self) -> Api:
        """`windlass up` over this home; its API, with the admin key."""
        line = [WINDLASS, "--home", str(self.configuration.home), "--json", "up", "--port", "0", "--serve-port", "0"]
        more = ["--admin-port", "0", "--workers", "2", "--db", self.configuration.database_url]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WINDLASS_")}
        with (self._folder / "up.log").open("ab") as log:
            process = subprocess.Popen(
                [*line, *more], env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self._children.append(process)
        assert process.stdout is not None
        with process.stdout:
            told = process.stdout.readline()
        assert told, (self._folder / "up.log").read_text()
        said: dict[str, str] = json.loads(told)
        self._apis.append(Api(said["url"], said["key"]))
        return self._apis[-1]

    @staticmethod
    def end(child: subprocess.Popen[bytes]) -> None:
        """Kill a controller, and whom it forked; each leads a process group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def close(self) -> None:
        for callers in self._callers:
            callers.stop()
        for api in self._apis:
            api.close()
        for child in self._children:
            self.end(child)
        launch.stop(self.configuration.home, timeout_s=20.0)
        self.registry.close()
        self.rows.close()


def _bases() -> Any:
    """The private PostgreSQL of the registry's tests."""
    path = HERE.parents[2] / "integration" / "registry" / "conftest.py"
    made = importlib.util.spec_from_file_location("postgres_of_the_registry", path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


class Stopping:
    """A PostgreSQL that is stopped and started again in between."""

    def __init__(self) -> None:
        bases = _bases()
        self._server = bases.Postgres(bases._binaries())
        self.url = self._server.url()

    def halt(self) -> None:
        self._server._process.send_signal(signal.SIGINT)
        self._server._process.wait(30)

    def again(self) -> None:
        server = self._server
        server._process = subprocess.Popen(
            server._process.args,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=server.folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **server._identity,
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                server._connect().close()
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def close(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Stopping]:
    made = Stopping()
    yield made
    made.close()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A home of its own, with its rows in SQLite."""
    made = Plane(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A home that the tests of a file share, with one controller; each has a deployment of its own name."""
    made = Plane(tmp_path_factory.mktemp("shared"))
    made.control()
    yield made
    made.close()


@pytest.fixture
def postgres_plane(tmp_path: Path, postgres: Stopping) -> Iterator[Plane]:
    """A home whose rows are in PostgreSQL."""
    made = Plane(tmp_path, postgres.url)
    yield made
    made.close()


def tally(answers: list[Answer]) -> dict[tuple[int, str], int]:
    """How many, by status and version."""
    return dict(collections.Counter((one.status, one.version) for one in answers))


@pytest.fixture(name="tally")
def _tally() -> Callable[[list[Answer]], dict[tuple[int, str], int]]:
    return tally
