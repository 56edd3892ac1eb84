"""Choose which rows share a sequence, without attention across them.

The block mask (segment_ids), restarted positions and unscored segment starts are made when a batch is collated (collate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from petrun.data.batches.units import Units
from petrun.data.formats.records import Array


def pack_rows(lengths: Sequence[int] | Array, capacity: int) -> Units:
    """Pack rows into few sequences of at most `capacity` tokens: best fit decreasing.

    The longest row comes first; each goes where it leaves the fewest tokens free. Ties go to the sequence that was begun first, so the
    result is a function of the lengths alone. Rows within a sequence, and sequences by their first row, are in the data's order.
    """
    lengths = np.asarray(lengths, np.int64)
    _check(lengths, capacity)
    group = np.zeros(len(lengths), np.int64)
    with_left: list[list[int]] = [[] for _ in range(capacity + 1)]
    """Tokens left -> heap of the sequences that have so many."""
    begun = found = 0
    """`found`: bit t is set where a sequence has t tokens left, so that the next higher one is found in a few words of memory."""
    for row in np.argsort(-lengths, kind="stable").tolist():
        need = int(lengths[row])
        fitting = found >> need
        if fitting:
            left = need + (fitting & -fitting).bit_length() - 1
            number = heappop(with_left[left])
            if not with_left[left]:
                found ^= 1 << left
        else:
            left, number = capacity, begun
            begun += 1
        group[row] = number
        left -= need
        if left:
            heappush(with_left[left], number)
            found |= 1 << left
    return Units.grouped(group)


def pack_in_order(lengths: Sequence[int] | Array, capacity: int) -> Units:
    """Pack rows into sequences in the data's order: a row begins a new sequence where it does not fit into the last one."""
    lengths = np.asarray(lengths, np.int64)
    _check(lengths, capacity)
    group = np.zeros(len(lengths), np.int64)
    number = left = -1
    for row, need in enumerate(lengths.tolist()):
        if need > left:
            number += 1
            left = capacity
        group[row] = number
        left -= need
    return Units.grouped(group)


def _check(lengths: Array, capacity: int) -> None:
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a row of {int(lengths.max())} tokens does not fit into {capacity}")
