"""`windlass up`: one command from nothing to answers; what serves on when it is killed; going back; the end of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from windlass import references, settings
from windlass.packaging import archive
from windlass.serving import launch
from windlass.types import evidence

pytestmark = pytest.mark.timeout(300)
WINDLASS = str(Path(sys.executable).parent / "windlass")
ASKED = {"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.1] * 30}]}
BY_THEN_S = 90.0


class Up:
    """A home with two versions of `fraud`, and the control planes that were started over it."""

    def __init__(self, folder: Path, packages: Any) -> None:
        self.home = folder / "home"
        self.folder = folder
        self.third = Path(packages.mlp("fraud", seed=3).arms[0].path)
        self.key = ""
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("WINDLASS_")}
        self._started: list[subprocess.Popen[bytes]] = []
        with contextlib.closing(references.open_registry(settings.Settings(home=self.home))) as registry:
            for path in (Path(packages.mlp("fraud", seed=seed).arms[0].path) for seed in (1, 2)):
                made = archive.open_path(path)
                passed = evidence.Evidence(made.digest, "parity", "passed")
                registry.push(made, name="fraud", actor="ann", evidence=[passed])

    def start(self, *more: str) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
        """Its process, and what it said when it was up."""
        line = [WINDLASS, "--home", str(self.home), "--json", "up", "--port", "0", "--serve-port", "0"]
        with (self.folder / "up.log").open("ab") as log:
            process = subprocess.Popen(
                [*line, "--admin-port", "0", "--workers", "1", *more],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._started.append(process)
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told, (self.folder / "up.log").read_text()
        found: dict[str, str] = json.loads(told)
        self.key = found["key"] or self.key
        return process, found

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a command prints, which must end with `code`."""
        done = subprocess.run(
            [WINDLASS, "--home", str(self.home), *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout.decode()

    def answers(self, url: str) -> str:
        """Which version answers, with the admin key."""
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{url}/v2/models/fraud/infer", json=ASKED, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        version: str = answer.json()["model_version"]
        return version

    def close(self) -> None:
        """End what is left."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        launch.stop(self.home, timeout_s=20.0)


@pytest.fixture
def up(tmp_path: Path, packages: Any) -> Iterator[Up]:
    made = Up(tmp_path, packages)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.promise("P-37")
def test_from_nothing_to_answers_over_a_kill_and_back(up: Up) -> None:
    process, told = up.start()
    assert told["key"].startswith("wl_")
    up.run("deploy", "fraud", "fraud@1", "--wait")
    assert up.answers(told["server"]) == "1"
    # Nobody gets in without the key, neither here nor there.
    assert httpx.post(f"{told['server']}/v2/models/fraud/infer", json=ASKED, timeout=20).status_code == 401
    assert httpx.get(f"{told['url']}/api/v1/models", timeout=20).status_code == 401
    assert up.key not in (up.folder / "up.log").read_text()
    secret = up.key.rpartition("_")[2].encode()
    files = [path for path in up.folder.rglob("*") if path.is_file()]
    assert [path for path in files if secret in path.read_bytes()] == []
    assert oct(up.home.stat().st_mode & 0o777) == "0o700"

    process.kill()
    process.wait()
    assert up.answers(told["server"]) == "1"

    again, found = up.start()
    assert found["key"] == ""
    assert found["server"] == told["server"]
    there = {"WINDLASS_SERVER": found["url"], "WINDLASS_CLIENT__KEY": up.key}
    # The bytes go through the API, and the control plane checks them itself.
    pushed = json.loads(up.run("models", "import", str(up.third), "--no-verify", "--json", **there))
    assert (pushed["version"], pushed["status"]) == (3, "READY")
    up.run("deploy", "fraud", "fraud@3", "--wait", **there)
    assert up.answers(found["server"]) == "3"
    back = json.loads(up.run("rollback", "fraud", "--json", **there))
    assert back["live"]["version"] == 1
    assert up.answers(found["server"]) == "1"

    again.send_signal(signal.SIGINT)
    assert again.wait(BY_THEN_S) == 0
    assert launch.find(up.home) is None
    with pytest.raises(httpx.TransportError):
        httpx.get(found["server"], timeout=5)
