"""Products of thin factors against the dense matrices that they are."""

import numpy as np
import pytest

from petrun.algebra import low_rank
from petrun.algebra.low_rank import Keep, Product, distance, factored, joined
from petrun.delta.lora import pissa as lora_pissa
from petrun.errors import ConfigError


def product(out, width, rank, seed=0):
    rng = np.random.default_rng(seed)
    return Product(b=rng.standard_normal((out, rank)), a=rng.standard_normal((rank, width)))


def test_norms_angles_and_sums():
    one, other = product(7, 5, 3), product(7, 5, 2, 1)
    a, b = one.b @ one.a, other.b @ other.a
    assert one.norm() == pytest.approx(np.linalg.norm(a), abs=1e-9)
    assert one.inner(other) == pytest.approx((a * b).sum(), abs=1e-9)
    assert one.cosine(other) == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)
    both = joined([one, other.times(-2.5)])
    np.testing.assert_allclose(both.b @ both.a, a - 2.5 * b, rtol=0, atol=1e-12)
    assert both.rank == 5 and both.shape == (7, 5)
    # Without cancellation: of a product and itself, rounded to float32, the difference is the rounding.
    rounded = Product(b=one.b.astype(np.float32), a=one.a)
    assert one.minus(rounded).norm() == pytest.approx(np.linalg.norm(a - rounded.b @ one.a), rel=1e-6, abs=1e-12)
    zero = one.times(0.0)
    assert zero.cosine(one) is None and zero.norm() == 0.0


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_truncation_is_the_best_one(shape):
    thick = product(*shape, 8, 2)
    dense = thick.b @ thick.a
    values = np.linalg.svd(dense, compute_uv=False)
    for rank in (1, 3):
        cut = thick.truncated(Keep(rank=rank))
        assert cut.rank == rank
        lost = np.sqrt((values[rank:] ** 2).sum())
        assert np.linalg.norm(dense - cut.b @ cut.a) == pytest.approx(lost, rel=1e-9, abs=1e-9)
        assert thick.minus(cut).norm() == pytest.approx(lost, rel=1e-9, abs=1e-9)
    share = (values**2).cumsum() / (values**2).sum()
    wanted = float(share[4] + share[5]) / 2
    assert thick.truncated(Keep(energy=wanted)).rank == 6
    assert thick.truncated(Keep(energy=wanted, rank=2)).rank == 2
    assert thick.truncated(Keep(energy=1.0)).rank == 8


def test_triples_of_nothing_are_left_out():
    once = product(6, 6, 2)
    twice = joined([once, once])
    assert twice.truncated(Keep(rank=4)).rank == 2
    assert Product(b=np.zeros((6, 3)), a=once.a[:1].repeat(3, 0)).truncated(Keep(energy=0.9)).rank == 1


def test_a_dense_matrix(monkeypatch):
    rng = np.random.default_rng(5)
    matrix = (rng.standard_normal((90, 70)) @ np.diag(0.8 ** np.arange(70))).astype(np.float32)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    exact = {rank: np.sqrt((values[rank:] ** 2).sum()) for rank in (3, 8)}
    share = (values**2).cumsum() / (values**2).sum()
    enough = int(np.searchsorted(share, 0.999)) + 1
    for width in (1024, 10):
        # Below the width LAPACK's decomposition, above it subspace iteration.
        monkeypatch.setattr(lora_pissa, "EXACT_WIDTH", width)
        monkeypatch.setattr(low_rank, "EXACT_WIDTH", width)
        for rank, lost in exact.items():
            assert distance(matrix, factored(matrix, Keep(rank=rank))) == pytest.approx(lost, rel=1e-3, abs=1e-5)
        assert factored(matrix, Keep(energy=0.999)).rank == enough


def test_limits():
    for wrong in ({"rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}):
        with pytest.raises(ConfigError, match="must be"):
            Keep(**wrong)
