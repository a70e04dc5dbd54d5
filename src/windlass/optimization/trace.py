"""The microseconds of each operator of a run, read from the trace that onnxruntime's profiler writes.

Called by `profile.py`. Must never take the profiler's own time for the model's: a traced operator takes two to three
microseconds more, which is more than most small ones take.
"""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import helper

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import runnable
from windlass.runtimes import base
from windlass.runtimes import onnx as onnx_runtime
from windlass.security import temporary
from windlass.types import tensor

_SUFFIX = "_kernel_time"
# Traced runs: enough for an average, and no more than about so many operators in all.
_LEAST_RUNS, _MOST_RUNS, _MOST_EVENTS = 5, 500, 60_000
_USUAL_RUNS = 30
# The first runs allocate.
_FIRST = 3
_CHAIN = 64


class Event(msgspec.Struct, frozen=True):
    """One line of the trace; microseconds. Other fields are left unread."""

    name: str
    cat: str = ""
    ts: int = 0
    dur: int = 0
    args: dict[str, Any] = {}


class Ran(NamedTuple):
    """An operator of the graph: how often it ran in one run of the model, and the microseconds of all its calls."""

    name: str
    kind: str
    calls: float
    us: float


class Cost(NamedTuple):
    """Of an operator with nothing to compute, microseconds: of a call, and of tracing it."""

    call_us: float
    traced_us: float


def nodes(
    form: forms.Form,
    inputs: tensor.Tensors,
    us: float,
    cost: Cost,
    *,
    threads: int = 1,
    level: runnable.Level | None = None,
    seconds: float = 1.0,
) -> tuple[Ran, ...]:
    """Each operator as it runs, in the order of the first run. `us` is an untraced run: all of them take no more."""
    wanted = max(_USUAL_RUNS, min(_MOST_RUNS, round(_MOST_EVENTS / us)))
    runs = _FIRST + max(_LEAST_RUNS, min(wanted, round(seconds * 1e6 / us)))
    settings = runnable.settings(base.Options(threads=threads, optimize=form.options.optimize), level)
    events = _events(form.files, settings, [inputs] * runs)
    return fitted(averaged(events, skip=_FIRST), us, cost.traced_us)


def averaged(events: Sequence[Event], *, skip: int = 0) -> tuple[Ran, ...]:
    """Operators with the middle half's mean of their microseconds in a run, without those of operators inside them.

    Runs are those that the trace tells; the first `skip` do not count.
    """
    windows = sorted((event.ts, event.ts + event.dur) for event in events if event.name == "model_run")[skip:]
    if not windows:
        raise errors.InternalError("onnxruntime's trace holds no run of the model")
    ran = sorted((e for e in events if e.name.endswith(_SUFFIX)), key=lambda e: (e.ts, -e.dur))
    kinds: dict[str, str] = {}
    spent: dict[str, list[float]] = {}
    calls: collections.Counter[str] = collections.Counter()
    at = 0
    for number, (start, end) in enumerate(windows):
        while at < len(ran) and ran[at].ts < start:
            at += 1
        within = []
        while at < len(ran) and ran[at].ts <= end:
            within.append(ran[at])
            at += 1
        for event, own in _own(within):
            name = event.name.removesuffix(_SUFFIX)
            kinds.setdefault(name, str(event.args.get("op_name", "?")))
            spent.setdefault(name, [0.0] * len(windows))[number] += own
            calls[name] += 1
    return tuple(Ran(name, kind, calls[name] / len(windows), _middle(spent[name])) for name, kind in kinds.items())


def fitted(ran: Sequence[Ran], us: float, traced_us: float) -> tuple[Ran, ...]:
    """Without what tracing took of each call; never more in all than the untraced run of `us`."""
    bare = [max(0.0, node.us - node.calls * traced_us) for node in ran]
    scale = min(1.0, us / sum(bare)) if sum(bare) > 0 else 1.0
    return tuple(node._replace(us=own * scale) for node, own in zip(ran, bare, strict=True))


def cost(clock: Callable[[], float] = time.thread_time) -> Cost:
    """Found on this machine, now, from a chain of operators that each negate one number."""
    short, long = _chain(1), _chain(1 + _CHAIN)
    options = base.Options(threads=1)
    sessions = [onnx_runtime.session(files, onnx_runtime.settings(options)) for files in (short, long)]
    inputs = {"x": np.ones(1, np.float32)}
    taken: list[list[float]] = [[], []]
    for _ in range(30):
        for session, times in zip(sessions, taken, strict=True):
            session.run(None, inputs)
            start = clock()
            for _ in range(20):
                session.run(None, inputs)
            times.append((clock() - start) / 20 * 1e6)
    call = max(0.0, (min(taken[1]) - min(taken[0])) / _CHAIN)
    events = _events(long, onnx_runtime.settings(options), [inputs] * 60)
    traced = statistics.median(node.us for node in averaged(events, skip=_FIRST))
    return Cost(call, max(0.0, traced - call))


def _own(within: Sequence[Event]) -> list[tuple[Event, float]]:
    """Each event with its own microseconds: an operator that runs a graph of its own holds that graph's."""
    own = [float(event.dur) for event in within]
    above: list[int] = []
    for number, event in enumerate(within):
        while above and within[above[-1]].ts + within[above[-1]].dur < event.ts + event.dur:
            above.pop()
        if above and event.ts < within[above[-1]].ts + within[above[-1]].dur:
            own[above[-1]] -= event.dur
        above.append(number)
    return list(zip(within, (max(0.0, us) for us in own), strict=True))


def _middle(values: Sequence[float]) -> float:
    """The mean of the middle half: the trace's microseconds are whole, and some runs are interrupted."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.fmean(ordered[quarter : len(ordered) - quarter])


def _events(files: base.Files, settings: Any, runs: Sequence[tensor.Tensors]) -> list[Event]:
    with temporary.folder("windlass-profile-") as folder:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(folder / "trace")
        session = onnx_runtime.session(files, settings)
        model = onnx_runtime.OnnxModel(session)
        for inputs in runs:
            model.run(inputs)
        data = Path(session.end_profiling()).read_bytes()
    return msgspec.json.decode(data, type=list[Event])


def _chain(length: int) -> dict[str, bytes]:
    names = ["x", *(f"v{number}" for number in range(length))]
    made = [helper.make_node("Neg", [names[n]], [names[n + 1]], name=f"n{n}") for n in range(length)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return {onnx_runtime.MODEL_FILE: model.SerializeToString()}
