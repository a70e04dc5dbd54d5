"""How the inner values of a graph move together over real rows.

Called by techniques that weigh errors by what really flows. Must never keep more than a batch of inner values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from windlass.optimization import calibration, runnable
from windlass.optimization import form as forms
from windlass.types import tensor

_MOST_VECTORS = 4096


def moments(model: onnx.ModelProto, names: Sequence[str], batches: Sequence[tensor.Tensors]) -> dict[str, tensor.Array]:
    """The mean of `outer(x, x)`, float64 `[k, k]`, over the vectors along the last axis of each named FP32 value.

    Of at most about 4,096 vectors, evenly drawn. Empty without batches. `calibration.astray` says what is raised where
    a value is not finite.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted or not batches:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    told = {output.name for output in watched.graph.output} | {given.name for given in watched.graph.input}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in told)
    loaded = runnable.open(forms.Form({"model.onnx": watched.SerializeToString()}), level="basic")
    sums: dict[str, tensor.Array] = {}
    counts = dict.fromkeys(wanted, 0)
    try:
        for batch in batches:
            values = {**batch, **loaded.run(batch)}
            for name in wanted:
                vectors = _drawn(values[name], len(batches))
                if not np.isfinite(vectors).all():
                    raise calibration.astray(name, batches)
                sums[name] = sums.get(name, 0.0) + vectors.T.astype(np.float64) @ vectors
                counts[name] += len(vectors)
    finally:
        loaded.close()
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def _drawn(value: tensor.Array, batches: int) -> tensor.Array:
    vectors = value.reshape(-1, value.shape[-1])
    return vectors[:: max(1, len(vectors) * batches // _MOST_VECTORS)]
