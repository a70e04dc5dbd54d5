"""`low_rank` on graphs: what is split, what is left whole and why, and that the answers stay near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import graphs, inner, runnable
from windlass.optimization.techniques import base, low_rank
from windlass.types import signature

K, N = 128, 96
SIGNATURE = signature.Signature(
    (signature.TensorSpec("x", "FP32", ("batch", K)),), (signature.TensorSpec("y", "FP32", ("batch", N)),)
)
RANDOM = np.random.default_rng(11)
# Rows that move along 16 directions, so that any matrix answers them with rank 16.
DIRECTIONS = RANDOM.normal(size=(16, K)) / 4
ROWS = (RANDOM.normal(size=(256, 16)) @ DIRECTIONS).astype(np.float32)


def made(*nodes: onnx.NodeProto, **weights: np.ndarray) -> forms.Form:
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [shape("x", onnx.TensorProto.FLOAT, ["batch", K])],
        [shape("y", onnx.TensorProto.FLOAT, ["batch", N])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return forms.Form({"model.onnx": model.SerializeToString()})


def node(kind: str, inputs: list[str], output: str, name: str = "", **more: object) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, [output], name=name or f"the_{output}", **more)


def materials(folder: Path, calibration: bool = True) -> base.Materials:
    return base.Materials(SIGNATURE, ({"x": ROWS[:128]}, {"x": ROWS[128:]}) if calibration else (), folder)


def answers(form: forms.Form) -> np.ndarray:
    loaded = runnable.open(form)
    try:
        return loaded.run({"x": ROWS})["y"]
    finally:
        loaded.close()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.square(ours - theirs).sum() / np.square(theirs).sum())


MATRIX = RANDOM.normal(size=(K, N)) / K**0.5
SCALED = {"alpha": 0.5, "beta": 2.0}
NODES = {
    "product": (node("MatMul", ["x", "w"], "y"), MATRIX, {}),
    "gemm": (node("Gemm", ["x", "w", "b"], "y"), MATRIX, {"b": RANDOM.normal(size=N)}),
    "scaled": (node("Gemm", ["x", "w", "b"], "y", **SCALED), MATRIX, {"b": RANDOM.normal(size=N)}),
    "transposed": (node("Gemm", ["x", "w", "b"], "y", transB=1), MATRIX.T.copy(), {"b": RANDOM.normal(size=N)}),
    "without bias": (node("Gemm", ["x", "w"], "y", transB=1), MATRIX.T.copy(), {}),
}


@pytest.mark.parametrize("kind", NODES)
def test_a_product_is_split_and_answers_nearly_the_same(kind: str, tmp_path: Path) -> None:
    one, matrix, more = NODES[kind]
    before = made(one, w=matrix, **more)
    after = low_rank.LowRank.apply(before, {"energy": 0.99}, materials(tmp_path))
    assert relative(answers(after), answers(before)) < 0.015
    # Rank 16 at most: 16 * (128 + 96) weights for 128 * 96.
    assert after.size < 0.45 * before.size
    assert after.steps == (forms.Step("low_rank", {"energy": 0.99}),)
    assert after.digest == low_rank.LowRank.apply(before, {"energy": 0.99}, materials(tmp_path)).digest


def test_without_rows_the_matrix_alone_says_the_rank(tmp_path: Path) -> None:
    flat, *_ = np.linalg.qr(RANDOM.normal(size=(K, N)))
    spread = made(node("MatMul", ["x", "w"], "y"), w=flat)
    with pytest.raises(errors.Unsupported, match=r"costs less as two that keep 0\.99"):
        low_rank.LowRank.apply(spread, {}, materials(tmp_path, calibration=False))
    thin = made(node("MatMul", ["x", "w"], "y"), w=flat[:, :8] @ RANDOM.normal(size=(8, N)))
    after = low_rank.LowRank.apply(thin, {}, materials(tmp_path, calibration=False))
    assert relative(answers(after), answers(thin)) < 0.02


def test_what_stays_whole_is_listed_with_its_reason(tmp_path: Path) -> None:
    form = made(
        node("MatMul", ["x", "w"], "a", "first"),
        node("MatMul", ["a", "small"], "b", "second"),
        node("MatMul", ["b", "back"], "c", "third"),
        node("Gemm", ["c", "flat"], "y", "fourth"),
        w=MATRIX,
        small=RANDOM.normal(size=(N, 8)),
        back=RANDOM.normal(size=(8, K)),
        flat=RANDOM.normal(size=(K, N)),
    )
    assert low_rank.LowRank.nodes(form) == ("first", "fourth")
    after = low_rank.LowRank.apply(form, {"exclude": ["fourth"]}, materials(tmp_path))
    assert {one.node: one.why for one in after.left} == {
        "second": "its matrix is smaller than 64 x 64",
        "third": "its matrix is smaller than 64 x 64",
        "fourth": "it was excluded",
    }
    kinds = [one.name for one in graphs.read(after).graph.node]
    assert kinds == ["first_thin", "first", "second", "third", "fourth"]
    with pytest.raises(errors.UsageError, match="'second', which is no node"):
        low_rank.LowRank.apply(form, {"exclude": ["second"]}, materials(tmp_path))


def test_a_matrix_that_two_nodes_share_is_split_for_both(tmp_path: Path) -> None:
    square = RANDOM.normal(size=(K, 4)) @ RANDOM.normal(size=(4, K)) / K
    form = made(
        node("MatMul", ["x", "w"], "a"), node("MatMul", ["a", "w"], "b"), node("MatMul", ["b", "last"], "y"),
        w=square, last=RANDOM.normal(size=(K, N)) / K**0.5,
    )  # fmt: skip
    after = low_rank.LowRank.apply(form, {"energy": 0.999}, materials(tmp_path))
    assert relative(answers(after), answers(form)) < 0.01
    assert after.size < 0.3 * form.size


def test_graphs_without_a_product_are_refused(tmp_path: Path) -> None:
    add = made(node("Slice", ["x", "s", "e", "a"], "y"), s=np.zeros(0))
    told = low_rank.LowRank.refusal(add, materials(tmp_path))
    assert told == "no part of the graph multiplies by a matrix (MatMul, Gemm)."
    assert "'aoti'" in low_rank.LowRank.refusal(forms.Form({}, runtime="aoti"), materials(tmp_path))


def test_moments_are_those_of_the_inner_values() -> None:
    form = made(node("Relu", ["x"], "a"), node("MatMul", ["a", "w"], "y"), w=MATRIX)
    found = inner.moments(graphs.prepared(form), ["a", "x"], [{"x": ROWS[:100]}, {"x": ROWS[100:]}])
    positive = np.maximum(ROWS, 0).astype(np.float64)
    np.testing.assert_allclose(found["a"], positive.T @ positive / len(ROWS), rtol=1e-5, atol=1e-7)
    assert inner.moments(graphs.prepared(form), ["a"], []) == {}
