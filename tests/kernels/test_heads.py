"""SplitHeads, SplitQkv, SplitGroupedQkv and MergeHeads: only places change, in both directions, values and gradients."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import normal, run


@pytest.mark.parametrize("b, t, n, d", [(1, 1, 1, 4), (2, 5, 3, 8), (3, 64, 12, 32), (2, 7, 1, 5)])
def test_there_and_back(b, t, n, d, mode, implementation):
    x, w = normal(b, t, n * d), normal(b, n, t, d, seed=1)
    apart = x.reshape(b, t, n, d).transpose(0, 2, 1, 3)
    merged = w.transpose(0, 2, 1, 3).reshape(b, t, n * d)
    y, (dx,), _ = run(kernels.SplitHeads(d), (x,), w, (0,))
    np.testing.assert_array_equal(y, apart)
    np.testing.assert_array_equal(dx, merged)
    y, (dx,), _ = run(kernels.MergeHeads(d), (w,), x, (0,))
    np.testing.assert_array_equal(y, merged)
    np.testing.assert_array_equal(dx, apart)


def test_half_precision(implementation):
    x = normal(2, 3, 8).astype(np.float16)
    y = kernels.SplitHeads(4)(Tensor(x))
    np.testing.assert_array_equal(kernels.MergeHeads(4)(y).asnumpy(), x)


class Joined(ms.nn.Cell):
    """The three outputs side by side, so that each has a gradient of its own."""

    def __init__(self, width):
        super().__init__()
        self.split = kernels.SplitQkv(width)

    def construct(self, x):
        q, k, v = self.split(x)
        return ms.ops.stack((q, k, v))


@pytest.mark.parametrize("b, t, n, d", [(1, 1, 1, 4), (2, 5, 3, 8), (3, 64, 12, 32)])
def test_queries_keys_and_values(b, t, n, d, mode, implementation):
    x, w = normal(b, t, 3 * n * d), normal(3, b, n, t, d, seed=1)
    y, (dx,), _ = run(Joined(d), (x,), w, (0,))
    np.testing.assert_array_equal(y, x.reshape(b, t, 3, n, d).transpose(2, 0, 3, 1, 4))
    np.testing.assert_array_equal(dx, w.transpose(1, 3, 0, 2, 4).reshape(b, t, 3 * n * d))


@pytest.mark.parametrize(
    "cell", [pytest.param(kernels.SplitHeads, marks=pytest.mark.all_only), kernels.SplitQkv], ids=["heads", "qkv"]
)
def test_two_widths_in_one_process(cell, mode, implementation):
    """The same input, another number of heads: nothing that MindSpore inferred for one may serve the other."""
    x = Tensor(normal(3, 9, 24))
    shapes = []
    for width in (8, 4, 2, 8):
        y = cell(width)(x)
        y = y if isinstance(y, tuple) else (y,)
        shapes.append(y[0].shape)
        joined = np.concatenate([kernels.MergeHeads(width)(part).asnumpy() for part in y], -1)
        np.testing.assert_array_equal(joined, x.asnumpy())
    heads = 24 if cell is kernels.SplitHeads else 8
    assert shapes == [(3, heads // width, 9, width) for width in (8, 4, 2, 8)]


@pytest.mark.parametrize("width", [8, 4, 2])
def test_the_gradient_of_merging_has_the_width_it_came_with(width, mode, fused):
    x, w = normal(3, 8 // width, 5, width), normal(3, 5, 8, seed=1)
    _, (dx,), _ = run(kernels.MergeHeads(width), (x,), w, (0,))
    np.testing.assert_array_equal(dx, w.reshape(3, 5, 8 // width, width).transpose(0, 2, 1, 3))


class Grouped(ms.nn.Cell):
    """The outputs side by side along the heads."""

    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.split = kernels.SplitGroupedQkv(width, heads, kv_heads)

    def construct(self, x):
        return ms.ops.concat(self.split(x), 1)


@pytest.mark.parametrize("b, t, n, n_kv, d", [(2, 5, 4, 2, 8), (1, 1, 3, 1, 4), (2, 7, 2, 2, 16)])
def test_queries_beside_fewer_keys_and_values(b, t, n, n_kv, d, mode, implementation):
    heads = n + 2 * n_kv
    x, w = normal(b, t, heads * d), normal(b, heads, t, d, seed=1)
    y, (dx,), _ = run(Grouped(d, n, n_kv), (x,), w, (0,))
    np.testing.assert_array_equal(y, x.reshape(b, t, heads, d).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(dx, w.transpose(0, 2, 1, 3).reshape(b, t, heads * d))
