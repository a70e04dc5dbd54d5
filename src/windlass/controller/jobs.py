"""Jobs: long work that was asked for through the API, done by our own command line in a child process.

Run by the loop on a thread of its own, one job at a time. The child is killed with this process or when its time is up,
and what it says is bounded. Must never load a model here, nor run a command that is not in `COMMANDS`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from windlass import errors, settings
from windlass.controller import lead
from windlass.records import jobs

log = logging.getLogger(__name__)
LONGEST_S = 1800.0
_SAID = 256 * 1024
_LAST_WORDS = 2_000
_FAULT = b"Traceback (most recent call last)"
_TRIES = 2
# A job whose controller died is taken by the next one after this time; the child died with the first.
_CLAIM_S = 60.0
_KEPT_EVERY_S = 15.0
_LOOK_S = 0.2
_ENDS_S = 10.0


def _verify(arguments: dict[str, Any]) -> tuple[str, ...]:
    return ("verify", "--", str(arguments["ref"]))


def _scrub(arguments: dict[str, Any]) -> tuple[str, ...]:
    del arguments
    return ("models", "scrub")


# Which command line each kind of job is.
COMMANDS: dict[str, Callable[[dict[str, Any]], tuple[str, ...]]] = {"verify": _verify, "scrub": _scrub}


class Ended(NamedTuple):
    """How a child ended: `code` below 0 is the signal that killed it; `late`, that its time was up."""

    code: int
    out: bytes
    err: bytes
    late: bool


class Jobs:
    """Does what is queued, the oldest first."""

    def __init__(
        self,
        leading: lead.Lead,
        configuration: settings.Settings,
        clock: Callable[[], float],
        *,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._lead = leading
        self._clock = clock
        self._longest_s = longest_s
        self._environment = settings.for_child(configuration)

    def work(self, stop: threading.Event) -> bool:
        """Do one job; False if there is none. A stop ends its child, and the job is done again by the next."""
        with self._lead.write() as connection:
            job = jobs.claim(connection, self._lead.holder, ttl_s=_CLAIM_S, now=self._clock(), kinds=tuple(COMMANDS))
        if job is None:
            return False
        try:
            words = COMMANDS[job.kind](job.arguments)
        except KeyError as e:
            self._finish(job, "FAILED", {"error": f"a job of the kind '{job.kind}' needs '{e.args[0]}'"})
            return True
        command = [sys.executable, "-m", "windlass.cli.main", "--json", "--quiet", *words]
        ended = run(command, self._environment, stop, self._keeper(job), longest_s=self._longest_s)
        again = stop.is_set() or (_passing(ended) and job.attempts < _TRIES)
        log.info("job %d (%s) ended with %d%s", job.id, job.kind, ended.code, ", once more" if again else "")
        if again:
            with self._lead.write() as connection:
                # Nobody holds it any more: whoever looks next takes it.
                jobs.renew(connection, job, ttl_s=0.0, now=self._clock())
        else:
            self._finish(job, "FAILED" if ended.code else "DONE", _result(ended))
        return True

    def _keeper(self, job: jobs.Job) -> Callable[[], None]:
        """Keeps the claim, at its own pace; raises where the job is ours no more."""
        last = self._clock()

        def keep() -> None:
            nonlocal last
            now = self._clock()
            if 0 <= now - last < _KEPT_EVERY_S:
                return
            last = now
            with self._lead.write() as connection:
                if not jobs.renew(connection, job, ttl_s=_CLAIM_S, now=now):
                    raise lead.Lost(f"job {job.id} was taken by another controller")

        return keep

    def _finish(self, job: jobs.Job, state: Literal["DONE", "FAILED"], result: dict[str, Any]) -> None:
        with self._lead.write() as connection:
            jobs.finish(connection, job, state=state, result=result, now=self._clock())


def run(
    command: list[str],
    environment: dict[str, str],
    stop: threading.Event,
    keep: Callable[[], None],
    *,
    longest_s: float,
) -> Ended:
    """Run a command in a process group of its own, to its end or for so long; it never outlives this process.

    `keep` is called all the time; whatever it raises ends the command too.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "windlass.controller.child", str(os.getpid()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    said = {process.stdout: bytearray(), process.stderr: bytearray()}
    reading = [pipe for pipe in said if pipe is not None]
    deadline = time.monotonic() + longest_s
    late = False
    try:
        while reading and not stop.is_set() and not late:
            keep()
            for pipe in select.select(reading, (), (), _LOOK_S)[0]:
                data = os.read(pipe.fileno(), 65_536)
                if not data:
                    reading.remove(pipe)
                # Read on beyond what is kept, so that the child is not held up.
                said[pipe] += data[: _SAID - len(said[pipe])]
            late = time.monotonic() > deadline
        if not reading:
            # It said all that it had to say: what is left is its end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_S)
    finally:
        # And all that it started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for each in said:
            if each is not None:
                each.close()
    return Ended(code, bytes(said[process.stdout]), bytes(said[process.stderr]), late)


def _passing(ended: Ended) -> bool:
    """Whether it may end otherwise another time: killed, or something it needs did not answer."""
    return (ended.code < 0 and not ended.late) or ended.code == errors.Unavailable.exit_code


def _result(ended: Ended) -> dict[str, Any]:
    if ended.code == 0:
        try:
            return {"said": json.loads(ended.out)}
        except ValueError:
            return {"said": ended.out.decode(errors="replace")[:_LAST_WORDS]}
    why = ended.err.decode(errors="replace").removeprefix("Error: ").strip()[-_LAST_WORDS:]
    if _FAULT in ended.err:
        # A fault of ours names files and lines, which are for who runs this, not for who asks the API.
        log.error("a job failed:\n%s", why)
        why = "it failed; the controller's log has the details"
    if ended.late:
        why = f"its time was up: {why}"
    return {"exit_code": ended.code, "error": why or f"it was killed by signal {-ended.code}"}
