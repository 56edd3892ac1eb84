"""LoRA: a frozen linear layer plus a trained product of two thin matrices.

    y = act(x W^T + b + s * dropout(x) A^T B^T),  s = alpha / R  (rsLoRA: alpha / sqrt(R))

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1; Kalajdzievski, "A Rank
Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv 2312.03732, theorem 3.2 (rsLoRA).

The cell keeps MindPet's name, signature and parameter names. One deliberate difference: `compute_dtype` is float32 unless asked,
because half precision applied to the frozen base as well loses 5e-4 and overflows beyond 65504.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, initializer
from pydantic import Field, field_validator

from petrun.delta.base import Method, MethodConfig, Update
from petrun.delta.dense import (
    activation_of,
    adopt,
    arguments_like,
    drawn,
    float_dtype,
    of_shape,
    positive_int,
    rate,
    shard_activation,
    shard_base,
)
from petrun.errors import TargetError, did_you_mean
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets, swap
from petrun.kernels import Dropout
from petrun.tensors import Array

LORA_A = "mindpet_delta_lora_a"
LORA_B = "mindpet_delta_lora_b"


class LoraConfig(MethodConfig):
    """Settings of LoRA."""

    rank: int = Field(8, ge=1, description="rows of A: the rank of the update")
    alpha: float = Field(16.0, description="scale of the update; s = alpha / rank")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="on the input of A, while training")
    target: tuple[str, ...] | None = Field(
        None, description="roles, layer names, globs over full paths, or all-linear; default: the family's"
    )
    exclude: tuple[str, ...] = Field((), description="the same, taken away from target")
    variant: Literal["lora", "rslora"] = Field("lora", description="rslora scales by alpha / sqrt(rank)")
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="path -> rank, where it differs")
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="path -> alpha, where it differs")

    @field_validator("target", "exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(t.strip() for t in value.split(",") if t.strip()) if isinstance(value, str) else value

    @field_validator("alpha")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0 or not math.isfinite(value):
            raise ValueError("alpha must be a finite number other than 0")
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _positive(cls, value: dict[str, int]) -> dict[str, int]:
        wrong = [path for path, rank in value.items() if rank < 1]
        if wrong:
            raise ValueError(f"rank must be at least 1 for {', '.join(wrong)}")
        return value

    def site(self, path: str) -> tuple[int, float]:
        """(rank, scale) of the layer at `path`."""
        rank = self.rank_pattern.get(path, self.rank)
        alpha = self.alpha_pattern.get(path, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.variant == "rslora" else rank)


class LoRADense(nn.Dense):
    """nn.Dense with a low-rank update, MindPet's signature.

    Args:
        in_channels, out_channels: widths of the base layer.
        lora_rank: R, a positive int. lora_alpha: a number other than 0; the update is scaled by lora_alpha / lora_rank.
        lora_dropout: a float in [0, 1), on the input of A.
        lora_a_init, lora_b_init: initialisers or tensors of shape (R, in_channels) and (out_channels, R).
        param_init_type: dtype of A and B. compute_dtype: dtype of the whole layer's arithmetic.
        kwargs: weight_init, bias_init, has_bias, activation, dtype, as nn.Dense takes them.

    Inputs: x (..., in_channels), at least 2 axes, any float dtype. Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_lora_a (R, in_channels), mindpet_delta_lora_b (out_channels, R).
    Raises: TypeError or ValueError for an argument of the wrong type or range, KeyError for an unknown activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        lora_rank: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        lora_a_init: Any = HeUniform(negative_slope=math.sqrt(5)),  # noqa: B008 (MindPet's signature)
        lora_b_init: Any = "zeros",
        param_init_type: Any = ms.float32,
        compute_dtype: Any = ms.float32,
        **kwargs: Any,
    ) -> None:
        activation = activation_of("LoRADense", kwargs.pop("activation", None))
        super().__init__(in_channels, out_channels, **kwargs)
        self.activation = activation
        self.activation_flag = activation is not None
        positive_int("LoRADense", "lora_rank", lora_rank)
        _check_alpha(lora_alpha)
        rate("LoRADense", "lora_dropout", lora_dropout)
        of_shape("LoRADense", "lora_a_init", lora_a_init, (lora_rank, in_channels))
        of_shape("LoRADense", "lora_b_init", lora_b_init, (out_channels, lora_rank))
        float_dtype("LoRADense", "param_init_type", param_init_type)
        float_dtype("LoRADense", "compute_dtype", compute_dtype)
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.scaling = lora_alpha / lora_rank
        self.dtype = compute_dtype
        self.lora_dropout = Dropout(lora_dropout, 0, "lora")
        self.mindpet_delta_lora_a = Parameter(
            initializer(lora_a_init, [lora_rank, in_channels], param_init_type), name="mindpet_delta_lora_A"
        )
        self.mindpet_delta_lora_b = Parameter(
            initializer(lora_b_init, [out_channels, lora_rank], param_init_type), name="mindpet_delta_lora_B"
        )
        self.lora_a_matmul = ops.MatMul(transpose_b=True)
        self.lora_b_matmul = ops.MatMul(transpose_b=True)
        self.mul = ops.Mul()
        self.add = ops.Add()
        self.cast = ops.Cast()

    def construct(self, input_tensor: Any) -> Any:
        """(..., in_channels) -> (..., out_channels), dtype kept."""
        given = input_tensor.dtype
        shape = self.shape_op(input_tensor)
        if len(shape) < 2:
            raise ValueError("LoRADense: the input must have at least 2 axes")
        x = self.cast(self.reshape(input_tensor, (-1, shape[-1])), self.dtype)
        y = self.matmul(x, self.cast(self.weight, self.dtype))
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.dtype))
        z = self.lora_a_matmul(self.lora_dropout(x), self.cast(self.mindpet_delta_lora_a, self.dtype))
        z = self.lora_b_matmul(z, self.cast(self.mindpet_delta_lora_b, self.dtype))
        y = self.add(y, self.mul(z, self.cast(self.scaling, self.dtype)))
        if self.activation_flag:
            y = self.activation(y)
        return self.cast(self.reshape(y, (*shape[:-1], self.out_channels)), given)

    def shard(
        self,
        strategy_org_dense_matmul: Any = None,
        strategy_org_bias_add: Any = None,
        strategy_lora_dropout: Any = None,
        strategy_lora_a_matmul: Any = None,
        strategy_lora_b_matmul: Any = None,
        strategy_lora_mul: Any = None,
        strategy_lora_add: Any = None,
        strategy_activation: Any = None,
    ) -> None:
        """Set how each operator is split over devices, for semi-automatic parallel; ignored in other modes.

        Strategies are tuples with one tuple of splits per input. Raises ValueError for an activation that reduces over the split
        axis (LogSoftmax) or has no operator of its own.
        """
        shard_base(self, strategy_org_dense_matmul, strategy_org_bias_add)
        if strategy_lora_dropout is not None and len(strategy_lora_dropout) == 1:
            # MindPet's dropout has one input; here the mask is a second one, cut the same way.
            strategy_lora_dropout = strategy_lora_dropout * 2
        self.lora_dropout.dropout.shard(strategy_lora_dropout)
        self.lora_a_matmul.shard(strategy_lora_a_matmul)
        self.lora_b_matmul.shard(strategy_lora_b_matmul)
        self.mul.shard(strategy_lora_mul)
        self.add.shard(strategy_lora_add)
        shard_activation("LoRADense", self.activation, strategy_activation)


def _check_alpha(alpha: Any) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise TypeError(f"LoRADense: lora_alpha must be an int or a float, got {type(alpha).__name__}")
    if alpha == 0:
        raise ValueError("LoRADense: lora_alpha must not be 0")


def wrap_dense(dense: Any, path: str, config: LoraConfig, seed: int) -> Any:
    """A LoRADense around an existing nn.Dense: the base's parameters are kept as they are, A is drawn, B is zero."""
    rank, scale = config.site(path)
    cell = LoRADense(
        dense.in_channels,
        dense.out_channels,
        rank,
        scale * rank,
        float(config.dropout),
        lora_a_init=Tensor(drawn(path, (rank, dense.in_channels), dense.in_channels, seed)),
        **arguments_like(dense),
    )
    cell.scaling = scale
    cell.lora_dropout = Dropout(float(config.dropout), seed, path)
    return adopt(cell, dense)


def attach(net: Any, config: LoraConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all A and B. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    _check_patterns(config, paths)

    def builder(path: str) -> Any:
        return lambda dense: wrap_dense(dense, path, config, seed)

    return swap(net, {path: builder(path) for path in paths})


def _check_patterns(config: LoraConfig, paths: tuple[str, ...]) -> None:
    problems = [
        f"delta.{name}: {key} is none of the adapted layers. {did_you_mean(key, paths)}"
        for name in ("rank_pattern", "alpha_pattern")
        for key in getattr(config, name)
        if key not in paths
    ]
    if problems:
        raise TargetError(
            "\n".join(problems), hint="Its keys are whole paths of layers, as `petrun inspect` lists them."
        )


def fold(config: LoraConfig, tensors: Mapping[str, Array]) -> Update:
    """W <- W + s B A, in float32."""

    def update(name: str, value: Array) -> Array:
        path, _, leaf = name.rpartition(".")
        a = tensors.get(f"{path}.{LORA_A}")
        b = tensors.get(f"{path}.{LORA_B}")
        if leaf == "weight" and a is not None and b is not None:
            _, scale = config.site(path)
            product = b.astype(np.float32) @ a.astype(np.float32)
            merged: Array = value + np.float32(scale) * product
            return merged
        return value

    return update


METHOD = Method(name="lora", config=LoraConfig, default_lr=1e-3, attach=attach, fold=fold)
