"""Where the time of one run of a model goes, and how much each technique could gain at most.

Called by `windlass profile` and at the start of a study. Must never judge a technique by anything but its bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from windlass import errors, plugins
from windlass.optimization import findings, measure, runnable, trace
from windlass.optimization import form as forms
from windlass.optimization.report import words
from windlass.optimization.techniques import base
from windlass.types import tensor

# What nothing can make enough quicker to be worth a version of its own.
_LEAST_GAIN = 1.1
_LEAST_US = 20.0
_SLOWEST = 10
_NAMED = 3
# Operators that onnxruntime makes of others, by what most of their time was before.
_FUSED = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "Attention": "MatMul",
    "MultiHeadAttention": "MatMul",
    "GroupQueryAttention": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
}


def profile(
    form: forms.Form,
    inputs: tensor.Tensors,
    *,
    rows: int,
    techniques: Sequence[type[base.Technique]],
    threads: int = 1,
    seconds: float = 2.0,
    clock: Callable[[], float] | None = None,
) -> findings.Profile:
    """One run on these inputs, by operator as onnxruntime runs them (fused), for about `seconds`.

    A form in another runtime is measured as a whole, without operators.
    """
    opened = runnable.open(form, threads=threads)
    try:
        us = measure.alone(opened, inputs, method=measure.Method(most_s=seconds / 2), clock=clock) * 1e6
    finally:
        opened.close()
    if form.runtime != "onnx":
        return told(form.runtime, us, (), trace.Cost(0.0, 0.0), rows=rows, threads=threads, techniques=techniques)
    cost = trace.cost()
    ran = trace.nodes(form, inputs, us, cost, threads=threads, seconds=seconds / 2)
    return told("onnx", us, ran, cost, rows=rows, threads=threads, techniques=techniques)


def nodes(
    form: forms.Form,
    inputs: tensor.Tensors,
    *,
    threads: int = 1,
    level: runnable.Level | None = None,
    clock: Callable[[], float] | None = None,
) -> tuple[findings.Node, ...]:
    """All operators of an onnx form as they run at a level of optimization, slowest first."""
    opened = runnable.open(form, threads=threads, level=level)
    try:
        us = measure.alone(opened, inputs, method=measure.Method(most_s=1.0), clock=clock) * 1e6
    finally:
        opened.close()
    ran = trace.nodes(form, inputs, us, trace.cost(), threads=threads, level=level)
    return tuple(findings.Node(node.name, node.kind, node.us) for node in sorted(ran, key=lambda node: -node.us))


def installed() -> tuple[type[base.Technique], ...]:
    """The techniques of the catalogue whose libraries are here, by name."""
    found = []
    for name in sorted(plugins.catalog().get("techniques", {})):
        try:
            found.append(plugins.load("techniques", name))
        except errors.Unsupported:
            continue
    return tuple(found)


def told(
    runtime: str,
    us: float,
    ran: Sequence[trace.Ran],
    cost: trace.Cost,
    *,
    rows: int,
    threads: int,
    techniques: Sequence[type[base.Technique]],
) -> findings.Profile:
    """The profile from microseconds of a run and of each operator in it."""
    inside = sum(node.us for node in ran)
    by_kind: dict[str, list[trace.Ran]] = {}
    for node in ran:
        by_kind.setdefault(node.kind, []).append(node)
    operators = []
    for kind, same in by_kind.items():
        spent = sum(node.us for node in same)
        often = round(sum(node.calls for node in same))
        operators.append(findings.Operator(kind, often, spent, spent / (inside or 1.0)))
    operators.sort(key=lambda operator: -operator.us)
    slowest = sorted(ran, key=lambda node: -node.us)[:_SLOWEST]
    outside = max(0.0, us - inside)
    calls = round(sum(node.calls for node in ran))
    dispatch = outside + sum(min(node.us, node.calls * cost.call_us) for node in ran)
    bounds = _bounds(operators, max(us, inside), techniques)
    worth, said = _verdict(us, rows, threads, operators, bounds)
    dispatched = bool(ran) and dispatch > us / 2
    if dispatched and worth:
        said += (
            f" Calling its {calls} operators takes {dispatch / us:.0%} of that: more rows a run, or fewer operators."
        )
    return findings.Profile(
        runtime=runtime,
        rows=rows,
        threads=threads,
        us=us,
        outside_us=outside,
        operators=tuple(operators),
        slowest=tuple(findings.Node(node.name, node.kind, node.us) for node in slowest),
        bounds=bounds,
        dispatch_bound=dispatched,
        worth=worth,
        words=said,
    )


def _bounds(
    operators: Sequence[findings.Operator], total: float, techniques: Sequence[type[base.Technique]]
) -> tuple[findings.Bound, ...]:
    """The law of Amdahl (Validity of the Single Processor Approach, 1967), by technique, the highest first.

    Of equal ones those that need no training come first.
    """
    found = []
    for technique in sorted(techniques, key=lambda technique: (technique.trains, technique.name)):
        if not technique.gains or not operators:
            continue
        gains = [(operator.us, _gain(technique.gains, operator.kind)) for operator in operators]
        touched = sum(us for us, gain in gains if gain > 1.0)
        left = sum(us / gain for us, gain in gains if gain > 1.0)
        gain = touched / left if left else 1.0
        found.append(findings.Bound(technique.name, touched / total, gain, total / (total - touched + left)))
    return tuple(sorted(found, key=lambda bound: -bound.speedup))


def _gain(gains: Mapping[str, float], kind: str) -> float:
    return gains.get(kind, gains.get(_FUSED.get(kind, ""), 1.0))


def _verdict(
    us: float, rows: int, threads: int, operators: Sequence[findings.Operator], bounds: Sequence[findings.Bound]
) -> tuple[bool, str]:
    """Whether to go on, and the sentence that says so."""
    named = f"A run of {words.rows(rows)} takes {words.milliseconds(us / 1e3)} on {words.counted(threads, 'thread')}"
    if us < _LEAST_US:
        return False, f"{named}: asking for it takes longer, so no other form would be noticed."
    if not operators:
        return True, f"{named}; its runtime does not tell what of it."
    most = operators[0]
    named += f", {most.share:.0%} of its operators' time in {most.kind}"
    if bounds and bounds[0].speedup < _LEAST_GAIN:
        return False, f"{named}: the most that a technique could gain is {bounds[0].speedup:.2f}x."
    if not bounds:
        return True, f"{named}."
    first = [bound.technique for bound in bounds if bound.speedup > bounds[0].speedup * 0.99][:_NAMED]
    return True, f"{named}: the most that one technique could gain is {bounds[0].speedup:.1f}x ({', '.join(first)})."
