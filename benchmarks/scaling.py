"""S9: what a second worker on a second core brings.

Called by `bench.py`. There are only two cores: the generator runs on the same ones, so the model is a heavy one, for
which a request is next to nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import load
import ours
import servers
from bars import Bar, Run, number, ratio, rounds, spread, table

from windlass.client import load as asking

_BOTH = (load.SERVER_CORE, load.LOAD_CORE)
_CONNECTIONS = 8

METHOD = (
    "**S9**: answers a second of a closed loop of 8 connections, 2 workers on 2 cores over 1 worker on 1 core, the "
    "generator on the same cores; a model of some milliseconds a row. Beside it what the machine itself gives: "
    "onnxruntime alone in 2 processes on 2 cores over 1."
)


class Scenario:
    """The server on one core and on two."""

    def __init__(self) -> None:
        self._alone = ours.subject("convolutions")
        self._both = ours.subject("convolutions", cores=_BOTH)

    def measure(self, seconds: float) -> Run:
        """One round."""
        found: Run = {}
        for name, subject in (("1", self._alone), ("2", self._both)):
            with subject.running() as alive:
                _all_serve(alive)
                one = asking.closed_loop(
                    subject.target(alive),
                    connections=_CONNECTIONS,
                    seconds=1.5 * seconds,
                    warm_s=1,
                    cores=subject.server.cores if len(subject.server.cores) == 1 else (),
                )
            found[name] = {**load.account(one), "limit": self._limit(subject.server.cores, seconds / 3)}
        return found

    def _limit(self, cores: tuple[int, ...], seconds: float) -> float:
        """Rows a second of onnxruntime alone, a process on each core, all at the same time."""
        program = [sys.executable, str(Path(__file__).parent / "limits.py"), str(self._alone.onnx), "convolutions"]
        running = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *program, str(max(1.0, seconds)), "1"],
                cwd=servers.ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for core in cores
        ]
        told = [one.communicate()[0] for one in running]
        return sum(float(json.loads(text)["rates"]["1"]) for text in told)


def _all_serve(alive: servers.Running) -> None:
    """Wait for the last worker: the first one answers as soon as it can, and a connection stays where it is."""
    reached = ours.control_of(alive)
    end = time.monotonic() + servers.START_LIMIT_S
    while any(worker["state"] != "serving" for worker in reached.status()["workers"]):
        if time.monotonic() > end:
            raise SystemExit("benchmarks: not all workers serve")
        time.sleep(0.05)
    reached.close()


def _over(run: Run, what: str) -> list[float]:
    found = dict(enumerate(rounds(run, "S9")))
    return ratio({at: one["2"][what] for at, one in found.items()}, {at: one["1"][what] for at, one in found.items()})


BARS = (Bar("S9", "2 workers on 2 cores over 1 on 1", 1.85, "x", ">=", lambda run: _over(run, "rate")),)


def section(run: Run) -> list[str]:
    """Rates by workers, and what the machine gives."""
    found = rounds(run, "S9")
    rows = [
        [workers, *(spread((one[workers][what] for one in found), number) for what in ("rate", "limit"))]
        for workers in ("1", "2")
    ]
    rows.append(["ratio", *(spread(_over(run, what), number) for what in ("rate", "limit"))])
    heads = ["workers and cores", "answers/s", "onnxruntime alone, rows/s"]
    return ["", "### A second worker", "", *table(heads, rows)]
