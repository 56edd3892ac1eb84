"""What the tests of MindPet's cells share: numbers, numpy activations, strategies, and reading them back."""

import math

import numpy as np
from mindspore import nn

# MindPet's 25 names; those that are one function of one number, in float64.
ERF = np.vectorize(math.erf)
POINTWISE = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "tanhshrink": lambda x: x - np.tanh(x),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "fast_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "leakyrelu": lambda x: np.where(x > 0, x, 0.2 * x),
    "hswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "hshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}
ROWWISE = {
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "softmin": lambda x: np.exp(-x) / np.exp(-x).sum(-1, keepdims=True),
    "logsoftmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
}
# No formula of the layer's output alone: random slopes, four axes, two numbers of the user's.
OTHERS = ("rrelu", "softmax2d", "threshold")
NAMES = (*POINTWISE, *ROWWISE, *OTHERS)
NOT_SPLIT = ("logsoftmax", "rrelu", "softmax2d", "threshold")


def numbers(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def strategies(cell):
    """Path of an operator -> the strategy it was given, for every operator below `cell` that has one."""
    found = {}
    for path, part in [("", cell), *((p, c) for p, c in cell.cells_and_names() if p)]:
        for name, operator in part._primitives.items():
            strategy = getattr(operator, "in_strategy", None)
            if strategy is not None:
                found[f"{path}.{name}".lstrip(".")] = strategy
    return found


class Scaled(nn.Cell):
    """A user's own activation: 2 x."""

    def construct(self, x):
        return 2.0 * x
