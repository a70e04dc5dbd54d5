"""`factors`: the least rank that keeps what is asked, and what the factors give back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import factors


def energy_kept(values: np.ndarray, rank: int) -> float:
    return float(np.square(values[:rank]).sum() / np.square(values).sum())


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.sampled_from([0.5, 0.8, 0.9, 0.99, 0.999]))
def test_the_rank_is_the_least_that_keeps_the_energy(values: list[float], energy: float) -> None:
    descending = np.sort(values)[::-1]
    rank = factors.rank_of(descending, energy)
    assert energy_kept(descending, rank) >= energy - 1e-9
    assert rank == 1 or energy_kept(descending, rank - 1) < energy + 1e-9


def test_nothing_but_zeros_has_rank_one() -> None:
    product = factors.split(np.zeros((5, 3), np.float32), 0.9)
    assert product.rank == 1
    assert not (product.left @ product.right).any()


@given(st.integers(0, 1000), st.integers(2, 24), st.integers(2, 24), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_product_loses_no_more_than_is_allowed(seed: int, k: int, n: int, energy: float) -> None:
    matrix = np.random.default_rng(seed).normal(size=(k, n)).astype(np.float32)
    product = factors.split(matrix, energy)
    lost = np.square(product.left @ product.right - matrix).sum() / np.square(matrix).sum()
    assert lost <= 1 - energy + 1e-5
    assert product.left.dtype == product.right.dtype == np.float32
    assert product.pays == (product.left.size + product.right.size < matrix.size)


def test_with_moments_the_answers_keep_the_energy_at_a_lower_rank() -> None:
    random = np.random.default_rng(3)
    # The inputs move along four directions of thirty-two only.
    inputs = random.normal(size=(2000, 4)) @ random.normal(size=(4, 32))
    matrix = random.normal(size=(32, 24)).astype(np.float32)
    blind = factors.split(matrix, 0.99)
    seeing = factors.split(matrix, 0.99, inputs.T @ inputs / len(inputs))
    answers = inputs @ matrix
    lost = np.square(inputs @ seeing.left @ seeing.right - answers).sum() / np.square(answers).sum()
    assert seeing.rank <= 4 < blind.rank
    assert lost <= 0.011


def test_inputs_that_never_move_are_no_error() -> None:
    product = factors.split(np.eye(4, dtype=np.float32), 0.5, np.zeros((4, 4)))
    assert np.isfinite(product.left).all()


def test_tucker_keeps_what_both_unfoldings_keep() -> None:
    random = np.random.default_rng(5)
    # Of ranks 3 and 2 by construction, with a little noise.
    kernel = np.einsum("op,pqhw,qi->oihw", *(random.normal(size=s) for s in ((16, 3), (3, 2, 3, 3), (2, 12))))
    kernel = (kernel + 1e-4 * random.normal(size=kernel.shape)).astype(np.float32)
    parts = factors.tucker(kernel, 0.999)
    assert (parts.first.shape, parts.core.shape, parts.last.shape) == ((2, 12, 1, 1), (3, 2, 3, 3), (16, 3, 1, 1))
    back = np.einsum("op,pqhw,qi->oihw", parts.last[:, :, 0, 0], parts.core, parts.first[:, :, 0, 0])
    assert np.square(back - kernel).sum() / np.square(kernel).sum() < 2e-3


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_refused(broken: float) -> None:
    matrix = np.ones((4, 4), np.float32)
    matrix[1, 2] = broken
    with pytest.raises(errors.InvalidInput, match="not finite"):
        factors.split(matrix, 0.9)
    with pytest.raises(errors.InvalidInput, match="not finite"):
        factors.tucker(matrix[:, :, None, None], 0.9)
