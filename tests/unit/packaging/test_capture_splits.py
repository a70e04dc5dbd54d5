"""Rows at splits: both sides of every step, as near as the input's own numbers come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windlass.packaging.capture import splits
from windlass.types import tensor

STEP = 0.1


def step(inputs: tensor.Tensors) -> tensor.Tensors:
    return {"y": (inputs["x"][:, 1].astype(np.float64) <= STEP).astype(np.float32)}


def example(dtype: Any, rows: int = 100) -> tensor.Tensors:
    return {"x": np.random.default_rng(0).standard_normal((rows, 2)).astype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_two_sides_are_neighbours(dtype: Any) -> None:
    found = splits.rows(step, example(dtype), np.random.default_rng(1)).rows["x"]
    assert len(found) >= 1000
    assert found.dtype == dtype
    last_below = dtype(STEP) if float(dtype(STEP)) <= STEP else np.nextafter(dtype(STEP), dtype(-1))
    assert last_below in found[:, 1]
    assert np.nextafter(last_below, dtype(1)) in found[:, 1]


def test_a_gap_keeps_the_sides_apart() -> None:
    found = splits.rows(step, example(np.float64), np.random.default_rng(1), gap=1e-9).rows["x"][:, 1]
    nearest = np.abs(found - STEP).min()
    assert 0 < nearest < 1e-9


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_small_example_is_enough(rows: int) -> None:
    found = splits.rows(step, example(np.float64, rows), np.random.default_rng(1))
    assert len(found.rows["x"]) >= 1000
    assert len(set(step(found.rows)["y"])) == 2


def test_a_constant_model_is_tried_on_rows_near_the_example() -> None:
    def constant(inputs: tensor.Tensors) -> tensor.Tensors:
        return {"y": np.zeros(len(inputs["x"]))}

    found = splits.rows(constant, example(np.float32), np.random.default_rng(1))
    assert len(found.rows["x"]) >= 1000
    assert "no split" in found.notes[0]


def test_text_is_never_altered_and_the_example_neither() -> None:
    texts = np.empty((100, 1), object)
    texts[:, 0] = [b"a", b"b"] * 50
    given = {**example(np.float64), "t": texts}
    before = {name: array.copy() for name, array in given.items()}
    found = splits.rows(step, given, np.random.default_rng(1)).rows
    assert set(found["t"].ravel()) <= {b"a", b"b"}
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])


def test_trials_leave_out_ties_and_keep_to_the_batch() -> None:
    rows = {"x": np.arange(300, dtype=np.float64)[:, None]}

    def half(inputs: tensor.Tensors) -> tensor.Tensors:
        second = np.where(inputs["x"][:, 0] % 3 == 0, 0.5, 0.7)
        return {"p": np.stack([1 - second, second], axis=1)}

    made = splits.trials(half, rows, 64)
    tried = np.concatenate([trial.inputs["x"] for trial in made])
    assert len(tried) == 200
    assert (tried % 3 != 0).all()
    assert max(len(trial.inputs["x"]) for trial in made) == 64
