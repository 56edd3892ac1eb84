"""MindPet's classes of activations with arguments, against numpy. Those by name: tests/delta/test_dense.py."""

import math

import numpy as np
import pytest
from mindspore import Tensor

from petrun.kernels import named_activations as activation
from petrun.kernels.named_activations import GELU, Hardtanh, LeakyReLU, Softmin, shard_activation
from tests.mindpet.numbers import ERF, numbers

X = numbers((4, 6), 1, 2.0)
CASES = {
    "leaky": (LeakyReLU(0.1), np.where(X > 0, X, 0.1 * X)),
    "steep": (LeakyReLU(3), np.where(X > 0, X, 3 * X)),
    "hardtanh": (Hardtanh(-0.5, 2.0), np.clip(X, -0.5, 2.0)),
    "gelu": (GELU(approximate=False), X / 2 * (1 + ERF(X / math.sqrt(2)))),
    "softmin": (Softmin(0), np.exp(-X) / np.exp(-X).sum(0)),
}
# All that MindPet 1.0.4 exports.
CLASSES = (
    "Softmin Softmax Softmax2d LogSoftmax ReLU ReLU6 RReLU SeLU SiLU Tanh Tanhshrink Hardtanh GELU FastGelu Sigmoid Softsign PReLU "
    "LeakyReLU HSigmoid HSwish ELU LogSigmoid LRN SoftShrink HShrink CELU Threshold Mish GLU"
).split()


@pytest.mark.parametrize("name", CASES)
def test_an_activation_with_arguments_is_its_formula(mode, name):
    cell, expected = CASES[name]
    np.testing.assert_allclose(cell(Tensor(X)).asnumpy(), expected, rtol=2e-5, atol=2e-5)


def test_every_class_of_mindpet_is_there():
    assert not [name for name in CLASSES if not isinstance(getattr(activation, name, None), type)]


def test_bad_arguments():
    with pytest.raises(TypeError, match="alpha must be"):
        LeakyReLU("0.2")
    with pytest.raises(ValueError, match=r"min_val 1\.0 must be below"):
        Hardtanh(1.0, 1.0)
    with pytest.raises(ValueError, match="not one operator that could be split"):
        shard_activation("test", GELU(approximate=False), ((2, 1),))
