"""Compare vectors: the K nearest of each, exactly, and the margin score of pairs.

Scores are computed block by block, so that memory is bounded.

    cosine   x . y of vectors of length 1
    margin   cosine(x, y) / (mean cosine of x with its k nearest in Y / 2 + mean cosine of y with its k nearest in X / 2)

Source of margin: Artetxe and Schwenk, "Margin-based Parallel Corpus Mining with Multilingual Sentence Embeddings", ACL 2019, ratio, k = 4.
"""

from __future__ import annotations

import numpy as np

from petrun.tensors import Array

MARGIN_NEIGHBOURS = 4
_BLOCK = 1024


def unit_vectors(vectors: Array) -> Array:
    """Return vectors (n, d) with length 1, float32; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def nearest(queries: Array, known: Array, count: int, *, but_own: bool = False) -> tuple[Array, Array]:
    """Find the vectors with the highest cosine.

    Inputs: `queries` (n, d), `known` (m, d), of length 1; `but_own`: both are the same vectors, and none is its own neighbour.
    Returns: (n, K) int64 numbers and (n, K) float32 cosines, the nearest first, of equal ones the lower number; K = min(count, m).
    """
    count = min(count, len(known) - but_own)
    numbers, cosines = np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        best: tuple[Array, Array] | None = None
        for first in range(0, len(known), 64 * _BLOCK):
            scores = block @ known[first : first + 64 * _BLOCK].T
            if but_own:
                own = np.arange(start, start + len(block)) - first
                inside = (own >= 0) & (own < scores.shape[1])
                scores[np.flatnonzero(inside), own[inside]] = -np.inf
            found = _top(scores, np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape), count)
            if best is not None:
                found = _top(np.concatenate((best[0], found[0]), 1), np.concatenate((best[1], found[1]), 1), count)
            best = found
        assert best is not None, "there is something to find"
        cosines[start : start + _BLOCK], numbers[start : start + _BLOCK] = best
    return numbers, cosines


def _top(scores: Array, numbers: Array, count: int) -> tuple[Array, Array]:
    """Return (scores, numbers) of the `count` highest of each row, in order; of equal ones the lower number."""
    if scores.shape[1] > 4 * count:
        # All that reach the count-th highest score, so that equal ones are told apart by number below.
        part = np.argpartition(scores, scores.shape[1] - count, axis=1)[:, scores.shape[1] - count :]
        least = np.take_along_axis(scores, part, 1).min(axis=1, keepdims=True)
        ties = int((scores >= least).sum(axis=1).max())
        part = np.argpartition(scores, scores.shape[1] - ties, axis=1)[:, scores.shape[1] - ties :]
        scores, numbers = np.take_along_axis(scores, part, 1), np.take_along_axis(numbers, part, 1)
    order = np.lexsort((numbers, -scores), axis=-1)[:, :count]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)


def pair_cosines(one: Array, other: Array) -> Array:
    """Return the cosine of each pair of vectors of length 1, (n,) float64."""
    return np.einsum("nd,nd->n", one, other, dtype=np.float64)


def pair_margins(one: Array, other: Array, count: int = MARGIN_NEIGHBOURS) -> Array:
    """Return the margin score of each pair, (n,) float64. Its neighbours are those among the other side of all pairs."""
    around_one = nearest(one, other, count)[1].mean(axis=1, dtype=np.float64)
    around_other = nearest(other, one, count)[1].mean(axis=1, dtype=np.float64)
    return pair_cosines(one, other) / np.maximum((around_one + around_other) / 2, 1e-12)
