"""Matrices and convolution kernels as products of thinner ones: the arithmetic of low-rank factorization.

Called by the techniques that factor. Must never choose more than the energy asked for says, nor know what a layer is.
"""

from __future__ import annotations

import msgspec
import numpy as np

from windlass import errors
from windlass.types import tensor

# Added to the inputs' second moments, as a share of their mean: an input that never moved still counts a little.
_RIDGE = 1e-4


class Product(msgspec.Struct, frozen=True):
    """`left @ right` stands for a matrix `[k, n]`: `left` is `[k, rank]`, `right` `[rank, n]`, float32."""

    left: tensor.Array
    right: tensor.Array

    @property
    def rank(self) -> int:
        """The dimension in between."""
        return int(self.left.shape[1])

    @property
    def pays(self) -> bool:
        """Whether the two have fewer elements, so also fewer multiplications, than the matrix had."""
        (k, rank), n = self.left.shape, self.right.shape[1]
        return bool(rank * (k + n) < k * n)


class Tucker(msgspec.Struct, frozen=True):
    """A kernel `[out, in, h, w]` as three: `first` `[inner, in, 1, 1]`, `core` `[outer, inner, h, w]`,

    `last` `[out, outer, 1, 1]`, float32, applied in this order.
    """

    first: tensor.Array
    core: tensor.Array
    last: tensor.Array


def split(matrix: tensor.Array, energy: float, moments: tensor.Array | None = None) -> Product:
    """The product of least rank that keeps the share `energy` (0 to 1) of a matrix `[k, n]`: `inputs @ matrix`.

    By the singular value decomposition (Eckart and Young, 1936) of the matrix alone, or with `moments` `[k, k]`, the
    mean of `outer(input, input)` over real rows, of what the matrix gives for them: the energy is then of its outputs
    (the whitening of SVD-LLM: Wang et al., 2024). `InvalidInput` if an element is not finite.
    """
    exact = matrix.astype(np.float64)
    _require_finite(exact)
    root = _root(moments) if moments is not None else None
    left, values, right = np.linalg.svd(exact if root is None else root @ exact, full_matrices=False)
    rank = rank_of(values, energy)
    # The root of the scale goes to each side, so that neither is hard to hold in few bits.
    scale = np.sqrt(values[:rank])
    left = left[:, :rank] * scale
    if root is not None:
        left = np.linalg.solve(root, left)
    return Product(left.astype(np.float32), (scale[:, None] * right[:rank]).astype(np.float32))


def tucker(kernel: tensor.Array, energy: float) -> Tucker:
    """The Tucker-2 decomposition of a kernel `[out, in, h, w]` (Kim et al., 2016), its two ranks by kept energy.

    By the higher-order singular value decomposition (De Lathauwer, De Moor and Vandewalle, 2000): each of the two
    unfoldings keeps the share `energy`, so at least `1 - 2 * (1 - energy)` of the kernel's is kept.
    """
    exact = kernel.astype(np.float64)
    _require_finite(exact)
    out, taken = exact.shape[:2]
    outer = _basis(exact.reshape(out, -1), energy)
    inner = _basis(exact.transpose(1, 0, 2, 3).reshape(taken, -1), energy)
    core = np.einsum("oihw,op,iq->pqhw", exact, outer, inner, optimize=True)
    return Tucker(
        first=inner.T[:, :, None, None].astype(np.float32),
        core=core.astype(np.float32),
        last=outer[:, :, None, None].astype(np.float32),
    )


def rank_of(values: tensor.Array, energy: float) -> int:
    """The least rank whose squared singular values (descending) make up the share `energy`; at least 1."""
    squares = np.square(values.astype(np.float64))
    total = float(squares.sum())
    if not total:
        return 1
    # Compared from behind: what is left out must be at most the rest, which no rounding of a sum near 1 hides.
    lost = np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0)
    return int(np.argmax(lost <= (1.0 - energy) * total)) + 1


def _basis(unfolded: tensor.Array, energy: float) -> tensor.Array:
    vectors, values, _ = np.linalg.svd(unfolded, full_matrices=False)
    return vectors[:, : rank_of(values, energy)]


def _root(moments: tensor.Array) -> tensor.Array:
    """The upper triangular R with R'R = moments, made positive definite."""
    exact = moments.astype(np.float64)
    _require_finite(exact)
    ridge = _RIDGE * float(np.trace(exact)) / len(exact) or 1.0
    return np.linalg.cholesky(exact + ridge * np.eye(len(exact))).T


def _require_finite(array: tensor.Array) -> None:
    if not np.isfinite(array).all():
        raise errors.InvalidInput("a matrix that is to be factored holds a value that is not finite")
