"""Servers that outlive whoever starts them: one for each name, found again, stopped by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from windlass import errors
from windlass.client import control
from windlass.serving import launch
from windlass.types import spec, strict_json

NOTHING = spec.Spec(endpoints=(), managed=True, listen="127.0.0.1:0", admin="127.0.0.1:0", workers=1)
STARTER = """
import pathlib, sys
from windlass.serving import launch
from windlass.types import spec, strict_json
wanted = strict_json.decode(pathlib.Path(sys.argv[1], "spec").read_bytes(), spec.Spec, what="the spec")
print(launch.detached(wanted, pathlib.Path(sys.argv[1])))
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose server is stopped at the end."""
    yield tmp_path
    launch.stop(tmp_path, timeout_s=20)


def test_two_starters_make_one_server_which_outlives_both(home: Path) -> None:
    (home / "spec").write_bytes(strict_json.canonical(NOTHING))
    line = [sys.executable, "-c", STARTER, str(home)]
    starters = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {one.communicate(timeout=120)[0].strip() for one in starters}
    found = launch.find(home)
    assert told == {found}
    assert found is not None
    talk = control.Control(found)
    status = talk.status()
    talk.close()
    # Without a model it is ready, and knows none.
    assert (status["ready"], status["models"]) == (True, [])
    url = status["addresses"]["listen"]
    assert httpx.get(f"{url}/v2/health/ready").is_success
    assert httpx.post(f"{url}/v2/models/m/infer", json={}).status_code == 404
    assert "metrics on" in (home / "run" / "local.log").read_text()
    assert launch.detached(NOTHING, home) == found
    assert launch.stop(home)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/ready")
    assert (launch.find(home), launch.stop(home)) == (None, False)


def test_what_does_not_start_says_why(home: Path) -> None:
    missing = spec.Endpoint("m", (spec.Arm("sha256:" + "0" * 64, "1", str(home / "missing")),))
    wanted = spec.Spec((missing,), listen="127.0.0.1:0", admin="127.0.0.1:0", workers=1)
    with pytest.raises(errors.Unavailable, match="did not start: the package of 'm' cannot be read") as raised:
        launch.detached(wanted, home)
    assert "local.log" in raised.value.hint
    assert launch.find(home) is None
    # Its words are those of this start, not of one before; and the name is free.
    assert launch.detached(NOTHING, home) == launch.find(home)
