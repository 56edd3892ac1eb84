"""LayerNorm and RmsNorm against float64 formulas."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import close, normal, run

# Whole vectors, a tail, less than one vector, many blocks of rows.
SHAPES = [(4, 6, 384), (3, 50), (2, 5), (700, 24)]
EPS = 1e-3


def layer_norm(x, weight, bias, dy):
    """y, dx, dweight, dbias."""
    mean = x.mean(-1, keepdims=True)
    std = np.sqrt(x.var(-1, keepdims=True) + EPS)
    n = (x - mean) / std
    g = dy * weight
    dx = (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True)) / std
    rows = tuple(range(x.ndim - 1))
    return n * weight + bias, dx, (dy * n).sum(rows), dy.sum(rows)


def rms_norm(x, weight, dy):
    """y, dx, dweight."""
    rms = np.sqrt((x * x).mean(-1, keepdims=True) + EPS)
    n = x / rms
    g = dy * weight
    return n * weight, (g - n * (g * n).mean(-1, keepdims=True)) / rms, (dy * n).sum(tuple(range(x.ndim - 1)))


def with_weights(cell, hidden):
    for i, p in enumerate(cell.get_parameters()):
        p.set_data(Tensor(normal(hidden, seed=10 + i) + (1 - i)))
    return cell, [p.asnumpy().astype(np.float64) for p in cell.get_parameters()]


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape, mode, implementation):
    # A mean far from 0: the variance must be that of the centred row.
    x, dy = normal(*shape) + 20, normal(*shape, seed=1)
    cell, (weight, bias) = with_weights(kernels.LayerNorm(shape[-1], EPS), shape[-1])
    y, (dx,), (dweight, dbias) = run(cell, (x,), dy, (0,))
    expected = layer_norm(x.astype(np.float64), weight, bias, dy.astype(np.float64))
    for actual, wanted in zip((y, dx, dweight, dbias), expected, strict=True):
        close(actual, wanted, 3e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_of_a_sum(shape, mode, implementation):
    x, residual, dy = normal(*shape), normal(*shape, seed=3), normal(*shape, seed=1)
    cell, (weight, bias) = with_weights(kernels.LayerNorm(shape[-1], EPS), shape[-1])
    y, (dx, dresidual), (dweight, dbias) = run(cell, (x, residual), dy, (0, 1))
    expected = layer_norm((x + residual).astype(np.float64), weight, bias, dy.astype(np.float64))
    for actual, wanted in zip((y, dx, dweight, dbias), expected, strict=True):
        close(actual, wanted)
    np.testing.assert_array_equal(dx, dresidual)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape, mode, implementation):
    x, dy = normal(*shape), normal(*shape, seed=1)
    cell, (weight,) = with_weights(kernels.RmsNorm(shape[-1], EPS), shape[-1])
    y, (dx,), (dweight,) = run(cell, (x,), dy, (0,))
    expected = rms_norm(x.astype(np.float64), weight, dy.astype(np.float64))
    for actual, wanted in zip((y, dx, dweight), expected, strict=True):
        close(actual, wanted)


def test_rms_norm_with_an_offset(mode, implementation):
    """Its weight is stored less the offset."""
    x, dy = normal(3, 16), normal(3, 16, seed=1)
    cell, (weight,) = with_weights(kernels.OffsetRmsNorm(16, EPS), 16)
    y, (dx,), (dweight,) = run(cell, (x,), dy, (0,))
    for actual, wanted in zip(
        (y, dx, dweight), rms_norm(x.astype(np.float64), weight + 1, dy.astype(np.float64)), strict=True
    ):
        close(actual, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_of_columns(shape, mode, implementation):
    x, scale, dy = normal(*shape), normal(shape[-1], seed=2), normal(*shape, seed=1)
    y, (dx, dscale), _ = run(kernels.ScaleColumns(), (x, scale), dy, (0, 1))
    wide, rows = dy.astype(np.float64), tuple(range(len(shape) - 1))
    for actual, wanted in zip((y, dx, dscale), (x * scale, wide * scale, (wide * x).sum(rows)), strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("cell", [kernels.LayerNorm, kernels.RmsNorm])
def test_parameters_and_half_precision(cell, mode, implementation):
    norm = cell(12, 1e-6)
    names = [p.name for p in norm.get_parameters()]
    assert names == (["weight", "bias"] if cell is kernels.LayerNorm else ["weight"])
    x = normal(3, 12).astype(np.float16)
    half = norm(Tensor(x))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), norm(Tensor(x.astype(np.float32))).asnumpy(), atol=4e-3)


def test_nan_is_not_hidden(fused):
    x = normal(4, 40)
    x[2, 7] = np.nan
    y = kernels.LayerNorm(40, EPS)(Tensor(x)).asnumpy()
    assert np.isnan(y[2]).all() and np.isfinite(y[[0, 1, 3]]).all()
