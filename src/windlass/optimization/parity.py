"""The parity matrix: the original and the chosen form in every runtime that is here, against what is served.

Called by a study at its end. Must never call passed what could not be tried, nor hide what a runtime answered.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from windlass import errors, plugins
from windlass.optimization import findings, runnable
from windlass.optimization import form as forms
from windlass.optimization.peers import base
from windlass.packaging import samples
from windlass.types import tensor

# The largest error over the largest magnitude that is another order of sums; of integers inside, another rounding.
_FLOATS = 1e-3
_INTEGERS = 5e-2
# The peer that is the live network: PyTorch takes seconds to load, and where there is none it need not be.
_LIVE = "torch"
_LEVELS: tuple[runnable.Level, ...] = ("none", "basic", "all")


class _Served(NamedTuple):
    """A form's own answers, and the seconds that they took."""

    role: Literal["original", "chosen"]
    form: forms.Form
    answers: tensor.Tensors
    seconds: float


class _Skipped(Exception):
    """Why a runtime could not be tried."""


def matrix(
    original: forms.Form,
    chosen: forms.Form | None,
    inputs: tensor.Tensors,
    *,
    compiled: tuple[forms.Form, ...] = (),
    seconds: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[findings.Parity, ...]:
    """One cell for each form and runtime, on these inputs (a few real rows, as the model takes them).

    `compiled` are forms of other runtimes that were made of the original (AOTInductor), run as they are served. A peer
    that would take more than what is left of `seconds` is skipped, with that reason.
    """
    end = clock() + seconds
    found: list[findings.Parity] = []
    for role, form in (("original", original), ("chosen", chosen)):
        if form is None:
            continue
        served = _serve("original" if role == "original" else "chosen", form, inputs, clock)
        for name, opener in _runtimes(served, compiled if role == "original" else (), end, clock):
            found.append(_cell(served, name, opener, inputs))
    return tuple(found)


def _serve(
    role: Literal["original", "chosen"], form: forms.Form, inputs: tensor.Tensors, clock: Callable[[], float]
) -> _Served:
    opened = runnable.open(form)
    try:
        opened.run(inputs)
        start = clock()
        answers = opened.run(inputs)
        return _Served(role, form, answers, clock() - start)
    finally:
        opened.close()


def _runtimes(
    served: _Served, compiled: tuple[forms.Form, ...], end: float, clock: Callable[[], float]
) -> Iterator[tuple[str, Callable[[], base.Run]]]:
    """The name of each runtime, and what opens the form in it or raises `_Skipped`."""
    for level in _LEVELS:
        yield f"onnxruntime, {level}", functools.partial(_at_level, served.form, level)
    for form in compiled:
        yield form.runtime, functools.partial(_as_served, form)
    for name in plugins.catalog()["peers"]:
        yield name, functools.partial(_peer, name, served, end, clock)


def _at_level(form: forms.Form, level: runnable.Level) -> base.Run:
    if form.runtime != "onnx":
        raise _Skipped(f"it does not run the format of '{form.runtime}'")
    return _closing(runnable.open(form, level=level))


def _as_served(form: forms.Form) -> base.Run:
    return _closing(runnable.open(form))


def _closing(opened: runnable.Runnable) -> base.Run:
    """Asked once, then given back."""

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        try:
            return opened.run(inputs)
        finally:
            opened.close()

    return run


def _peer(name: str, served: _Served, end: float, clock: Callable[[], float]) -> base.Run:
    if name == _LIVE and served.form.network is None:
        raise _Skipped("there is no live network behind it (give it with --model)")
    try:
        peer: type[base.Peer] = plugins.load("peers", name)
    except errors.Unsupported:
        raise _Skipped("it is not installed") from None
    why = peer.refusal(served.form)
    if why:
        raise _Skipped(why)
    longest, left = served.seconds * peer.pace, end - clock()
    if longest > left:
        raise _Skipped(f"it may take {longest:.0f} s, and {max(left, 0):.0f} s are left for such checks")
    return peer.open(served.form)


def _cell(served: _Served, name: str, opener: Callable[[], base.Run], inputs: tensor.Tensors) -> findings.Parity:
    try:
        answers = opener()(inputs)
    except _Skipped as e:
        return findings.Parity(served.role, name, "skipped", None, str(e))
    except Exception as e:  # noqa: BLE001 - libraries raise anything; none of it is a pass
        first = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        return findings.Parity(served.role, name, "skipped", None, f"it fails on this form: {first}")
    return _compared(served, name, answers)


def _compared(served: _Served, name: str, answers: tensor.Tensors) -> findings.Parity:
    worst, words = 0.0, []
    for output, expected in served.answers.items():
        if output not in answers or answers[output].shape != expected.shape:
            return findings.Parity(served.role, name, "failed", None, f"it gives no '{output}' of the same shape")
        apart = _apart(answers[output], expected)
        worst = max(worst, apart)
        if expected.ndim == 2 and expected.shape[1] > 1 and expected.dtype.kind == "f":
            same = samples.likeness(answers[output], samples.classes(expected), "agreement")
            words.append(
                f"the highest of '{output}' is the same in {round(same * len(expected))} of {len(expected)} rows"
            )
    most = _FLOATS if served.form.precision == "fp32" else _INTEGERS
    verdict: Literal["passed", "failed"] = "passed" if worst <= most else "failed"
    told = "; ".join([f"the largest difference is {worst:.2g} of the largest value, {most:g} is allowed", *words])
    return findings.Parity(served.role, name, verdict, worst if np.isfinite(worst) else None, told)


def _apart(given: tensor.Array, expected: tensor.Array) -> float:
    """The largest error over the largest magnitude; of what is no float, whether any element differs."""
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(given, expected) else float("inf")
    ours, theirs = given.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(theirs[finite]).max())
    error = float(np.abs(ours[finite] - theirs[finite]).max())
    return error / largest if largest else error
