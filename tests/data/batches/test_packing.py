"""Rows that share a sequence."""

import numpy as np
import pytest

from petrun.data.batches.packing import pack_in_order, pack_rows


def test_best_fit_decreasing():
    # 7, 6 and 5 open a, b and c with room for 3, 4 and 5; then 4 fits b exactly and 3 fits a exactly.
    assert pack_rows([5, 3, 7, 6, 4], 10) == ((0,), (1, 2), (3, 4))
    assert pack_rows([4, 4, 4, 4, 4], 8) == ((0, 1), (2, 3), (4,))
    assert pack_rows([], 8) == ()


@pytest.mark.parametrize("pack", [pack_rows, pack_in_order])
def test_every_row_once_and_none_too_full(pack):
    lengths = np.random.default_rng(0).integers(1, 65, 700)
    packed = pack(lengths, 64)
    assert sorted(row for rows in packed for row in rows) == list(range(700))
    assert max(int(lengths[list(rows)].sum()) for rows in packed) <= 64
    assert packed == pack(lengths.tolist(), 64)
    assert list(packed) == sorted(packed)


def test_packing_is_tight():
    lengths = np.random.default_rng(0).integers(1, 40, 700)
    needed = int(lengths.sum()) / 64
    assert len(pack_rows(lengths, 64)) <= needed * 1.01 + 1
    assert len(pack_rows(lengths, 64)) < len(pack_in_order(lengths, 64))


def test_rows_in_order_stay_in_order():
    assert pack_in_order([5, 3, 7, 6, 4], 10) == ((0, 1), (2,), (3, 4))


def test_a_row_that_does_not_fit():
    with pytest.raises(ValueError, match="9 tokens does not fit into 8"):
        pack_rows([9], 8)
