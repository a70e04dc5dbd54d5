"""The ranges of a graph's inner values over real rows: what static quantization takes its scales from.

Called by the quantizing techniques; kept in memory for each graph, method and set of rows, because a search asks for
the same ranges many times. Must never keep more than a batch of inner values at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import onnx

from windlass.types import tensor

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")


def ranges(
    model: onnx.ModelProto, names: Sequence[str], rows: Sequence[tensor.Tensors], method: Method
) -> dict[str, tuple[float, float]]:
    """The lowest and highest value to represent, for each named FP32 value of the graph.

    `minmax`: the extremes; `percentile`: what 99.99 % lie within; `entropy`: the clipping with the least
    Kullback-Leibler divergence to 128 levels (Migacz, 8-bit inference with TensorRT, 2017).
    """
    raise NotImplementedError
