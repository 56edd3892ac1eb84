"""Define which rows share a sequence, for a million of them without a million of tuples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from petrun.data.formats.records import Array


class Units(Sequence[tuple[int, ...]]):
    """The rows of every sequence, in order. Two arrays hold them: 16 bytes a row, where tuples take more than 100."""

    def __init__(self, rows: Array, starts: Array) -> None:
        """Unit k is rows[starts[k]:starts[k + 1]]: rows (n,) int64, starts (units + 1,) int64."""
        self.rows, self.starts = rows, starts

    @classmethod
    def single(cls, count: int) -> Units:
        """Each of `count` rows has a sequence of its own."""
        return cls(np.arange(count), np.arange(count + 1))

    @classmethod
    def grouped(cls, group: Array) -> Units:
        """Rows with the same `group` (n,), numbers from 0 on without gaps, share a sequence. Units are ordered by their first row, rows
        within a unit by their number."""
        count = int(group.max()) + 1 if len(group) else 0
        # Assigned backwards, the first row of a group is what stays.
        firsts = np.zeros(count, np.int64)
        firsts[group[::-1]] = np.arange(len(group))[::-1]
        place = np.empty(count, np.int64)
        place[np.argsort(firsts)] = np.arange(count)
        units = place[group]
        sizes = np.bincount(units, minlength=count)
        return cls(np.argsort(units, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        k = range(len(self))[index]
        return tuple(self.rows[self.starts[k] : self.starts[k + 1]].tolist())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def sums(self, values: Array) -> Array:
        """Return the sum of (n,) values over the rows of each unit: (units,) int64."""
        total = np.concatenate([[0], np.cumsum(values[self.rows])])
        sums: Array = total[self.starts[1:]] - total[self.starts[:-1]]
        return sums
