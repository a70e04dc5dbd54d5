"""How quick and how large a form is, always beside the one it is compared with.

Called by studies and profiles. Must never time two forms one after the other, nor call a difference one
that chance explains.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import statistics as averages
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from windlass import errors
from windlass.client import machine as machines
from windlass.optimization import findings, memory_child, runnable
from windlass.optimization import form as forms
from windlass.packaging import session, verdicts
from windlass.security import sandbox, temporary
from windlass.statistics import bootstrap
from windlass.types import tensor, tensor_codec

# Rounds with one loading of both forms, where there is time for it, and where there is not.
_TOGETHER, _HURRIED = 5, 2
_LEAST_LOADINGS = 5
# A look before the last round stops only on evidence that is hardly ever chance, so that looking costs next to nothing
# (Haybittle, 1971; Peto et al., 1976). The last interval is a little wider for what is left of that cost.
_EARLY = 0.999
_LAST = 0.955
# An interval as narrow as this around 1 will say nothing else.
_SAME = 0.005
# Runs that take longer fill the caches themselves.
_COLD_S = 0.02
# Runs after loading that are not timed.
_FIRST = 2
# A block's parts: what interrupts one of them is not in their median.
_PARTS = 8
_DEFLATE = 6
_MEMORY_FLOOR = 4 * sandbox.GIB
_MEMORY_FACTOR = 12  # of the form's bytes: it is measured because it may be large


class Method(msgspec.Struct, frozen=True):
    """How to time. A round is a block of each form; `repeats` rounds at least, `most_repeats` where it is not clear.

    A block is of as many runs as take `block_s`. `most_s` bounds the whole comparison, down to ten rounds; `seed` draws
    who is first in a round, and the bootstrap's samples.
    """

    repeats: int = 30
    most_repeats: int = 120
    block_s: float = 0.002
    most_s: float = 20.0
    seed: int = 0


_METHOD = Method()


def pair(
    baseline: runnable.Runnable,
    candidate: runnable.Runnable,
    inputs: tensor.Tensors,
    *,
    rows: int,
    threads: int,
    method: Method = _METHOD,
    clock: Callable[[], float] | None = None,
) -> findings.Timing:
    """Both forms on the same inputs in turn, in an order that is drawn; milliseconds of one run, ratio and interval.

    Both are loaded again every few rounds, and the interval takes loadings as what is drawn: where a model happens to
    lie in memory makes it quicker or slower by several percent, for as long as it stays loaded (Mytkowicz et al.,
    Producing Wrong Data Without Doing Anything Obviously Wrong, 2009).

    `rows` and `threads` are what the inputs hold and both were opened with: they are told, not set. Without a `clock`
    it is the processor's time of this thread where all of both runs happens in it, so that what else the machine does
    is not counted, and the time of day where it does not.
    """
    inside = baseline.inside and candidate.inside
    timer = clock or (time.thread_time if inside else time.perf_counter)
    watch = clock or time.monotonic
    drawn = random.Random(method.seed)
    begun, look = watch(), method.repeats
    with _undisturbed(), contextlib.closing(_loadings(baseline, candidate)) as loadings:
        one, other = _Blocks(baseline, inputs, method, timer), _Blocks(candidate, inputs, method, timer)
        hurried = (one.seconds + other.seconds) * method.repeats > method.most_s / 2
        together = _HURRIED if hurried else _TOGETHER
        for loaded in loadings:
            for blocks, form in zip((one, other), loaded, strict=True):
                blocks.use(form)
            for _ in range(together):
                # Who is first is drawn: nothing that comes and goes on the machine keeps time with them.
                for blocks in (one, other) if drawn.random() < 0.5 else (other, one):
                    blocks.take()
            rounds = len(one.taken)
            late = watch() - begun > method.most_s and rounds >= _LEAST_LOADINGS * together
            if late or rounds >= method.most_repeats:
                break
            if rounds >= look:
                if _clear(one.taken, other.taken, together, method.seed):
                    break
                look *= 2
    found = bootstrap.median_ratio(one.taken, other.taken, seed=method.seed, level=_LAST, together=together)
    usual = averages.median(one.taken) * 1e3
    return findings.Timing(
        rows=rows,
        threads=threads,
        baseline_ms=usual,
        # Not its own median, which met other moments of the machine: the two figures and their ratio must agree.
        candidate_ms=usual / found.value,
        speedup=found.value,
        low=found.low,
        high=found.high,
        repeats=rounds,
    )


def _loadings(
    baseline: runnable.Runnable, candidate: runnable.Runnable
) -> Generator[tuple[runnable.Runnable, runnable.Runnable], None, None]:
    """The two as they are, then loaded again and again.

    The old are closed after the new are there, which would else lie where they lay.
    """
    held: list[runnable.Runnable] = []
    try:
        yield baseline, candidate
        for number in itertools.count():
            # By turns the one or the other is loaded first.
            if number % 2 == 0:
                held.append(baseline.again())
                held.append(candidate.again())
                one, other = held[-2:]
            else:
                held.append(candidate.again())
                held.append(baseline.again())
                other, one = held[-2:]
            while len(held) > 2:
                held.pop(0).close()
            yield one, other
    finally:
        for form in held:
            form.close()


class _Blocks:
    """One form's blocks: seconds of a run in each, as the median of its parts; `seconds` is about what one takes."""

    def __init__(
        self, form: runnable.Runnable, inputs: tensor.Tensors, method: Method, clock: Callable[[], float]
    ) -> None:
        self.taken: list[float] = []
        self._inputs, self._clock = inputs, clock
        self.use(form)
        # The least of three: a block that is too short for its clock is a bias, and the first try may be interrupted.
        tried, once = 1, self._least(1)
        while once * tried * _PARTS < method.block_s:
            tried *= 2
            once = self._least(tried)
        self._warms = once < _COLD_S
        self._runs = max(1, round(method.block_s / _PARTS / once))
        self._parts = min(_PARTS, max(1, round(method.block_s / (once * self._runs))))
        self.seconds = once * (self._runs * self._parts + self._warms)

    def use(self, form: runnable.Runnable) -> None:
        """Time this one from now on. The first runs allocate and choose; they are not what a run takes."""
        self._form = form
        for _ in range(_FIRST):
            form.run(self._inputs)

    def take(self) -> None:
        """Time one more block. A run before it, untimed, brings back what the other form drove from the caches."""
        if self._warms:
            self._form.run(self._inputs)
        self.taken.append(averages.median([self._time(self._runs) for _ in range(self._parts)]))

    def _least(self, runs: int) -> float:
        return min(self._time(runs) for _ in range(3))

    def _time(self, runs: int) -> float:
        run, inputs, clock = self._form.run, self._inputs, self._clock
        start = clock()
        for _ in range(runs):
            run(inputs)
        return (clock() - start) / runs


def _clear(one: Sequence[float], other: Sequence[float], together: int, seed: int) -> bool:
    """Whether more rounds would say nothing else."""
    usual = bootstrap.median_ratio(one, other, seed=seed, level=_LAST, together=together)
    if 1.0 - _SAME < usual.low <= 1.0 <= usual.high < 1.0 + _SAME:
        return True
    freedom = len(one) // together - 1
    wider = bootstrap.student(0.5 + _EARLY / 2, freedom) / bootstrap.student(0.5 + _LAST / 2, freedom)
    found = usual.value
    ends = found * (usual.low / found) ** wider, found * (usual.high / found) ** wider
    return bool(ends[0] > 1.0 or ends[1] < 1.0)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def alone(
    form: runnable.Runnable,
    inputs: tensor.Tensors,
    *,
    method: Method = _METHOD,
    clock: Callable[[], float] | None = None,
) -> float:
    """Median seconds of one run, of a form by itself: to know about how long it takes, never to compare two."""
    timer = clock or (time.thread_time if form.inside else time.perf_counter)
    watch = clock or time.monotonic
    begun = watch()
    with _undisturbed():
        blocks = _Blocks(form, inputs, method, timer)
        while not blocks.taken or (len(blocks.taken) < method.repeats and watch() - begun < method.most_s):
            blocks.take()
    return averages.median(blocks.taken)


def settings(
    form: forms.Form,
    batches: Mapping[int, tensor.Tensors],
    *,
    threads: Sequence[int],
    method: Method = _METHOD,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[findings.Setting, ...]:
    """Each number of threads with each batch (rows -> inputs): median milliseconds of a run, rows a second.

    By the time of day: threads wait for one another.
    """
    found = []
    with contextlib.ExitStack() as opened, _undisturbed():
        timed = []
        for count in threads:
            model = runnable.open(form, threads=count)
            opened.callback(model.close)
            timed += [(count, rows, _Blocks(model, inputs, method, clock)) for rows, inputs in batches.items()]
        begun = clock()
        while len(timed[0][2].taken) < method.repeats:
            for _, _, blocks in timed:
                blocks.take()
            if clock() - begun > method.most_s:
                break
        for count, rows, blocks in timed:
            seconds = averages.median(blocks.taken)
            found.append(findings.Setting(threads=count, rows=rows, ms=seconds * 1e3, rows_per_s=rows / seconds))
    return tuple(found)


def footprint(
    form: forms.Form, inputs: tensor.Tensors, *, threads: int = 1, peak: bool = True, most_s: float = 120.0
) -> findings.Footprint:
    """Bytes of the files, as they are and deflated (zlib, level 6), and the peak memory of a child that runs them.

    `peak` False starts no child. The first lines of a child that failed are the `InternalError`'s.
    """
    deflated = sum(len(zlib.compress(data, _DEFLATE)) for data in form.files.values())
    return findings.Footprint(form.size, deflated, _peak(form, inputs, threads, most_s) if peak else 0)


def _peak(form: forms.Form, inputs: tensor.Tensors, threads: int, most_s: float) -> int:
    """What the child says; it is confined, since a form may carry code."""
    limits = sandbox.Limits(memory=_MEMORY_FLOOR + _MEMORY_FACTOR * form.size, wall_s=most_s, cpu_s=int(most_s) * 8)
    with temporary.folder("windlass-memory-") as folder:
        given, scratch = folder / "given", folder / "scratch"
        scratch.mkdir()
        options = msgspec.structs.replace(form.options, threads=threads)
        memory_child.write(given, form.runtime, options, form.files, tensor_codec.pack(inputs))
        result = sandbox.run(
            ("windlass.optimization.memory_child", str(given)),
            scratch=scratch,
            readable=[given],
            limits=limits,
            allow_weaker=not session.carries_code(form.runtime),
        )
    said = sandbox.last_words(result.stdout)
    if result.returncode != 0 or not said.isdecimal():
        why = sandbox.last_words(result.stderr) or said or result.killed_by or f"exit code {result.returncode}"
        raise errors.InternalError(f"the memory of a form could not be measured: {why}")
    return int(said)


def machine() -> dict[str, Any]:
    """Facts of this machine, as `windlass bench` tells them, with the instruction sets that verdicts are kept by."""
    return {**machines.facts(), "isa": verdicts.isa(), "software": verdicts.software()}
