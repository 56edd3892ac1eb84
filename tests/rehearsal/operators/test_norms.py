"""Norms and softmax: forward against petrun's own cells on the CPU, gradients against slopes in float64."""

import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import SetupError
from petrun.kernels import LayerNorm, RmsNorm
from petrun.rehearsal.interpreter import compute
from tests.rehearsal.operators.nodes import in_float64, node, slopes

EPS = 1e-5


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)
    return [random.normal(size=shape) for shape in ((3, 4, 6), (6,), (6,), (3, 4, 6))]


def test_rms_norm_is_petruns(drawn, pynative):
    x, weight = (value.astype(np.float32) for value in drawn[:2])
    cell = RmsNorm(6, EPS)
    cell.weight.set_data(Tensor(weight))
    y, scale = compute(node("RmsNorm", x.shape, (3, 4, 1)), (x, weight, EPS))
    np.testing.assert_allclose(y, cell(Tensor(x)).asnumpy(), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(scale, 1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPS), rtol=1e-6)


def test_the_gradient_of_rms_norm(drawn):
    x, weight, _, dy = drawn
    _, scale = in_float64("RmsNorm", [x.shape, (3, 4, 1)], x, weight, EPS)
    dx, dweight = in_float64("RmsNormGrad", [x.shape, (6,)], dy, x, scale, weight)
    shapes = [x.shape, (3, 4, 1)]
    np.testing.assert_allclose(dx, slopes(lambda v: in_float64("RmsNorm", shapes, v, weight, EPS)[0], x, dy), atol=1e-7)
    np.testing.assert_allclose(
        dweight, slopes(lambda v: in_float64("RmsNorm", shapes, x, v, EPS)[0], weight, dy), atol=1e-7
    )


def test_layer_norm_is_petruns(drawn, pynative):
    x, weight, bias = (value.astype(np.float32) for value in drawn[:3])
    cell = LayerNorm(6, EPS)
    cell.weight.set_data(Tensor(weight))
    cell.bias.set_data(Tensor(bias))
    y, mean, variance = compute(node("LayerNorm", x.shape, (3, 4, 1), (3, 4, 1)), (x, weight, bias, -1, -1, EPS))
    np.testing.assert_allclose(y, cell(Tensor(x)).asnumpy(), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(mean[..., 0], x.mean(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance[..., 0], x.var(-1), rtol=1e-5)


def test_the_gradient_of_layer_norm(drawn):
    x, weight, bias, dy = drawn
    shapes = [x.shape, (3, 4, 1), (3, 4, 1)]

    def forward(x, weight, bias):
        return in_float64("LayerNorm", shapes, x, weight, bias, -1, -1, EPS)

    _, mean, variance = forward(x, weight, bias)
    dx, dweight, dbias = in_float64("LayerNormGrad", shapes, x, dy, variance, mean, weight, -1, -1, EPS)
    np.testing.assert_allclose(dx, slopes(lambda v: forward(v, weight, bias)[0], x, dy), atol=1e-7)
    np.testing.assert_allclose(dweight, slopes(lambda v: forward(x, v, bias)[0], weight, dy), atol=1e-7)
    np.testing.assert_allclose(dbias, slopes(lambda v: forward(x, weight, v)[0], bias, dy), atol=1e-7)


def test_softmax_and_its_gradient(drawn):
    x, _, _, dy = drawn
    y = in_float64("Softmax", [x.shape], x, (-1,))
    np.testing.assert_allclose(y.sum(-1), 1.0)
    found = in_float64("SoftmaxBackward", [x.shape], dy, y, -1)
    np.testing.assert_allclose(found, slopes(lambda v: in_float64("Softmax", [x.shape], v, (-1,)), x, dy), atol=1e-8)
    large = compute(node("Softmax", (2,)), (np.float32([1e4, 0.0]), (-1,)))
    assert large.tolist() == [1.0, 0.0]


def test_another_axis_is_refused(drawn):
    x, weight, bias, _ = drawn
    with pytest.raises(SetupError, match=r"layers\.0: a LayerNorm from axis 1"):
        compute(node("LayerNorm", x.shape, (3, 4, 1), (3, 4, 1)), (x, weight, bias, 1, 1, EPS))


def test_half_precision_is_computed_in_float32(drawn):
    x = drawn[0].astype(np.float16)
    y = compute(node("Softmax", x.shape, dtype="float16"), (x, (-1,)))
    assert y.dtype == np.float16
    wide = compute(node("Softmax", x.shape), (x.astype(np.float32), (-1,)))
    np.testing.assert_array_equal(y, wide.astype(np.float16))
