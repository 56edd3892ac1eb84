"""Choose which rows share a sequence, without attention across them.

The block mask (segment_ids), restarted positions and unscored segment starts are made when a batch is collated (collate.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from petrun.data.formats.records import Array


def pack_rows(lengths: Sequence[int] | Array, capacity: int) -> tuple[tuple[int, ...], ...]:
    """Pack rows into few sequences of at most `capacity` tokens: best fit decreasing.

    The longest row comes first; each goes where it leaves the fewest tokens free. Ties go to the sequence that was begun first, so the
    result is a function of the lengths alone. Rows within a sequence, and sequences by their first row, are in the data's order.
    """
    lengths = np.asarray(lengths, np.int64)
    _check(lengths, capacity)
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    """(tokens left, sequence), ascending."""
    for row in np.argsort(-lengths, kind="stable"):
        need = int(lengths[row])
        best = bisect_left(free, (need, -1))
        if best == len(free):
            bins.append([int(row)])
            left, number = capacity - need, len(bins) - 1
        else:
            left, number = free.pop(best)
            bins[number].append(int(row))
            left -= need
        if left:
            insort(free, (left, number))
    return tuple(sorted(tuple(sorted(rows)) for rows in bins))


def pack_in_order(lengths: Sequence[int] | Array, capacity: int) -> tuple[tuple[int, ...], ...]:
    """Pack rows into sequences in the data's order: a row begins a new sequence where it does not fit into the last one."""
    lengths = np.asarray(lengths, np.int64)
    _check(lengths, capacity)
    bins: list[list[int]] = []
    left = -1
    for row, need in enumerate(lengths.tolist()):
        if need > left:
            bins.append([])
            left = capacity
        bins[-1].append(row)
        left -= need
    return tuple(tuple(rows) for rows in bins)


def _check(lengths: Array, capacity: int) -> None:
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a row of {int(lengths.max())} tokens does not fit into {capacity}")
