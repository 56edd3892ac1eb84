"""Rope and apply_rope against complex rotation."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import close, normal, run


def tables(batch, tokens, width):
    """Angles differ by row of the batch, position and frequency."""
    half = np.random.default_rng(5).uniform(-3, 3, (batch, 1, tokens, width // 2))
    angle = np.concatenate((half, half), -1)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin.astype(np.float64))[..., :half]
    return np.concatenate((turned.real, turned.imag), -1)


@pytest.mark.parametrize("batch, shared", [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize("heads, tokens, width", [(2, 5, 8), (4, 7, 64), (1, 3, 6)])
def test_rotation_and_its_gradient(heads, tokens, width, batch, shared, mode, implementation):
    x, w = normal(batch, heads, tokens, width), normal(batch, heads, tokens, width, seed=1)
    cos, sin = tables(1 if shared else batch, tokens, width)
    y, (dx,), _ = run(kernels.Rope(), (x, cos, sin), w, (0,))
    close(y, rotated(x.astype(np.float64), cos, sin))
    # The transposed rotation turns back.
    close(dx, rotated(w.astype(np.float64), cos, -sin))


def test_tables_whose_halves_differ(mode, fused):
    """Not what a model sends, but what the formula says."""
    x, w = normal(2, 3, 4, 10), normal(2, 3, 4, 10, seed=1)
    cos, sin = normal(2, 1, 4, 10, seed=2), normal(2, 1, 4, 10, seed=3)
    y, (dx,), _ = run(kernels.Rope(), (x, cos, sin), w, (0,))
    with kernels.primitives_only():
        expected, (gradient,), _ = run(kernels.Rope(), (x, cos, sin), w, (0,))
    close(y, expected)
    close(dx, gradient)


def test_half_precision(implementation):
    x = normal(1, 2, 3, 8).astype(np.float16)
    cos, sin = (t.astype(np.float16) for t in tables(1, 3, 8))
    y = kernels.Rope()(Tensor(x), Tensor(cos), Tensor(sin))
    assert y.dtype == ms.float16
    np.testing.assert_allclose(y.asnumpy(), rotated(x, cos, sin), atol=5e-3)
    np.testing.assert_array_equal(y.asnumpy(), kernels.apply_rope(Tensor(x), Tensor(cos), Tensor(sin)).asnumpy())
