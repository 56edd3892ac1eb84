"""Values of a packed matrix, whole and a few rows at a time."""

import numpy as np
import pytest

from petrun.tensors.quantised import int8, nf4, packed
from tests.tensors.quantised.stored import CASES, weight


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [int8, nf4])
def test_rows_are_those_of_the_whole(kind, case):
    matrix = kind.quantised(weight(case))
    whole = matrix.dequantised()
    for rows in (slice(0, 1), slice(1, 4), slice(3, None), slice(2, 2)):
        assert np.array_equal(matrix.dequantised(rows), whole[rows])
    assert np.array_equal(np.concatenate([values for _, values in matrix.row_blocks()]), whole)


def test_integers_with_zeros_and_an_order_of_columns():
    """w[:, order[i]] = (q_i - zero) * scale, groups of two columns."""
    codes = np.array([[3, 7, 1, 0], [15, 2, 8, 9]], np.uint8)
    matrix = packed.PackedMatrix(
        form="gptq-4",
        shape=(2, 4),
        codes=packed.two_in_a_byte(codes),
        table=np.arange(16, dtype=np.float32),
        block=2,
        scales=np.array([0.5, 2, 1, 4], np.float32),
        zeros=np.array([8, 1, 0, 8], np.float32),
        order=np.array([2, 0, 3, 1], np.int32),
    )
    expected = np.array([[-0.5, -2, -2.5, 0], [2, 4, 15, 0]], np.float32)
    assert np.array_equal(matrix.dequantised(), expected)
    assert np.array_equal(matrix.dequantised(slice(1, 2)), expected[1:])
