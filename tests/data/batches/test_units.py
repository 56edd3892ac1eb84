"""Which rows share a sequence, as two arrays."""

import numpy as np

from petrun.data.batches.units import Units


def test_groups_are_ordered_by_their_first_row():
    units = Units.grouped(np.array([2, 0, 1, 2, 0]))
    assert units == ((0, 3), (1, 4), (2,)) and list(units) == [(0, 3), (1, 4), (2,)]
    assert len(units) == 3 and units[-1] == (2,) and units[:2] == ((0, 3), (1, 4))
    assert units != ((0, 3), (1, 4)) and units != ((0, 3), (1, 4), (1,))
    assert units.sums(np.array([10, 1, 5, 20, 2])).tolist() == [30, 3, 5]


def test_single_rows():
    assert Units.single(3) == ((0,), (1,), (2,))
    assert Units.single(0) == () and Units.grouped(np.zeros(0, np.int64)) == ()
    assert Units.single(0).sums(np.zeros(0, np.int64)).tolist() == []
