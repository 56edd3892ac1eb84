"""Activations by MindPet's names, each of which can be split over devices, and MindPet's classes of them.

On the CPU `gelu` and `tanh` are petrun's kernels, to 1e-6; on Ascend they are the primitives that the strategies are set on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mindspore import nn, ops
from mindspore.ops.primitive import Primitive

from petrun import kernels
from petrun.kernels.device import on_ascend
from petrun.typing import Cell, ShardStrategy, Tensor


class Tanh(nn.Cell):
    """tanh(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = ops.Tanh()
        self.exact = kernels.Tanh()
        self.on_ascend = on_ascend()

    def construct(self, x: Tensor) -> Tensor:
        return self.tanh(x) if self.on_ascend else self.exact(x)

    def shard(self, strategy: ShardStrategy) -> None:
        self.tanh.shard(strategy)


class GELU(nn.Cell):
    """GELU in its tanh form, any shape; see kernels.GeluTanh. `approximate` False: with the error function, see kernels.Gelu."""

    def __init__(self, approximate: bool = True) -> None:
        super().__init__()
        self.approximate = approximate
        self.gelu = ops.GeLU()
        self.exact = kernels.GeluTanh() if approximate else kernels.Gelu()
        self.on_ascend = on_ascend()

    def construct(self, x: Tensor) -> Tensor:
        return self.gelu(x) if self.on_ascend and self.approximate else self.exact(x)

    def shard(self, strategy: ShardStrategy) -> None:
        if not self.approximate:
            raise ValueError("GELU(approximate=False) is not one operator that could be split; leave approximate out")
        self.gelu.shard(strategy)


class SiLU(nn.Cell):
    """x * sigmoid(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = ops.Sigmoid()
        self.mul = ops.Mul()

    def construct(self, x: Tensor) -> Tensor:
        return self.mul(x, self.sigmoid(x))

    def shard(self, strategy: ShardStrategy) -> None:
        self.sigmoid.shard(strategy)
        self.mul.shard((strategy[0], strategy[0]))


class LeakyReLU(nn.Cell):
    """alpha x where x < 0, else x; any shape. Raises TypeError where alpha is no number."""

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise TypeError(f"LeakyReLU: alpha must be an int or a float, got {type(alpha).__name__}")
        self.alpha = float(alpha)
        self.mul = ops.Mul()
        self.select_op = ops.Maximum() if alpha <= 1 else ops.Minimum()

    def construct(self, x: Tensor) -> Tensor:
        return self.select_op(self.mul(x, self.alpha), x)

    def shard(self, strategy: ShardStrategy) -> None:
        self.mul.shard((strategy[0], ()))
        self.select_op.shard((strategy[0], strategy[0]))


class LogSigmoid(nn.Cell):
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)), any shape: finite where exp(-x) overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.abs = ops.Abs()
        self.mul = ops.Mul()
        self.exp = ops.Exp()
        self.add = ops.Add()
        self.log = ops.Log()
        self.minimum = ops.Minimum()
        self.sub = ops.Sub()

    def construct(self, x: Tensor) -> Tensor:
        small = self.exp(self.mul(self.abs(x), -1.0))
        return self.sub(self.minimum(x, 0.0), self.log(self.add(small, 1.0)))

    def shard(self, strategy: ShardStrategy) -> None:
        for operator in (self.abs, self.exp, self.log):
            operator.shard(strategy)
        for operator in (self.mul, self.add, self.minimum):
            operator.shard((strategy[0], ()))
        self.sub.shard((strategy[0], strategy[0]))


class Softmin(nn.Cell):
    """softmax(-x) over `axis`."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.neg = ops.Neg()
        self.softmax = ops.Softmax(axis)

    def construct(self, x: Tensor) -> Tensor:
        return self.softmax(self.neg(x))

    def shard(self, strategy: ShardStrategy) -> None:
        self.neg.shard(strategy)
        self.softmax.shard(strategy)


class Tanhshrink(nn.Cell):
    """x - tanh(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = Tanh()
        self.sub = ops.Sub()

    def construct(self, x: Tensor) -> Tensor:
        return self.sub(x, self.tanh(x))

    def shard(self, strategy: ShardStrategy) -> None:
        self.tanh.shard(strategy)
        self.sub.shard((strategy[0], strategy[0]))


class Hardtanh(nn.Cell):
    """min(max(x, min_val), max_val), any shape. Raises ValueError where min_val is not below max_val."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        if min_val >= max_val:
            raise ValueError(f"Hardtanh: min_val {min_val} must be below max_val {max_val}")
        self.min_val, self.max_val = float(min_val), float(max_val)
        self.maximum = ops.Maximum()
        self.minimum = ops.Minimum()

    def construct(self, x: Tensor) -> Tensor:
        return self.minimum(self.maximum(x, self.min_val), self.max_val)

    def shard(self, strategy: ShardStrategy) -> None:
        self.maximum.shard((strategy[0], ()))
        self.minimum.shard((strategy[0], ()))


# MindPet's classes that are MindSpore's.
CELU, ELU, FastGelu, GLU = nn.CELU, nn.ELU, nn.FastGelu, nn.GLU
HShrink, HSigmoid, HSwish, LogSoftmax = nn.HShrink, nn.HSigmoid, nn.HSwish, nn.LogSoftmax
LRN, Mish, PReLU, ReLU, ReLU6, RReLU = nn.LRN, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU
SeLU, Sigmoid, SoftShrink, Softmax, Softmax2d = nn.SeLU, nn.Sigmoid, nn.SoftShrink, nn.Softmax, nn.Softmax2d
Softsign, Threshold = nn.Softsign, nn.Threshold

ACTIVATIONS: Mapping[str, Callable[[], Cell]] = {
    # MindPet's 25 names.
    "softmin": Softmin,
    "softmax": nn.Softmax,
    "softmax2d": nn.Softmax2d,
    "logsoftmax": nn.LogSoftmax,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "rrelu": nn.RReLU,
    "silu": SiLU,
    "tanh": Tanh,
    "tanhshrink": Tanhshrink,
    "hardtanh": Hardtanh,
    "gelu": GELU,
    "fast_gelu": nn.FastGelu,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
    "prelu": nn.PReLU,
    "leakyrelu": LeakyReLU,
    "hswish": nn.HSwish,
    "hsigmoid": nn.HSigmoid,
    "logsigmoid": LogSigmoid,
    "softshrink": nn.SoftShrink,
    "hshrink": nn.HShrink,
    "threshold": nn.Threshold,
    "mish": nn.Mish,
}
_SPLIT_THEMSELVES = (Tanh, GELU, SiLU, LeakyReLU, LogSigmoid, Softmin, Tanhshrink, Hardtanh)


# No number of its own, another shape than a layer's, or other values at every call.
_NOT_BETWEEN = ("threshold", "softmax2d", "rrelu")


def usable_activation(name: str) -> str:
    """name, or ValueError where no such activation can stand between two projections."""
    known = [n for n in ACTIVATIONS if n not in _NOT_BETWEEN]
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


def named_activation(owner: str, name: str) -> Cell:
    """A new cell for one of the names; KeyError for another, TypeError for `threshold`, which has no default numbers."""
    if name not in ACTIVATIONS:
        raise KeyError(f"{owner}: no activation is called {name!r}. Known: {', '.join(ACTIVATIONS)}.")
    if name == "threshold":
        raise TypeError(f"{owner}: threshold needs two numbers: give nn.Threshold(threshold, value) itself")
    return ACTIVATIONS[name]()


def get_activation(name: str | None, prim_name: str | None = None) -> Cell | None:
    """A new cell for one of the 25 names; None for None. Raises KeyError, TypeError as named_activation does."""
    return None if name is None else named_activation(prim_name or "get_activation", name)


def activation_of(owner: str, given: object) -> Any:
    """The cell or primitive for `activation=`: a name, a cell, a primitive or None. Raises KeyError, TypeError."""
    if isinstance(given, str):
        return named_activation(owner, given)
    if given is not None and not isinstance(given, nn.Cell | Primitive):
        raise TypeError(f"{owner}: activation must be a str, a Cell, a Primitive or None, got {type(given).__name__}")
    return given


def non_linearity_of(owner: str, name: object) -> Cell:
    """The cell for `non_linearity=`: one of the names. Raises TypeError."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise TypeError(f"{owner}: non_linearity must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return named_activation(owner, name)


def shard_activation(owner: str, activation: Cell, strategy: ShardStrategy | None) -> None:
    """Split an activation; None leaves the choice to MindSpore. Raises ValueError where a split is no sense or not possible."""
    name = type(activation).__name__
    if isinstance(activation, nn.LogSoftmax):
        raise ValueError(f"{owner}: {name} cannot be split over devices")
    if activation is None or strategy is None:
        return
    if isinstance(activation, nn.Softmax | Softmin) and isinstance(strategy[0], tuple) and strategy[0][-1] != 1:
        raise ValueError(f"{owner}: {name} reduces the last axis, which can therefore not be split")
    if isinstance(activation, _SPLIT_THEMSELVES):
        activation.shard(strategy)
        return
    if isinstance(activation, nn.RReLU | nn.Softmax2d):
        raise ValueError(f"{owner}: {name} cannot be split over devices")
    operators = [activation] if isinstance(activation, Primitive) else list(activation._primitives.values())
    if len(operators) != 1:
        raise ValueError(f"{owner}: {name} is not one operator that could be split; give the activation by its name")
    operators[0].shard(strategy)


def rows_of(activation: Cell, dp: int) -> ShardStrategy:
    """The strategy of an activation of (M, F) that is sharded by rows; prelu has its slope beside."""
    return ((dp, 1), (1,)) if isinstance(activation, nn.PReLU) else ((dp, 1),)
