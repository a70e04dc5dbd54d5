"""Load generators as processes: the parts of one plan run at the same time, and their accounts are added up.

Used by `load` and `windlass bench`; each child is this module, told plans on stdin, answering with reports on stdout.
Must never leave a child behind, nor give a report from which a child's part is missing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

import msgspec
import uvloop

from windlass import errors
from windlass.client import generator, plan, report

_PATIENCE_S = 30.0
_LENGTH = struct.Struct(">I")
_ENDED = "a load generator ended before its time; its words are above"


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


class Generators:
    """Processes that wait for plans. They end with the `with` block; an interrupt or a failure ends them at once."""

    def __init__(self, count: int = 1, cores: Sequence[int] = ()) -> None:
        self._count, self._cores = count, tuple(cores)
        command = [sys.executable, "-m", "windlass.client.processes"]
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
        ]

    def run(self, planned: plan.Plan) -> report.Report:
        """Carry out a plan by all of them; blocks."""
        try:
            parts = split(planned, self._count, self._cores)
            busy = self._children[: len(parts)]
            for child, part in zip(busy, parts, strict=True):
                _write(_pipe(child.stdin), msgspec.msgpack.encode(part))
            told = [_read(_pipe(child.stdout)) for child in busy]
        except BaseException:
            self._kill()
            raise
        return report.merged([msgspec.msgpack.decode(each, type=report.Report) for each in told])

    def close(self) -> None:
        """End them; none is at work."""
        for child in self._children:
            _pipe(child.stdin).close()
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)
        self._kill()

    def _kill(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    _pipe(pipe).close()

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(planned: plan.Plan, *, generators: int = 1, cores: Sequence[int] = ()) -> report.Report:
    """Carry out one plan by processes of its own; blocks."""
    with Generators(generators, cores) as running:
        return running.run(planned)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise errors.InternalError("a load generator has no pipe")
    return pipe


def _write(pipe: IO[bytes], data: bytes) -> None:
    try:
        pipe.write(_LENGTH.pack(len(data)) + data)
        pipe.flush()
    except BrokenPipeError:
        raise errors.InternalError(_ENDED) from None


def _read(pipe: IO[bytes]) -> bytes:
    head = pipe.read(_LENGTH.size)
    data = pipe.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not data:
        raise errors.InternalError(_ENDED)
    return data


def main() -> None:
    """A child: carry out the plans that come on stdin, until it is closed."""
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while len(head := sys.stdin.buffer.read(_LENGTH.size)) == _LENGTH.size:
        planned = msgspec.msgpack.decode(sys.stdin.buffer.read(_LENGTH.unpack(head)[0]), type=plan.Plan)
        if planned.cores:
            os.sched_setaffinity(0, planned.cores)
        _write(sys.stdout.buffer, msgspec.msgpack.encode(uvloop.run(generator.run(planned, lambda: False))))


if __name__ == "__main__":
    main()
