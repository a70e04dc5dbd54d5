"""Numbers as small integers: what comes back is near, zero is zero, and what may overflow does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windlass.optimization import integers

REAL = st.floats(-1e6, 1e6, width=32)
MATRIX = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=REAL)


@given(REAL, REAL, st.sampled_from(["QUInt8", "QInt8"]))
def test_activations_come_back_within_half_a_step_and_zero_exactly(low: float, high: float, kind: Any) -> None:
    low, high = sorted((low, high))
    scale, zero = integers.point(low, high, kind)
    least = 0 if kind == "QUInt8" else -128
    assert least <= zero <= least + 255
    values = np.linspace(min(low, 0), max(high, 0), 50)
    quantized = np.clip(np.rint(values / scale) + zero, least, least + 255)
    # The zero point is rounded as well, so that an end may lie half a step outside.
    assert np.abs((quantized - zero) * scale - values).max() <= scale * 1.001
    assert (np.rint(0 / scale) + zero - zero) * scale == 0


@given(MATRIX, st.booleans(), st.sampled_from([None, 0, 1]))
def test_weights_come_back_within_half_a_step(real: Any, reduced: bool, axis: int | None) -> None:
    signed = integers.weights(real, axis, "QInt8", reduced=reduced)
    unsigned = integers.weights(real, axis, "QUInt8", reduced=reduced)
    assert np.abs(signed.values.astype(int)).max() <= (63 if reduced else 127)
    assert (unsigned.values.astype(int) - unsigned.zero == signed.values).all()
    assert signed.scales.shape == (() if axis is None else (real.shape[axis],))
    scales = signed.scales if axis is None else np.expand_dims(signed.scales, 1 - axis)
    assert (np.abs(signed.values * scales - real) <= scales * 0.501 + 1e-30).all()


@given(hnp.arrays(np.float32, 5, elements=REAL), st.floats(1e-6, 10))
def test_scales_grow_where_a_bias_would_overflow(bias: Any, input_scale: float) -> None:
    made = integers.weights(
        np.zeros((5, 3), np.float32), 0, "QInt8", reduced=False, least=integers.least_scales(bias, input_scale)
    )
    scales = made.scales.astype(np.float64) * input_scale
    back = integers.bias(bias, scales) * scales
    assert np.abs(back - bias).max() <= np.abs(bias).max() * 1e-3 + scales.max()


@settings(max_examples=60)
@given(MATRIX, st.sampled_from([16, 32]), st.booleans())
def test_blocks_come_back_within_a_step(real: Any, size: int, symmetric: bool) -> None:
    made = integers.blocks(real, size, symmetric=symmetric)
    inputs, outputs = real.shape
    count = -(-inputs // size)
    assert made.values.shape == (outputs, count, size // 2)
    nibbles = np.stack([made.values & 15, made.values >> 4], axis=-1).reshape(outputs, count, size).astype(int)
    zeros = np.full((outputs, count), 8)
    if made.zeros is not None:
        packed = made.zeros.reshape(outputs, -1)
        zeros = np.stack([packed & 15, packed >> 4], axis=-1).reshape(outputs, -1)[:, :count].astype(int)
    scales = made.scales.reshape(outputs, count, 1)
    back = ((nibbles - zeros[:, :, None]) * scales).reshape(outputs, -1)[:, :inputs].T
    step = np.abs(scales).repeat(size, axis=2).reshape(outputs, -1)[:, :inputs].T
    assert (np.abs(back - real) <= step * 1.001).all()
    # The values that do not lie at the end of the range are rounded to the nearest level.
    assert np.median(np.abs(back - real) / step) <= 0.5


def test_what_is_all_zero_stays_zero() -> None:
    zeros = np.zeros((32, 4), np.float32)
    assert not integers.weights(zeros, 1, "QInt8", reduced=False).values.any()
    assert np.isfinite(integers.blocks(zeros, 32, symmetric=True).scales).all()
    assert integers.point(0.0, 0.0, "QUInt8").zero == 0
    assert integers.point(0.0, 0.0, "QUInt8").scale > 0


@pytest.mark.parametrize(("low", "high", "zero"), [(0.0, 4.0, 0), (-4.0, 0.0, 255), (1.0, 4.0, 0), (-1.0, 1.0, 128)])
def test_the_zero_point_lies_where_the_range_says(low: float, high: float, zero: int) -> None:
    assert integers.point(low, high, "QUInt8").zero == pytest.approx(zero, abs=1)
