"""Nearest vectors and margins against plain formulas over all pairs."""

import numpy as np
import pytest

from petrun.curation import similarity
from petrun.curation.similarity import nearest, pair_cosines, pair_margins, unit_vectors


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(similarity, "_BLOCK", 2)


def vectors(count, seed, width=8):
    return unit_vectors(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def expected(queries, known, count):
    scores = queries @ known.T
    return np.array([sorted(range(len(known)), key=lambda j: (-row[j], j))[:count] for row in scores])


@pytest.mark.parametrize("count", [1, 4, 500])
def test_the_nearest_are_exact_over_several_blocks(small_blocks, count):
    queries, known = vectors(9, 0), vectors(300, 1)
    numbers, cosines = nearest(queries, known, count)
    wanted = expected(queries, known, min(count, 300))
    assert (numbers == wanted).all() and np.allclose(
        cosines, np.take_along_axis(queries @ known.T, wanted, 1), atol=1e-6
    )


def test_of_equal_ones_the_lower_number_comes_first(small_blocks):
    known = np.repeat(vectors(3, 2), 100, axis=0)
    numbers, _ = nearest(known[:1], known, 5)
    assert numbers.tolist() == [[0, 1, 2, 3, 4]]


def test_no_vector_is_its_own_neighbour(small_blocks):
    known = vectors(200, 3)
    numbers, _ = nearest(known, known, 3, but_own=True)
    scores = known @ known.T
    np.fill_diagonal(scores, -np.inf)
    assert (numbers == np.argsort(-scores, axis=1, kind="stable")[:, :3]).all()


def test_margins_are_the_formula():
    one, other = vectors(30, 4), vectors(30, 5)
    scores = one.astype(np.float64) @ other.T.astype(np.float64)
    around_one, around_other = (np.sort(m, axis=1)[:, -4:].mean(axis=1) for m in (scores, scores.T))
    assert np.allclose(pair_cosines(one, other), np.diag(scores))
    assert np.allclose(pair_margins(one, other), np.diag(scores) / ((around_one + around_other) / 2), atol=1e-5)


def test_a_zero_vector_stays_zero():
    assert not unit_vectors(np.zeros((2, 3), np.float32)).any()
