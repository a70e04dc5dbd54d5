"""Ranges of inner values: the extremes of real rows, or what most of them lie within."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from windlass import errors
from windlass.optimization import calibration

_keys = (f"test-{number}" for number in itertools.count())


def graph() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, n] x) => (float[batch, n] y)'
        " { doubled = Add(x, x) half = Relu(doubled) y = Neg(half) }"
    )


def asked(rows: Any, method: Any = "minmax", key: str = "") -> calibration.Ranges:
    return calibration.ranges(graph(), ("x", "doubled", "half"), rows, method, key=key or next(_keys))


def batches(values: Any, size: int) -> list[Any]:
    return [{"x": values[start : start + size]} for start in range(0, len(values), size)]


def test_the_extremes_are_those_of_all_rows_however_they_are_batched() -> None:
    values = np.random.default_rng(1).standard_normal((20, 30)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    for size in (1, 7, 20):
        found = asked(batches(values, size))
        assert found == {"x": (low, high), "doubled": (2 * low, 2 * high), "half": (0.0, 2 * high)}


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_far_value_is_clipped(method: str) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (100, 2000)).astype(np.float32)
    values[0, 0] = 500.0
    found = asked(batches(values, 50), method)
    assert found["x"][0] == pytest.approx(-1.0, abs=0.5)
    assert 0.9 < found["x"][1] < 50
    assert found["half"][0] >= -0.1


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_constant_has_a_range(method: str) -> None:
    found = asked(batches(np.full((4, 5), 3.0, np.float32), 4), method)
    assert found["x"][0] <= 3.0 <= found["x"][1] + 1e-3


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_what_has_no_outlier_keeps_nearly_all_of_its_range(method: str) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (100, 200)).astype(np.float32)
    low, high = asked(batches(values, 50), method)["x"]
    assert low < -0.8
    assert high > 0.8


def test_ranges_are_measured_once_for_the_same_rows() -> None:
    values = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    first = asked([{"x": values}], key="once")
    assert (
        calibration.ranges(onnx.ModelProto(), ("x", "doubled", "half"), [{"x": values}], "minmax", key="once") is first
    )
    assert asked([{"x": 2 * values}], key="once") != first


def test_only_the_first_rows_are_looked_at() -> None:
    values = np.zeros((calibration.MAX_ROWS + 10, 5), np.float32)
    values[calibration.MAX_ROWS - 1] = 2.0
    values[calibration.MAX_ROWS :] = 9.0
    assert asked(batches(values, 50))["x"] == (0.0, 2.0)


def test_rows_that_give_no_range_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="needs rows"):
        asked([])
    with pytest.raises(errors.Unsupported, match="does not run"):
        asked([{"z": np.ones((1, 2), np.float32)}])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3, 8])
def test_what_is_no_number_is_told_by_its_input_and_row(bad: float, at: int) -> None:
    values = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32)
    values[at, 2] = bad
    for size in (1, 4, 9):
        with pytest.raises(errors.UsageError, match=rf"input 'x' holds what is no finite number \(row {at} "):
            asked(batches(values, size))


def test_a_value_that_is_computed_to_be_no_number_is_named() -> None:
    made = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, n] x) => (float[batch, n] y)'
        " { a = Abs(x) root = Sqrt(x) y = Add(a, root) }"
    )
    # The extremes of NaN and numbers are those of the numbers to onnxruntime.
    rows = [{"x": np.array([[4.0, 9.0], [16.0, -1.0]], np.float32)}]
    with pytest.raises(errors.Unsupported, match="'root' is not finite"):
        calibration.ranges(made, ("a", "root", "y"), rows, "minmax", key=next(_keys))
    # An input that only a part reads which no range is needed of may hold anything.
    assert calibration.ranges(made, ("a",), rows, "minmax", key=next(_keys)) == {"a": (1.0, 16.0)}
