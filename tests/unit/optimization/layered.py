"""Nets of a few layers written as ONNX graphs, one of them hard to quantize, and packages of them loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from windlass.packaging import build, draft, session
from windlass.types import signature

WIDTH = 24
CLASSES = 6


class Net:
    """Layers of products and ReLUs, then one product: `[rows, 24]` to `outputs` numbers a row (ReLUs between).

    `hard`: two channels of an early layer are 400 times as large as the others, and the layer after them divides them
    again: the same function, whose values no one scale of eight bits holds.
    """

    def __init__(self, depth: int = 2, *, outputs: int = CLASSES, hard: bool = False, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.weights = [1.35 * np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0] for _ in range(depth)]
        self.biases = [0.1 * random.normal(size=WIDTH) for _ in range(depth)]
        if hard:
            scale = np.ones(WIDTH)
            scale[:2] = 400
            self.weights[2], self.biases[2] = self.weights[2] * scale, self.biases[2] * scale
            self.weights[3] = self.weights[3] / scale[:, None]
        inner = self._inner(random.normal(size=(2000, WIDTH)))
        mean = inner.mean(axis=0)
        basis = np.linalg.svd(inner - mean, full_matrices=False)[2][:outputs].T
        last = basis / ((inner - mean) @ basis).std(axis=0)
        self.weights.append(last)
        self.biases.append(-mean @ last)

    def _inner(self, x: Any) -> Any:
        for weight, bias in zip(self.weights[: len(self.biases)], self.biases, strict=False):
            x = np.maximum(x @ weight + bias, 0)
        return x

    def answer(self, x: Any) -> Any:
        """What it computes, by numpy, FP32 `[rows, outputs]`."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ weight + bias, 0)
        return (x @ self.weights[-1] + self.biases[-1]).astype(np.float32)

    def graph(self) -> bytes:
        """It as `model.onnx`, with the input `x` and the output `y`; its products are `layer0`, `layer1`, ..."""
        nodes, held, name = [], [], "x"
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            held += [numpy_helper.from_array(weight.astype(np.float32), f"w{at}")]
            held += [numpy_helper.from_array(bias.astype(np.float32), f"b{at}")]
            last = at == len(self.weights) - 1
            product = "y" if last else f"p{at}"
            nodes.append(helper.make_node("Gemm", [name, f"w{at}", f"b{at}"], [product], name=f"layer{at}"))
            if not last:
                name = f"r{at}"
                nodes.append(helper.make_node("Relu", [product], [name], name=f"relu{at}"))
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", WIDTH])
        y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", self.weights[-1].shape[1]])
        graph = helper.make_graph(nodes, "net", [x], [y], held)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())

    def shape(self) -> signature.Signature:
        """Its signature."""
        y = signature.TensorSpec("y", "FP32", ("batch", self.weights[-1].shape[1]))
        return signature.Signature((signature.TensorSpec("x", "FP32", ("batch", WIDTH)),), (y,))

    def opened(self, labels: tuple[str, ...] = (), *, max_batch: int = 128) -> session.Session:
        """A package of it, loaded."""
        x = np.random.default_rng(9).normal(size=(8, WIDTH)).astype(np.float32)
        trial = draft.Trial("rows", {"x": x}, {"y": self.answer(x)})
        made = draft.Draft(
            {"model.onnx": self.graph()}, self.shape(), (trial,), "numpy", labels=labels, max_batch=max_batch
        )
        return session.open(build.build(made, name="net"))


def rows(count: int, seed: int = 1) -> Any:
    """Inputs, FP32 `[count, 24]`."""
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
