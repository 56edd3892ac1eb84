"""Keep matrices as products B A of thin factors, and compute norms, angles and truncation without forming the (out, in) matrix.

With B = Q_b R_b and A^T = Q_a R_a, B A = Q_b (R_b R_a^T) Q_a^T: the small matrix between the orthogonal ones has the norm and the
singular values of the large one. R rank; all in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrun.delta.lora.pissa import EXACT_WIDTH, largest_triples
from petrun.errors import ConfigError
from petrun.tensors import Array


@dataclass(frozen=True)
class Keep:
    """The part of a matrix that is kept: singular triples, largest first. Of two limits the smaller one holds."""

    rank: int | None = None
    energy: float | None = None
    """Share of the sum of squared singular values."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"--rank {self.rank} must be at least 1")
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise ConfigError(f"--energy {self.energy:g} must be above 0 and at most 1", hint="Example: --energy 0.99")

    @property
    def everything(self) -> bool:
        return self.rank is None and self.energy is None

    def count(self, values: Array, total: float | None = None) -> int:
        """Return how many singular values, largest first, are kept: at least 1. `total`: the sum of the squares of all values."""
        most = len(values) if self.rank is None else min(self.rank, len(values))
        if self.energy is not None:
            reached = np.cumsum(np.square(values, dtype=np.float64))
            wanted = self.energy * (float(reached[-1]) if total is None else total)
            # Rounding of the sum must not ask for one triple more than there are.
            most = min(most, int(np.searchsorted(reached, wanted * (1.0 - 1e-12))) + 1)
        # Singular values of 0 are not kept: factors of rank 16 may hold a product of rank 8.
        real = int(np.count_nonzero(values > values[0] * 1e-7)) if len(values) and values[0] > 0 else 1
        return max(1, min(most, real))


@dataclass(frozen=True, kw_only=True)
class Product:
    """B A: b (out, R), a (R, in)."""

    b: Array
    a: Array

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.b.shape[0]), int(self.a.shape[1])

    def norm(self) -> float:
        """Frobenius norm."""
        return float(np.linalg.norm(self._core()[1]))

    def minus(self, other: Product) -> Product:
        """Return the difference; its rank is the sum of both ranks."""
        return joined([self, other.times(-1.0)])

    def times(self, factor: float) -> Product:
        return Product(b=self.b.astype(np.float64) * factor, a=self.a)

    def inner(self, other: Product) -> float:
        """Return the sum of the products of the two matrices' entries."""
        b = self.b.astype(np.float64).T @ other.b.astype(np.float64)
        return float(np.sum(b * (self.a.astype(np.float64) @ other.a.astype(np.float64).T)))

    def cosine(self, other: Product) -> float | None:
        """Return the cosine of the angle between the two, as vectors; None where one is zero."""
        norms = self.norm() * other.norm()
        return min(1.0, max(-1.0, self.inner(other) / norms)) if norms else None

    def truncated(self, keep: Keep) -> Product:
        """Return the nearest product of the rank that `keep` says; both factors share the singular values."""
        left, core, right = self._core()
        u, values, v = np.linalg.svd(core, full_matrices=False)
        count = keep.count(values)
        root = np.sqrt(values[:count])
        return Product(b=(left @ u[:, :count]) * root, a=root[:, None] * (v[:count] @ right.T))

    def _core(self) -> tuple[Array, Array, Array]:
        left, small_left = np.linalg.qr(self.b.astype(np.float64))
        right, small_right = np.linalg.qr(self.a.astype(np.float64).T)
        return left, small_left @ small_right.T, right

    def dense(self) -> Array:
        """(out, in) float32."""
        product: Array = self.b.astype(np.float32) @ self.a.astype(np.float32)
        return product


def joined(parts: Sequence[Product]) -> Product:
    """Return the exact sum: [B_1, B_2, ...] [A_1; A_2; ...]."""
    return Product(b=np.concatenate([p.b for p in parts], 1), a=np.concatenate([p.a for p in parts], 0))


def factored(matrix: Array, keep: Keep) -> Product:
    """Return the product of the rank that `keep` says that is nearest to a dense (out, in) float32 matrix.

    Matrices wider than EXACT_WIDTH: subspace iteration, for twice as many triples until the energy is reached.
    """
    short = min(matrix.shape)
    total = float(np.square(matrix, dtype=np.float64).sum())
    rank = short if keep.rank is None else min(keep.rank, short)
    tried = rank if keep.energy is None or short <= EXACT_WIDTH else min(rank, 64)
    while True:
        left, values, right = largest_triples(matrix, tried)
        count = keep.count(values, total)
        if count < len(values) or tried >= rank:
            break
        tried = min(2 * tried, rank)
    root = np.sqrt(values[:count])
    return Product(b=left[:, :count] * root, a=root[:, None] * right[:count])


def distance(matrix: Array, product: Product) -> float:
    """||W - B A||, Frobenius, by blocks of rows."""
    squares = 0.0
    for start in range(0, matrix.shape[0], 1024):
        block = slice(start, start + 1024)
        rest = matrix[block] - product.b[block].astype(np.float32) @ product.a.astype(np.float32)
        squares += float(np.square(rest, dtype=np.float64).sum())
    return float(np.sqrt(squares))
