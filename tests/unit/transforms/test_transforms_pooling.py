"""Token vectors to one vector: what padding holds never shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.transforms import pooling

HIDDEN = np.array([[[1, 2], [3, 6], [90, 90]], [[-1, 0], [-3, 4], [-5, -8]]], np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1]])


def pool(hidden: Any = HIDDEN, mask: Any = MASK, **parameters: Any) -> Any:
    columns = {"last_hidden_state": hidden, "attention_mask": mask}
    made = pooling.Pooling.load({"normalize": False, **parameters}, {}).apply(columns)
    assert set(made) == {parameters.get("into", "embedding")}
    return made[parameters.get("into", "embedding")]


@pytest.mark.parametrize(
    ("mode", "expected"), [("mean", [[2, 4], [-3, -4 / 3]]), ("max", [[3, 6], [-1, 4]]), ("cls", [[1, 2], [-1, 0]])]
)
def test_the_modes(mode: str, expected: list[list[float]]) -> None:
    made = pool(mode=mode)
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    assert made.dtype == np.float32


def test_a_normal_vector_has_length_one_and_zero_stays_zero() -> None:
    hidden = np.stack([HIDDEN[0], np.zeros((3, 2), np.float32)])
    made = pool(hidden, np.ones((2, 3), int), normalize=True, into="v")
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), [1, 0], atol=1e-6)


def test_a_row_that_is_all_padding_is_finite() -> None:
    assert np.isfinite(pool(HIDDEN, np.zeros((2, 3), int), normalize=True)).all()


def test_hidden_states_padded_in_a_batch_are_cut_to_the_requests_own_mask() -> None:
    longer = np.concatenate([HIDDEN, np.full((2, 4, 2), 7, np.float32)], axis=1)
    np.testing.assert_array_equal(pool(longer), pool())


def test_missing_or_misshapen_tensors_are_refused() -> None:
    transform = pooling.Pooling.load({}, {})
    for columns in ({}, {"last_hidden_state": HIDDEN}, {"last_hidden_state": HIDDEN[0], "attention_mask": MASK}):
        with pytest.raises(errors.InvalidInput, match="last_hidden_state"):
            transform.apply(columns)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_padding_changes_nothing(data: st.DataObject) -> None:
    rows, tokens, width = (data.draw(st.integers(1, 5)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    hidden = rng.standard_normal((rows, tokens, width)).astype(np.float32)
    mask = np.ones((rows, tokens), np.int64)
    mask[:, 1:] = np.sort(rng.integers(0, 2, (rows, tokens - 1)), axis=1)[:, ::-1]
    other = np.where(mask[:, :, None] == 1, hidden, rng.standard_normal(hidden.shape).astype(np.float32) * 1e6)
    for mode in ("mean", "max", "cls"):
        np.testing.assert_allclose(pool(other, mask, mode=mode), pool(hidden, mask, mode=mode), rtol=1e-5, atol=1e-5)
