"""Choose rows by their scores: the best of all, or the best of each group of similar questions in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrun.errors import ConfigError, DataError
from petrun.tensors import Array

_CLUSTER_STEPS = 25


def parse_top(text: str) -> float | int:
    """`10%` -> 0.1; `5000` -> 5000. Raises ConfigError."""
    number, percent, _ = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if value <= 0 or (percent and value > 100) or (not percent and value != int(value)):
        raise ConfigError(f"--top {text}: a share such as 10%, or a number of rows such as 5000")
    return value / 100 if percent else int(value)


def rows_wanted(top: float | int, available: int) -> int:
    """Return how many rows are chosen: a share of the rows that have a score, rounded down. Raises DataError where none are left."""
    wanted = int(available * top + 1e-9) if isinstance(top, float) else top
    if wanted > available:
        raise DataError(f"--top asks for {wanted:,} rows, and {available:,} can be chosen")
    if not wanted:
        raise DataError(f"--top leaves no row of the {available:,} that can be chosen")
    return wanted


def best(scores: Sequence[float], wanted: int, *, lowest: bool = False) -> Array:
    """Return the rows with the highest scores, (wanted,) int64, ascending. Of equal ones the later rows, as in the paper's code."""
    order = np.lexsort((np.arange(len(scores)), np.asarray(scores)))
    return np.sort(order[:wanted] if lowest else order[len(order) - wanted :])


def best_of_groups(scores: Sequence[float], groups: Array, wanted: int, *, lowest: bool = False) -> Array:
    """Return `wanted` rows, ascending: the best of every group, then the second best of every group, and so on.

    Inputs: `groups`, (n,) int64. Within a round the better rows come first, so that a round that is not filled takes the best.
    """
    sign = -1.0 if lowest else 1.0
    values = sign * np.asarray(scores, np.float64)
    # The best first in each group; of equal ones the later rows, as in `best`.
    order = np.lexsort((-np.arange(len(values)), -values, groups))
    ordered = groups[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]]
    place = np.arange(len(order))
    turn = np.empty(len(order), np.int64)
    turn[order] = place - np.maximum.accumulate(np.where(starts, place, 0))
    chosen = np.lexsort((-np.arange(len(values)), -values, turn))[:wanted]
    return np.sort(chosen)


def cluster(vectors: Array, count: int, seed: int) -> Array:
    """Group vectors (n, d) by k-means. Returns the group of each, (n,) int64. The same vectors and seed give the same groups."""
    from scipy.cluster.vq import kmeans2

    if count >= len(vectors):
        return np.arange(len(vectors))
    _, groups = kmeans2(
        vectors.astype(np.float64),
        count,
        iter=_CLUSTER_STEPS,
        minit="++",
        missing="warn",
        seed=np.random.default_rng(seed),
    )
    return np.asarray(groups, np.int64)
