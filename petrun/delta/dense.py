"""Shared parts of MindPet's dense cells: argument checks, the base layer, and taking over an existing layer.

Every operator can be split over devices, with a strategy of one tuple of splits per input as `mindspore.ops.Primitive.shard` takes it.
Those of an activation by name are its cell's attributes: see petrun.kernels.named_activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Initializer
from pydantic import Field, field_validator

from petrun.delta.method import MethodConfig
from petrun.delta.parts import draw_uniform
from petrun.errors import TargetError
from petrun.graph.packed_weight import PackedWeight, compute_dtype_of, hold, packed_of
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets, swap
from petrun.kernels.named_activations import activation_of, shard_activation
from petrun.tensors import Array
from petrun.typing import Cell, DType, JsonObject

Strategy: TypeAlias = "tuple[tuple[int, ...], ...] | None"
"""Splits an operator over devices, as `Primitive.shard` takes it: for each input, the number of parts of each axis."""
Initial: TypeAlias = "Tensor | Initializer | str | float"
"""Sets a parameter's first values: values, an initializer, its name, or one number."""
Activation: TypeAlias = "Cell | type[Cell] | str | None"
DTYPES = (ms.float16, ms.float32, ms.bfloat16)


def split_names(value: object) -> object:
    """Split `a, b` into (a, b), for a field that takes a list or one text with commas; other values are returned unchanged."""
    return tuple(t.strip() for t in value.split(",") if t.strip()) if isinstance(value, str) else value


class TargetConfig(MethodConfig):
    """Settings that name the layers of a method."""

    target: tuple[str, ...] | None = Field(
        None, description="roles, layer names, globs over full paths, or all-linear; default: the family's"
    )
    exclude: tuple[str, ...] = Field((), description="the same, taken away from target")

    _split = field_validator("target", "exclude", mode="before")(split_names)


def two_networks(config: TargetConfig) -> str:
    """Return why adapters do not add up."""
    return "which is a small network with an activation in every layer: two of them do not add up to one"


def sublayer_paths(net: Cell, config: TargetConfig, sites: Sites) -> tuple[str, ...]:
    """Return the paths of the nn.Dense cells that adapters follow: the targets, or the ends of the model's sub-layers. Raises
    TargetError.
    """
    targets = sites.sublayers if config.target is None else config.target
    if not targets:
        raise TargetError(
            "the model does not say where its sub-layers end, where adapters go by default",
            hint="Name the layers with --target, or let the factory return Sites(sublayers=...).",
        )
    return resolve_targets(net, sites, targets, config.exclude)


def positive_int(owner: str, name: str, value: object) -> int:
    """Return the value. Raises TypeError where it is not an int, ValueError where it is not positive."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{owner}: {name} must be positive, got {value}")
    return value


def rate(owner: str, name: str, value: object) -> float:
    """Return the value. Raises TypeError where it is not a float, ValueError outside [0, 1)."""
    if not isinstance(value, float):
        raise TypeError(f"{owner}: {name} must be a float, got {type(value).__name__}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{owner}: {name} must lie in [0, 1), got {value}")
    return value


def float_dtype(owner: str, name: str, value: DType) -> DType:
    """Return the value. Raises TypeError where it is not one of the three types that a layer computes in."""
    if value not in DTYPES:
        raise TypeError(f"{owner}: {name} must be float16, float32 or bfloat16, got {value}")
    return value


def of_shape(owner: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    """Raises ValueError where an initial value is a tensor of another shape."""
    if isinstance(value, Tensor) and tuple(value.shape) != shape:
        raise ValueError(f"{owner}: {name} must have shape {shape}, got {tuple(value.shape)}")


def residual_strategy(owner: str, residual: Strategy, residential: Strategy) -> Strategy:
    """Return the strategy of a residual connection by either name: MindPet's manual spells strategy_residential_add. Raises ValueError."""
    if residual is not None and residential is not None:
        raise ValueError(f"{owner}: strategy_residual_add and strategy_residential_add are the same: give one of them")
    return residential if residual is None else residual


def shard_base(cell: Cell, matmul: Strategy, bias_add: Strategy) -> None:
    """Split the product with the base's weight and the addition of its bias."""
    packed = packed_of(cell)
    if packed is not None:
        packed.shard(matmul)
    else:
        cell.matmul.shard(matmul)
    if cell.has_bias:
        cell.bias_add.shard(bias_add)


class BaseDense(nn.Dense):
    """nn.Dense whose product with the base's matrix is a method, a weight or codes. It needs `cast` and `compute_dtype`."""

    def base_product(self, x: Tensor) -> Tensor:
        """Compute x W^T in compute_dtype."""
        return self.matmul(self.cast(x, self.compute_dtype), self.cast(self.weight, self.compute_dtype))

    def packed_product(self, x: Tensor) -> Tensor:
        """Do the same with a matrix in codes."""
        return self.packed(self.cast(x, self.compute_dtype))

    def use_packed(self, packed: PackedWeight) -> None:
        """Hold a matrix in codes from now on."""
        hold(self, packed)
        # Chosen here and not in the graph, which would hold both.
        self.base_product = self.packed_product  # type: ignore[method-assign]


class CastDense(BaseDense):
    """act(x W^T + b), computed in `compute_dtype`.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: weight (out_channels, in_channels) and bias (out_channels,) of type `dtype`.
    Raises: TypeError, ValueError or KeyError for an argument of the wrong type, range or name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        weight_init: Initial = "normal",
        bias_init: Initial = "zeros",
        has_bias: bool = True,
        activation: Activation = None,
        dtype: DType = ms.float32,
        compute_dtype: DType = ms.float32,
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

    def plain(self, x: Tensor) -> Tensor:
        """Compute (M, in_channels) -> (M, out_channels) in compute_dtype."""
        y = self.base_product(x)
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.compute_dtype))
        return self.activation(y) if self.activation_flag else y

    def construct(self, x: Tensor) -> Tensor:
        shape = self.shape_op(x)
        y = self.plain(self.reshape(x, (-1, shape[-1])))
        return self.cast(self.reshape(y, (*shape[:-1], self.out_channels)), x.dtype)

    def shard(
        self,
        strategy_matmul: Strategy = None,
        strategy_bias: Strategy = None,
        strategy_activation: Strategy = None,
    ) -> Cell | None:
        """Set strategies of the product, the addition and the activation. Some cells return themselves. Raises ValueError, TypeError."""
        shard_base(self, strategy_matmul, strategy_bias)
        shard_activation(type(self).__name__, self.activation, strategy_activation)
        return None


class AddedDense(CastDense):
    """act(x W^T + b + change(x)): what a method adds beside a layer is its `change`, (M, in_channels) -> (M, out_channels).

    Inputs and Returns: see CastDense. `change` takes and gives compute_dtype.
    """

    def __init__(self, in_channels: int, out_channels: int, **base: Any) -> None:
        super().__init__(in_channels, out_channels, **base)
        self.add = ops.Add()

    def change(self, x: Tensor) -> Tensor:
        """Compute (M, in_channels) -> (M, out_channels), what is added before the activation."""
        raise NotImplementedError

    def plain(self, x: Tensor) -> Tensor:
        """Compute (M, in_channels) -> (M, out_channels) in compute_dtype: the base, what is added and the activation."""
        x = self.cast(x, self.compute_dtype)
        y = self.base_product(x)
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.compute_dtype))
        y = self.add(y, self.change(x))
        return self.activation(y) if self.activation_flag else y

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: outputs over tp ranks; `row`: inputs, whose sum every rank has."""
        outer, inner = (tp if how == "column" else 1), (tp if how == "row" else 1)
        shard_base(self, ((dp, inner), (outer, inner)), ((dp, outer), (outer,)))
        self.add.shard(((dp, outer), (dp, outer)))
        shard_activation(type(self).__name__, self.activation, ((dp, outer),))


def arguments_like(dense: Cell) -> JsonObject:
    """Return the arguments of a cell that replaces `dense`; `adopt` then gives it the parameters."""
    return {
        "weight_init": "zeros",
        "bias_init": "zeros",
        "has_bias": dense.has_bias,
        "activation": dense.activation,
        "compute_dtype": compute_dtype_of(dense),
    }


def adopt(cell: Cell, dense: Cell) -> Cell:
    """Give `cell` the parameters of the layer that it replaces: the same objects, so nothing is copied."""
    packed = packed_of(dense)
    if packed is None:
        cell.weight = dense.weight
    else:
        cell.use_packed(packed)
    if dense.has_bias:
        cell.bias = dense.bias
    cell.set_train(dense.training)
    return cell


def adapt(net: Cell, paths: Iterable[str], make: Callable[[Cell, str], Cell]) -> tuple[str, ...]:
    """Swap every layer for make(layer, path), which takes over the layer's parameters. Returns the names of the parameters that it adds."""

    def builder(path: str) -> Callable[[Cell], Cell]:
        return lambda dense: adopt(make(dense, path), dense)

    return swap(net, {path: builder(path) for path in paths})


def drawn(path: str, shape: tuple[int, ...], fan_in: int, seed: int) -> Array:
    """Draw He-uniform values with slope sqrt(5): U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from (seed, path) alone."""
    return draw_uniform(seed, path, shape, 1.0 / math.sqrt(fan_in))
