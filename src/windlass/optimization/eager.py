"""Where the time of a live PyTorch module goes, by its operators, as PyTorch runs it without compiling.

Called by `windlass profile --model`. Must never change the module: it is left in the mode it came in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import findings, measure, profile, trace
from windlass.types import tensor

_LEAST_RUNS, _MOST_RUNS, _MOST_EVENTS = 5, 200, 60_000
_CALLS = 500


class _Network:
    """The module as what is timed; its inputs are given in their order."""

    inside = False  # autograd and OpenMP have threads of their own

    def __init__(self, torch: Any, call: Callable[..., Any]) -> None:
        self._torch, self._call = torch, call

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """One run; what it gives is not looked at."""
        with self._torch.inference_mode():
            self._call(*(self._torch.from_numpy(values) for values in inputs.values()))
        return {}

    def again(self) -> _Network:
        """The same: a live module is not loaded."""
        return self

    def close(self) -> None:
        """Nothing was opened."""


def profiled(
    network: Any,
    inputs: tensor.Tensors,
    *,
    rows: int,
    threads: int = 1,
    seconds: float = 2.0,
    clock: Callable[[], float] | None = None,
) -> findings.Profile:
    """One run on the module's inputs in their order, by PyTorch's profiler. No technique's bound: those are of ONNX.

    `UsageError` with PyTorch's reason where the module does not take them.
    """
    import torch

    # PyTorch warns of arrays that it may not write to.
    inputs = {name: np.array(values) for name, values in inputs.items()}
    before, training = torch.get_num_threads(), network.training
    torch.set_num_threads(threads)
    network.eval()
    try:
        opened = _Network(torch, network)
        try:
            us = measure.alone(opened, inputs, method=measure.Method(most_s=seconds / 2), clock=clock) * 1e6
        except (RuntimeError, TypeError, ValueError) as e:
            raise errors.UsageError(
                f"the module does not take the version's inputs: {str(e).splitlines()[0][:200]}",
                hint="Name the function that makes the module that the version came from.",
            ) from None
        cost = _cost(torch)
        wanted = min(_MOST_RUNS, _MOST_EVENTS / us * cost.call_us, seconds * 5e5 / us)
        ran = _traced(torch, lambda: opened.run(inputs), max(_LEAST_RUNS, round(wanted)))
    finally:
        network.train(training)
        torch.set_num_threads(before)
    fitted = trace.fitted(ran, us, cost.traced_us)
    told = profile.told("torch", us, fitted, cost, rows=rows, threads=threads, techniques=())
    return msgspec.structs.replace(told, slowest=())


def _traced(torch: Any, run: Callable[[], object], runs: int) -> Sequence[trace.Ran]:
    """Operators by kind: eager ones have no names."""
    run()
    with _silent(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(runs):
            run()
    return [
        trace.Ran(event.key, event.key, event.count / runs, event.self_cpu_time_total / runs)
        for event in found.key_averages()
        if event.self_cpu_time_total > 0 and event.key.partition("::")[1]
    ]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The profiler's library writes lines of its own to the terminal, past Python."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _cost(torch: Any) -> trace.Cost:
    """Of an operator with nothing to compute: of a call, and of tracing it."""
    one = torch.ones(1)

    def calls() -> None:
        for _ in range(_CALLS):
            torch.neg(one)

    many = _Network(torch, calls)
    call = measure.alone(many, {}, method=measure.Method(repeats=5)) / _CALLS * 1e6
    (traced,) = [node for node in _traced(torch, lambda: many.run({}), 2) if node.kind == "aten::neg"]
    return trace.Cost(call, max(0.0, traced.us / traced.calls - call))
