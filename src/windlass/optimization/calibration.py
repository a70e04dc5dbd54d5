"""The ranges of a graph's inner values over real rows: what static quantization takes its scales from.

Called by the quantizing techniques; kept in memory for each graph, method and set of rows, because a search asks for
the same ranges many times. Must never keep more than a batch of inner values at a time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime

from windlass import errors
from windlass.types import tensor

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
Ranges: TypeAlias = dict[str, tuple[float, float]]
_PERCENT = 99.999
_BINS = 2048
_LEVELS = 128
# Ranges change little with more rows than these, and a large model takes its time for each.
MAX_ROWS = 128
# Rows of one run, so that inner values stay small, and how many numbers of each are looked at for a histogram.
_ROWS = 4
_SAMPLE = 1 << 17
_FATAL = 4
_KEPT = 16
_kept: OrderedDict[tuple[Any, ...], Ranges] = OrderedDict()


def ranges(
    model: onnx.ModelProto, names: Sequence[str], rows: Sequence[tensor.Tensors], method: Method, *, key: str
) -> Ranges:
    """The lowest and highest value to represent, for each named FP32 value of the graph.

    `minmax`: the extremes; `percentile`: what 99.999 % lie within; `entropy`: the clipping with the least
    Kullback-Leibler divergence to 128 levels (Migacz, 8-bit inference with TensorRT, 2017). `key` tells graphs apart.
    The first `MAX_ROWS` rows are looked at.
    `UsageError` without rows or where they hold what is no number and the graph computes with it, `Unsupported` if the
    graph does not run on them, or makes what is no number of numbers.
    """
    if not rows:
        raise errors.UsageError("static quantization needs rows to calibrate on.", hint="Give data (--data).")
    rows = tuple(_first(rows, MAX_ROWS))
    asked = (key, method, _digest(rows), tuple(names))
    if asked not in _kept:
        extremes = asked if method == "minmax" else (key, "minmax", *asked[2:])
        if extremes not in _kept:
            _kept[extremes] = _extremes(model, names, rows)
        if method != "minmax":
            _kept[asked] = _clipped(model, names, rows, method, _kept[extremes])
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return _kept[asked]


def astray(name: str, rows: Sequence[tensor.Tensors]) -> errors.WindlassError:
    """The error for a value of the graph that is not finite on these rows: it names the input that is to blame, if any.

    `UsageError` for rows that hold what is no number, `Unsupported` where the graph makes it of numbers.
    """
    start = 0
    for batch in rows:
        for given, values in batch.items():
            if values.dtype.kind == "f" and values.ndim and not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                return errors.UsageError(
                    f"input '{given}' holds what is no finite number (row {start + row} of those to calibrate on), and "
                    f"the value '{name}' that is computed of it has no range.",
                    hint="Leave such rows out of the data, or fill in what is missing.",
                )
        start += _length(batch) or 1
    return errors.Unsupported(f"the value '{name}' is not finite on the calibration rows: it has no range.")


def _extremes(model: onnx.ModelProto, names: Sequence[str], rows: Sequence[tensor.Tensors]) -> Ranges:
    """Reduced inside the graph, so that only three numbers of each value come out of a run."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    outputs = []
    for number, name in enumerate(names):
        # onnxruntime's extremes pass over NaN; a sum does not.
        for operator in ("ReduceMin", "ReduceMax", "ReduceSum"):
            output = f"windlass/{operator}/{number}"
            told.graph.node.append(onnx.helper.make_node(operator, [name], [output], keepdims=0))
            told.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
            outputs.append(output)
    found = np.stack([np.stack(values) for values in _run(told, outputs, list(_pieces(rows)))])
    if not np.isfinite(found).all():
        raise astray(names[int(np.argwhere(~np.isfinite(found))[0][1]) // 3], rows)
    low, high = found[:, 0::3].min(axis=0), found[:, 1::3].max(axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _clipped(
    model: onnx.ModelProto, names: Sequence[str], rows: Sequence[tensor.Tensors], method: Method, extremes: Ranges
) -> Ranges:
    told = onnx.ModelProto()
    told.CopyFrom(model)
    there = {value.name for value in told.graph.output}
    inputs = {value.name for value in told.graph.input}
    inner = [name for name in names if name not in inputs]
    for name in inner:
        if name not in there:
            told.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    histograms = {name: np.zeros(_BINS) for name in names}
    pieces = list(_pieces(rows))
    for piece, values in zip(pieces, _run(told, inner, pieces), strict=True):
        fetched = dict(zip(inner, values, strict=True)) | {name: piece[name] for name in names if name in inputs}
        for name, value in fetched.items():
            flat = value.reshape(-1)
            flat = flat[:: max(1, flat.size // _SAMPLE)]
            histograms[name] += np.histogram(flat, _BINS, _widened(extremes[name]))[0]
    choose = _percentile if method == "percentile" else _entropy
    return {name: choose(histograms[name], *_widened(extremes[name])) for name in names}


def _percentile(histogram: tensor.Array, low: float, high: float) -> tuple[float, float]:
    share = np.cumsum(histogram) / max(histogram.sum(), 1)
    tail = (100 - _PERCENT) / 200
    edges = np.linspace(low, high, _BINS + 1)
    return float(edges[np.searchsorted(share, tail)]), float(edges[np.searchsorted(share, 1 - tail) + 1])


def _entropy(histogram: tensor.Array, low: float, high: float) -> tuple[float, float]:
    """Clip magnitudes: what is clipped counts for the outermost bin of the reference, and is missing in the levels."""
    edges = np.linspace(low, high, _BINS + 1)
    centres = np.abs(edges[:-1] + edges[1:]) / 2
    largest = max(-low, high)
    magnitudes = np.histogram(centres, _BINS, (0, largest), weights=histogram)[0]
    # The bin of zero is what ReLU makes; it says nothing about where to clip.
    magnitudes[0] = magnitudes[1]
    best, least = largest, np.inf
    for stop in range(_LEVELS, _BINS + 1, _LEVELS // 8):
        reference = magnitudes[:stop].copy()
        level = np.minimum(np.arange(stop) * _LEVELS // stop, _LEVELS - 1)
        there = reference > 0
        sums = np.bincount(level, reference, _LEVELS)
        counts = np.bincount(level, there, _LEVELS)
        levels = np.where(there, sums[level] / np.maximum(counts[level], 1), 0)
        reference[-1] += magnitudes[stop:].sum()
        divergence = _divergence(reference, levels)
        if divergence < least:
            best, least = largest * stop / _BINS, divergence
    return max(low, -best), min(high, best)


def _divergence(reference: tensor.Array, levels: tensor.Array) -> float:
    """Kullback-Leibler divergence; what the levels lack altogether counts as a small share of a row."""
    p, q = reference / max(reference.sum(), 1e-12), levels / max(levels.sum(), 1e-12)
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-9))))


def _widened(extremes: tuple[float, float]) -> tuple[float, float]:
    low, high = extremes
    return (low, high) if high > low else (low, low + max(abs(low), 1.0) * 1e-3)


def _run(
    model: onnx.ModelProto, outputs: Sequence[str], rows: Sequence[tensor.Tensors]
) -> Iterator[list[tensor.Array]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for batch in rows:
            yield session.run(list(outputs), batch)
    except Exception as e:  # noqa: BLE001 - onnxruntime raises bare exceptions of several kinds
        raise errors.Unsupported(f"the graph does not run on the calibration rows: {e}") from None


def _pieces(rows: Sequence[tensor.Tensors]) -> Iterator[tensor.Tensors]:
    """The same rows a few at a time, where axis 0 of every input is the row."""
    for batch in rows:
        for start in range(0, _length(batch) or 1, _ROWS):
            yield batch if _length(batch) is None else _cut(batch, start, start + _ROWS)


def _first(rows: Sequence[tensor.Tensors], most: int) -> Iterator[tensor.Tensors]:
    for batch in rows:
        length = _length(batch)
        if most <= 0:
            return
        yield batch if length is None or length <= most else _cut(batch, 0, most)
        most -= length or 1


def _length(batch: tensor.Tensors) -> int | None:
    """The rows of a batch, None where the inputs do not have the same number."""
    lengths = {array.shape[0] if array.ndim else None for array in batch.values()}
    return lengths.pop() if len(lengths) == 1 else None


def _cut(batch: tensor.Tensors, start: int, stop: int) -> tensor.Tensors:
    return {name: array[start:stop] for name, array in batch.items()}


def _digest(rows: Sequence[tensor.Tensors]) -> str:
    found = hashlib.sha256()
    for batch in rows:
        for name, array in sorted(batch.items()):
            found.update(f"{name}{array.dtype}{array.shape}".encode())
            found.update(
                np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array.tolist()).encode()
            )
    return found.hexdigest()
