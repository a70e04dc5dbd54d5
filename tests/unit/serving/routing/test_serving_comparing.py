"""Answers compared row by row, and which disagreements are kept."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from windlass.serving.routing import comparing, disagreements
from windlass.types import tensor_codec

floats = arrays.arrays(np.float32, (4, 3), elements=st.floats(width=32))


@given(floats, floats)
def test_floats_differ_where_numpy_says_so(one: np.ndarray, two: np.ndarray) -> None:
    found = comparing.compare({"y": one}, {"y": two}, rows=4, atol=0.1, rtol=0.01)
    near = np.isclose(two.astype(np.float64), one.astype(np.float64), atol=0.1, rtol=0.01, equal_nan=True)
    assert (found.differs == ~near.all(axis=1)).all()
    assert np.isfinite(found.size).all()
    assert found.same_top is not None
    assert (found.same_top == (one.argmax(axis=1) == two.argmax(axis=1))).all()


@given(floats)
def test_an_answer_agrees_with_itself(one: np.ndarray) -> None:
    found = comparing.compare({"y": one}, {"y": one.copy()}, rows=4, atol=0, rtol=0)
    assert not found.differs.any()
    assert found.size.max() == 0


def test_what_is_no_float_must_be_equal() -> None:
    labels = np.array([[b"cat"], [b"dog"]], object)
    found = comparing.compare(
        {"label": labels, "n": np.array([1, 2])},
        {"label": np.array([[b"cat"], [b"cow"]], object), "n": np.array([1, 2])},
        rows=2,
        atol=10,
        rtol=10,
    )
    assert found.differs.tolist() == [False, True]
    assert found.size.tolist() == [0.0, 1.0]
    assert found.same_top is None


@pytest.mark.parametrize("other", [np.zeros((2, 3)), np.zeros((2, 2), np.int64)])
def test_another_shape_or_kind_differs_without_bound(other: np.ndarray) -> None:
    found = comparing.compare({"y": np.zeros((2, 2))}, {"y": other}, rows=2, atol=1, rtol=1)
    assert found.differs.all()
    assert (found.size == comparing.BOUNDLESS).all()


def _about(number: int, difference: float) -> disagreements.Disagreement:
    return disagreements.Disagreement(request=f"r{number}", arm="a", shadow="s", difference=difference)


def test_the_largest_are_kept_and_a_fair_sample(tmp_path: Path) -> None:
    store = disagreements.Store(str(tmp_path), "m", draw=random.Random(3).randrange, clock=lambda: 5.0)
    row = {"x": np.ones((1, 2), np.float32)}
    sizes = [float((37 * number) % 1_009) for number in range(1_000)]
    for number, size in enumerate(sizes):
        store.add(_about(number, size), row, row, {"x": row["x"] + size})
    assert disagreements.read(tmp_path, "m") == []
    store.write()
    found = disagreements.read(tmp_path, "m")
    assert [one.difference for one in found[: disagreements.WORST]] == sorted(sizes)[: -disagreements.WORST - 1 : -1]
    sampled = found[disagreements.WORST :]
    assert disagreements.SAMPLED / 2 < len(sampled) <= disagreements.SAMPLED
    assert 200 < np.median([one.difference for one in sampled]) < 800
    first = found[0]
    assert (first.time, first.arm, first.shadow) == (5.0, "a", "s")
    assert tensor_codec.unpack(first.inputs)["x"].tolist() == [[1.0, 1.0]]
    assert tensor_codec.unpack(first.mirrored)["x"].tolist() == [[1 + first.difference] * 2]


def test_what_is_too_large_is_kept_without_its_tensors(tmp_path: Path) -> None:
    store = disagreements.Store(str(tmp_path), "m")
    big = {"x": np.zeros(disagreements.RECORD_BYTES, np.uint8)}
    store.add(_about(1, 2.0), big, big, big)
    store.write()
    (one,) = disagreements.read(tmp_path, "m")
    assert (one.request, one.inputs) == ("r1", b"")
