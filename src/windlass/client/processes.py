"""Load generators as processes: the parts of one plan run at the same time, and their accounts are added up.

Used by `load`; each child is this module, told its plan on stdin, answering with its report on stdout.
Must never leave a child behind, nor give a report from which a child's part is missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import uvloop

from windlass import errors
from windlass.client import generator, plan, report

_PATIENCE_S = 30.0


def split(planned: plan.Plan, generators: int, cores: Sequence[int]) -> list[plan.Plan]:
    """The parts of a plan for so many generators, each on a core of its own as far as there are cores."""
    parts = []
    for at in range(generators):
        connections = planned.connections // generators + (at < planned.connections % generators)
        if planned.rate or connections:
            parts.append(
                msgspec.structs.replace(
                    planned,
                    rate=planned.rate / generators,
                    connections=max(1, connections),
                    max_in_flight=max(1, planned.max_in_flight // generators),
                    seed=planned.seed + at,
                    cores=(cores[at % len(cores)],) if cores else (),
                )
            )
    return parts


def run(planned: plan.Plan, *, generators: int = 1, cores: Sequence[int] = ()) -> report.Report:
    """Carry out a plan by processes of its own; blocks. An interrupt ends them."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for part in split(planned, generators, cores):
            child = subprocess.Popen(
                [sys.executable, "-m", "windlass.client.processes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            children.append(child)
            if child.stdin is not None:
                child.stdin.write(msgspec.msgpack.encode(part))
                child.stdin.close()
        told = [child.stdout.read() if child.stdout is not None else b"" for child in children]
        statuses = [child.wait(_PATIENCE_S) for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
    if any(statuses):
        raise errors.InternalError("a load generator ended before its time; its words are above")
    return report.merged([msgspec.msgpack.decode(each, type=report.Report) for each in told])


def main() -> None:
    """A child: carry out the plan on stdin."""
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    planned = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=plan.Plan)
    if planned.cores:
        os.sched_setaffinity(0, planned.cores)
    done = uvloop.run(generator.run(planned, lambda: False))
    sys.stdout.buffer.write(msgspec.msgpack.encode(done))


if __name__ == "__main__":
    main()
