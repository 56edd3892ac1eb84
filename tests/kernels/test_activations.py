"""Gelu, GeluTanh, SiluMul and SoftCap against float64 formulas."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import close, normal, run

ERF = np.vectorize(math.erf)
# A whole number of vectors, a tail, more than one piece of work, and a single number.
SHAPES = [(3, 32), (5, 7), (2, 3, 5581), (1,)]


def gelu(x):
    below = 0.5 * (1 + ERF(x / math.sqrt(2)))
    return x * below, below + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(inner)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell, formula", [(kernels.Gelu, gelu), (kernels.GeluTanh, gelu_tanh)])
def test_value_and_gradient(cell, formula, shape, mode, implementation):
    x, w = 3 * normal(*shape), normal(*shape, seed=1)
    value, slope = formula(x.astype(np.float64))
    y, (dx,), _ = run(cell(), (x,), w, (0,))
    close(y, value)
    close(dx, w * slope)


@pytest.mark.parametrize("cell, formula", [(kernels.Gelu, gelu), (kernels.GeluTanh, gelu_tanh)])
def test_the_whole_range_to_the_last_digits(cell, formula, fused):
    """Absolute error within an ulp or two of the larger of |y| and 1e-3."""
    x = np.linspace(-12, 12, 40_001, dtype=np.float32)
    y = cell()(Tensor(x)).asnumpy()
    value, _ = formula(x.astype(np.float64))
    assert (np.abs(y - value) <= 4e-7 * np.maximum(np.abs(value), 1e-3)).mean() > 0.99
    np.testing.assert_allclose(y, value, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("cell", [kernels.Gelu, kernels.GeluTanh])
def test_extremes(cell, fused):
    x = np.array([0.0, -0.0, 1e30, -1e30, 100.0, -100.0, 1e-38, np.nan], np.float32)
    y = cell()(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(y[:7], np.array([0, 0, 1e30, 0, 100, 0, y[6]], np.float32))
    assert y[6] == pytest.approx(0.5e-38, rel=1e-5)
    assert np.isnan(y[7])


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_silu_mul(shape, mode, implementation):
    gate, up, w = 3 * normal(*shape), normal(*shape, seed=1), normal(*shape, seed=2)
    g = gate.astype(np.float64)
    s = 1 / (1 + np.exp(-g))
    y, (dgate, dup), _ = run(kernels.SiluMul(), (gate, up), w, (0, 1))
    close(y, g * s * up)
    close(dgate, w * up * s * (1 + g * (1 - s)))
    close(dup, w * g * s)


def test_silu_of_large_values_is_finite(fused):
    gate = np.array([-1e4, -90, 90, 1e4], np.float32)
    y = kernels.SiluMul()(Tensor(gate), Tensor(np.ones(4, np.float32))).asnumpy()
    np.testing.assert_allclose(y, [0, 0, 90, 1e4], atol=1e-30)


@pytest.mark.parametrize("cell, count", [(kernels.Gelu, 1), (kernels.GeluTanh, 1), (kernels.SiluMul, 2)])
def test_half_precision_stays_half(cell, count, mode, implementation):
    inputs = [normal(4, 9, seed=i).astype(np.float16) for i in range(count)]
    half = cell()(*[Tensor(x) for x in inputs])
    wide = cell()(*[Tensor(x.astype(np.float32)) for x in inputs])
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), wide.asnumpy(), rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_tanh(shape, mode, implementation):
    x, w = 2 * normal(*shape), normal(*shape, seed=1)
    value = np.tanh(x.astype(np.float64))
    y, (dx,), _ = run(kernels.Tanh(), (x,), w, (0,))
    close(y, value)
    close(dx, w * (1 - value**2), 1e-5)


def test_tanh_over_the_whole_range(fused):
    x = np.concatenate((np.linspace(-12, 12, 40_001), np.geomspace(1e-30, 1, 500), [1e4, -1e4])).astype(np.float32)
    np.testing.assert_allclose(kernels.Tanh()(Tensor(x)).asnumpy(), np.tanh(x.astype(np.float64)), rtol=4e-6, atol=1e-7)


def test_a_cap_bends(mode, implementation):
    x, w = 5 * normal(3, 4, 7), normal(3, 4, 7, seed=1)
    y, (dx,), _ = run(kernels.SoftCap(2.5), (x,), w, (0,))
    bent = np.tanh(x.astype(np.float64) / 2.5)
    close(y, 2.5 * bent)
    close(dx, w * (1 - bent**2))
