"""What MindPet's dense cells share: argument checks, activations by name, the base layer, and taking over an existing layer.

Every operator can be split over devices, with a strategy of one tuple of cuts per input as `mindspore.ops.Primitive.shard` takes it.
Those of an activation by name are its cell's attributes. On the CPU `gelu` and `tanh` are petrun's kernels, to 1e-6; on Ascend they
are the primitives that the strategies are set on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.primitive import Primitive
from pydantic import Field, field_validator

from petrun import kernels
from petrun.delta.base import MethodConfig
from petrun.delta.parts import draw_uniform
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets
from petrun.kernels.device import on_ascend
from petrun.tensors import Array

DTYPES = (ms.float16, ms.float32, ms.bfloat16)


def split_names(value: Any) -> Any:
    """`a, b` -> (a, b), for a field that takes a list or one text with commas; anything else as it is."""
    return tuple(t.strip() for t in value.split(",") if t.strip()) if isinstance(value, str) else value


class TargetConfig(MethodConfig):
    """Which layers a method goes to."""

    target: tuple[str, ...] | None = Field(
        None, description="roles, layer names, globs over full paths, or all-linear; default: the family's"
    )
    exclude: tuple[str, ...] = Field((), description="the same, taken away from target")

    _split = field_validator("target", "exclude", mode="before")(split_names)


def sublayer_paths(net: Any, config: TargetConfig, sites: Sites) -> tuple[str, ...]:
    """Paths of the nn.Dense cells that adapters follow: the targets, or the ends of the model's sub-layers. Raises TargetError."""
    targets = sites.sublayers if config.target is None else config.target
    if not targets:
        raise TargetError(
            "the model does not say where its sub-layers end, where adapters go by default",
            hint="Name the layers with --target, or let the factory return Sites(sublayers=...).",
        )
    return resolve_targets(net, sites, targets, config.exclude)


def positive_int(owner: str, name: str, value: Any) -> int:
    """value, or TypeError where it is no int, ValueError where it is not positive."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{owner}: {name} must be positive, got {value}")
    return value


def rate(owner: str, name: str, value: Any) -> float:
    """value, or TypeError where it is no float, ValueError outside [0, 1)."""
    if not isinstance(value, float):
        raise TypeError(f"{owner}: {name} must be a float, got {type(value).__name__}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{owner}: {name} must lie in [0, 1), got {value}")
    return value


def float_dtype(owner: str, name: str, value: Any) -> Any:
    """value, or TypeError where it is none of the three types a layer computes in."""
    if value not in DTYPES:
        raise TypeError(f"{owner}: {name} must be float16, float32 or bfloat16, got {value}")
    return value


def of_shape(owner: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """ValueError where an initial value is a tensor of another shape."""
    if isinstance(value, Tensor) and tuple(value.shape) != shape:
        raise ValueError(f"{owner}: {name} must have shape {shape}, got {tuple(value.shape)}")


class Tanh(nn.Cell):
    """tanh(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = ops.Tanh()
        self.exact = kernels.Tanh()
        self.on_ascend = on_ascend()

    def construct(self, x: Any) -> Any:
        return self.tanh(x) if self.on_ascend else self.exact(x)

    def shard(self, strategy: Any) -> None:
        self.tanh.shard(strategy)


class Gelu(nn.Cell):
    """GELU in its tanh form, any shape; see kernels.GeluTanh."""

    def __init__(self) -> None:
        super().__init__()
        self.gelu = ops.GeLU()
        self.exact = kernels.GeluTanh()
        self.on_ascend = on_ascend()

    def construct(self, x: Any) -> Any:
        return self.gelu(x) if self.on_ascend else self.exact(x)

    def shard(self, strategy: Any) -> None:
        self.gelu.shard(strategy)


class Silu(nn.Cell):
    """x * sigmoid(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = ops.Sigmoid()
        self.mul = ops.Mul()

    def construct(self, x: Any) -> Any:
        return self.mul(x, self.sigmoid(x))

    def shard(self, strategy: Any) -> None:
        self.sigmoid.shard(strategy)
        self.mul.shard((strategy[0], strategy[0]))


class LeakyRelu(nn.Cell):
    """max(0.2 x, x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.mul = ops.Mul()
        self.select_op = ops.Maximum()

    def construct(self, x: Any) -> Any:
        return self.select_op(self.mul(x, 0.2), x)

    def shard(self, strategy: Any) -> None:
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

    def construct(self, x: Any) -> Any:
        small = self.exp(self.mul(self.abs(x), -1.0))
        return self.sub(self.minimum(x, 0.0), self.log(self.add(small, 1.0)))

    def shard(self, strategy: Any) -> None:
        for operator in (self.abs, self.exp, self.log):
            operator.shard(strategy)
        for operator in (self.mul, self.add, self.minimum):
            operator.shard((strategy[0], ()))
        self.sub.shard((strategy[0], strategy[0]))


class Softmin(nn.Cell):
    """softmax(-x) over the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.neg = ops.Neg()
        self.softmax = ops.Softmax(-1)

    def construct(self, x: Any) -> Any:
        return self.softmax(self.neg(x))

    def shard(self, strategy: Any) -> None:
        self.neg.shard(strategy)
        self.softmax.shard(strategy)


class Tanhshrink(nn.Cell):
    """x - tanh(x), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = Tanh()
        self.sub = ops.Sub()

    def construct(self, x: Any) -> Any:
        return self.sub(x, self.tanh(x))

    def shard(self, strategy: Any) -> None:
        self.tanh.shard(strategy)
        self.sub.shard((strategy[0], strategy[0]))


class Hardtanh(nn.Cell):
    """min(max(x, -1), 1), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum = ops.Maximum()
        self.minimum = ops.Minimum()

    def construct(self, x: Any) -> Any:
        return self.minimum(self.maximum(x, -1.0), 1.0)

    def shard(self, strategy: Any) -> None:
        self.maximum.shard((strategy[0], ()))
        self.minimum.shard((strategy[0], ()))


ACTIVATIONS: Mapping[str, Callable[[], Any]] = {
    # MindPet's 25 names. MindSpore's own cells stand where they are one operator.
    "softmin": Softmin,
    "softmax": nn.Softmax,
    "softmax2d": nn.Softmax2d,
    "logsoftmax": nn.LogSoftmax,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "rrelu": nn.RReLU,
    "silu": Silu,
    "tanh": Tanh,
    "tanhshrink": Tanhshrink,
    "hardtanh": Hardtanh,
    "gelu": Gelu,
    "fast_gelu": nn.FastGelu,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
    "prelu": nn.PReLU,
    "leakyrelu": LeakyRelu,
    "hswish": nn.HSwish,
    "hsigmoid": nn.HSigmoid,
    "logsigmoid": LogSigmoid,
    "softshrink": nn.SoftShrink,
    "hshrink": nn.HShrink,
    "threshold": nn.Threshold,
    "mish": nn.Mish,
}
_SPLIT_THEMSELVES = (Tanh, Gelu, Silu, LeakyRelu, LogSigmoid, Softmin, Tanhshrink, Hardtanh)


# No number of its own, another shape than a layer's, or other values at every call.
_NOT_BETWEEN = ("threshold", "softmax2d", "rrelu")


def usable_activation(name: str) -> str:
    """name, or ValueError where no such activation can stand between two projections."""
    known = [n for n in ACTIVATIONS if n not in _NOT_BETWEEN]
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


def named_activation(owner: str, name: str) -> Any:
    """A new cell for one of the names; KeyError for another, TypeError for `threshold`, which has no default numbers."""
    if name not in ACTIVATIONS:
        raise KeyError(f"{owner}: no activation is called {name!r}. Known: {', '.join(ACTIVATIONS)}.")
    if name == "threshold":
        raise TypeError(f"{owner}: threshold needs two numbers: give nn.Threshold(threshold, value) itself")
    return ACTIVATIONS[name]()


def activation_of(owner: str, given: Any) -> Any:
    """The cell or primitive for `activation=`: a name, a cell, a primitive or None. Raises KeyError, TypeError."""
    if isinstance(given, str):
        return named_activation(owner, given)
    if given is not None and not isinstance(given, nn.Cell | Primitive):
        raise TypeError(f"{owner}: activation must be a str, a Cell, a Primitive or None, got {type(given).__name__}")
    return given


def non_linearity_of(owner: str, name: Any) -> Any:
    """The cell for `non_linearity=`: one of the names. Raises TypeError."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise TypeError(f"{owner}: non_linearity must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return named_activation(owner, name)


def shard_activation(owner: str, activation: Any, strategy: Any) -> None:
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


def rows_of(activation: Any, dp: int) -> Any:
    """The strategy of an activation of (M, F) that is cut by rows; prelu has its slope beside."""
    return ((dp, 1), (1,)) if isinstance(activation, nn.PReLU) else ((dp, 1),)


def shard_base(cell: Any, matmul: Any, bias_add: Any) -> None:
    """Split the product with the base's weight and the addition of its bias."""
    cell.matmul.shard(matmul)
    if cell.has_bias:
        cell.bias_add.shard(bias_add)


class CastDense(nn.Dense):
    """act(x W^T + b), computed in `compute_dtype`.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: weight (out_channels, in_channels) and bias (out_channels,) of type `dtype`.
    Raises: TypeError, ValueError or KeyError for an argument of the wrong type, range or name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        weight_init: Any = "normal",
        bias_init: Any = "zeros",
        has_bias: bool = True,
        activation: Any = None,
        dtype: Any = ms.float32,
        compute_dtype: Any = ms.float32,
    ) -> None:
        owner = type(self).__name__
        for name, value in (("weight_init", weight_init), ("bias_init", bias_init)):
            if value is None:
                raise TypeError(f"{owner}: {name} must be a tensor, a name, an Initializer or a number, got None")
        float_dtype(owner, "param_init_type", dtype)
        super().__init__(in_channels, out_channels, weight_init, bias_init, has_bias, dtype=dtype)
        self.activation = activation_of(owner, activation)
        self.activation_flag = self.activation is not None
        self.compute_dtype = float_dtype(owner, "compute_dtype", compute_dtype)
        self.cast = ops.Cast()

    def plain(self, x: Any) -> Any:
        """(M, in_channels) -> (M, out_channels) in compute_dtype."""
        y = self.matmul(self.cast(x, self.compute_dtype), self.cast(self.weight, self.compute_dtype))
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.compute_dtype))
        return self.activation(y) if self.activation_flag else y

    def construct(self, x: Any) -> Any:
        shape = self.shape_op(x)
        y = self.plain(self.reshape(x, (-1, shape[-1])))
        return self.cast(self.reshape(y, (*shape[:-1], self.out_channels)), x.dtype)

    def shard(self, strategy_matmul: Any = None, strategy_bias: Any = None, strategy_activation: Any = None) -> None:
        """Strategies of the product, the addition and the activation. Raises ValueError, TypeError."""
        shard_base(self, strategy_matmul, strategy_bias)
        shard_activation(type(self).__name__, self.activation, strategy_activation)


def arguments_like(dense: Any) -> dict[str, Any]:
    """What a cell that stands for `dense` is built with; `adopt` then gives it the parameters."""
    return {
        "weight_init": "zeros",
        "bias_init": "zeros",
        "has_bias": dense.has_bias,
        "activation": dense.activation,
        "compute_dtype": dense.weight.dtype,
    }


def adopt(cell: Any, dense: Any) -> Any:
    """Give `cell` the parameters of the layer it stands for: the very same objects, so nothing is copied."""
    cell.weight = dense.weight
    if dense.has_bias:
        cell.bias = dense.bias
    cell.set_train(dense.training)
    return cell


def drawn(path: str, shape: tuple[int, ...], fan_in: int, seed: int) -> Array:
    """He-uniform with slope sqrt(5): U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from (seed, path) alone."""
    return draw_uniform(seed, path, shape, 1.0 / math.sqrt(fan_in))
