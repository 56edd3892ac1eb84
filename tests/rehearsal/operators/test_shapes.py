"""Operators that arrange elements: against MindSpore's own on the CPU, or what their definition says."""

import numpy as np
import pytest
from mindspore import Tensor, ops

from petrun.errors import SetupError
from tests.rehearsal.operators.nodes import result

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_slices_and_their_gradient(pynative):
    begin, end, strides = (0, 1, 0), (2, 3, 4), (1, 1, 2)
    expected = ops.StridedSlice()(Tensor(X), begin, end, strides).asnumpy()
    y = result("StridedSlice", (2, 2, 2), X, begin, end, strides, 0, 0, 0, 0, 0)
    np.testing.assert_array_equal(y, expected)
    dx = result("StridedSliceGrad", X.shape, y, X.shape, begin, end, strides)
    np.testing.assert_array_equal(dx[:, 1:3, ::2], y)
    assert np.count_nonzero(dx) == np.count_nonzero(y)


def test_padding_and_its_gradient(pynative):
    widths = ((0, 0), (1, 2), (0, 3))
    padded = result("Pad", (2, 6, 7), X, paddings=widths)
    np.testing.assert_array_equal(padded, ops.Pad(widths)(Tensor(X)).asnumpy())
    np.testing.assert_array_equal(result("Slice", X.shape, padded, (0, 1, 0), X.shape), X)


def test_masks_of_a_slice(pynative):
    own = ops.StridedSlice(begin_mask=1, end_mask=2, shrink_axis_mask=4)
    expected = own(Tensor(X), (1, 0, 3), (2, 1, 4), (1, 1, 1)).asnumpy()
    found = result("StridedSlice", expected.shape, X, (1, 0, 3), (2, 1, 4), (1, 1, 1), 1, 2, 0, 0, 4)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(SetupError, match="an ellipsis or a new axis"):
        result("StridedSlice", (1,), X, (0,), (1,), (1,), 0, 0, 1, 0, 0)


def test_cumulated_sums(pynative):
    expected = ops.CumSum()(Tensor(X), -1).asnumpy()
    np.testing.assert_array_equal(result("CumSum", X.shape, X, -1, False, False), expected)
    with pytest.raises(SetupError, match="exclusive or from the end"):
        result("CumSum", X.shape, X, -1, True, False)


def test_gathered_rows_beyond_the_table_are_zero():
    table = X[0]
    found = result("Gather", (2, 2, 4), table, np.int32([[0, 2], [3, -1]]), 0, 0)
    np.testing.assert_array_equal(found, [[table[0], table[2]], [[0] * 4, [0] * 4]])


def test_gathered_elements_and_their_gradient():
    index = np.int32([[0, 0], [2, 1]])
    np.testing.assert_array_equal(result("GatherD", (2, 2), X[0, :2], 1, index), [[0, 0], [6, 5]])
    dx = result("GatherDGradV2", (2, 4), X[0, :2], 1, index, np.float32([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(dx, [[3, 0, 0, 0], [0, 4, 3, 0]])


def test_one_hot_and_sums_of_segments():
    found = result("OneHot", (3, 4), np.int32([1, 4, -2]), 4, np.float32(1), np.float32(0))
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [0] * 4, [0] * 4])
    total = result("UnsortedSegmentSum", (2, 4), X[0], np.int32([1, -1, 1]), 2)
    np.testing.assert_array_equal(total, [[0] * 4, X[0, 0] + X[0, 2]])


def test_split_tile_and_sums():
    parts = np.split(X, [1], -1)
    for found, expected in zip(
        (result("Tile", (2, 6, 4), X, (1, 2, 1)), result("SumExt", (4,), X, (0, 1), False, None)),
        (np.concatenate([X, X], 1), X.sum((0, 1))),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(result("Concat", X.shape, tuple(parts), -1), X)
    np.testing.assert_array_equal(result("ReduceSum", (), X, (), False, False), X.sum())


def test_products_of_transposed_matrices(pynative):
    y = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = ops.MatMul(transpose_a=True)(Tensor(y), Tensor(X[:, 0])).asnumpy()
    np.testing.assert_array_equal(result("MatMul", (3, 4), y, X[:, 0], True, False), expected)
    np.testing.assert_array_equal(result("BiasAdd", (2, 3), y, np.float32([1, 2, 3])), [[1, 3, 5], [4, 6, 8]])
    np.testing.assert_array_equal(result("BiasAddGrad", (3,), y, "NCHW"), y.sum(0))
