"""Jobs in child processes: what they say, how they are ended, and that none outlives its controller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windlass import settings
from windlass.controller import jobs, lead
from windlass.records import jobs as stored
from windlass.storage import database

SLEEPS = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


def _run(command: list[str], stop: threading.Event | None = None, longest_s: float = 60.0) -> jobs.Ended:
    return jobs.run(command, dict(os.environ), stop or threading.Event(), lambda: None, longest_s=longest_s)


def test_what_a_child_says_is_kept_up_to_a_bound() -> None:
    ended = _run(
        [sys.executable, "-c", "import sys; sys.stdout.write('x' * 3_000_000); sys.stderr.write('why'); sys.exit(4)"]
    )
    assert (ended.code, len(ended.out), ended.err, ended.late) == (4, 256 * 1024, b"why", False)


def test_a_child_is_killed_when_its_time_is_up() -> None:
    ended = _run(SLEEPS, longest_s=1.5)
    assert (ended.code, ended.late) == (-signal.SIGKILL, True)


def test_a_child_is_killed_when_the_controller_stops() -> None:
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    assert _run(SLEEPS, stop).code == -signal.SIGKILL
    timer.join()


def test_a_child_dies_with_a_controller_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    inner = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
    outer = (
        "import os, sys, threading; from windlass.controller import jobs; "
        "line = [sys.executable, '-c', *sys.argv[1:]]; "
        "jobs.run(line, dict(os.environ), threading.Event(), lambda: None, longest_s=60)"
    )
    with subprocess.Popen([sys.executable, "-c", outer, inner, str(file)]) as controller:
        _until(lambda: file.exists() and bool(file.read_text()))
        controller.kill()
    _until(lambda: _gone(int(file.read_text())))


def test_a_job_is_done_by_our_own_command_line_and_its_result_is_kept(tmp_path: Path) -> None:
    """There is no such model: the job ends with the command's own words, and is not tried again."""
    configuration = settings.load({"home": tmp_path / "home"}, environ={})
    rows = database.open_database(configuration.database_url)
    leading = lead.Lead(rows, time.time)
    assert leading.beat()
    work = jobs.Jobs(leading, configuration, time.time)
    with rows.write() as connection:
        absent = stored.enqueue(connection, "verify", {"ref": "--help"}, actor="ada", now=time.time())
        wrong = stored.enqueue(connection, "verify", {}, actor="ada", now=time.time())
    assert [work.work(threading.Event()) for _ in range(3)] == [True, True, False]
    with rows.read() as connection:
        ended = [stored.get(connection, job.id) for job in (absent, wrong)]
    rows.close()
    assert [job.state for job in ended] == ["FAILED", "FAILED"]
    assert ended[0].attempts == 1
    assert ended[0].result["exit_code"] in (2, 3)
    assert "ref" in ended[1].result["error"]


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.promise("P-08")
def test_a_fault_of_ours_is_not_told_to_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    ended = _run([sys.executable, "-c", "raise RuntimeError('/srv/secret')"])
    told = jobs._result(ended)
    assert told == {"exit_code": 1, "error": "it failed; the controller's log has the details"}
    assert "/srv/secret" in caplog.text
