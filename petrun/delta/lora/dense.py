"""The cell of LoRA: an nn.Dense with a low-rank update beside it.

    y = act(x W^T + b + s * dropout(x) A^T B^T),  s = alpha / R

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.

The cell keeps MindPet's name, signature and parameter names. One deliberate difference: `compute_dtype` is float32 unless asked,
because half precision applied to the frozen base as well loses 5e-4 and overflows beyond 65504.

What a cell has besides, a bias or an activation, is chosen as a method when the cell is made: MindSpore makes two graphs of each branch in
the code and one of each method, and a model has hundreds of these cells to compile.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore.common.initializer import HeUniform, initializer

from petrun.delta.dense import (
    BaseDense,
    Initial,
    Strategy,
    float_dtype,
    of_shape,
    positive_int,
    rate,
    shard_base,
)
from petrun.graph.packed_weight import PackedWeight
from petrun.kernels import Dropout
from petrun.kernels.named_activations import activation_of, shard_activation
from petrun.typing import DType

LORA_A = "mindpet_delta_lora_a"
LORA_B = "mindpet_delta_lora_b"
LORA_BIAS = "mindpet_delta_lora_bias"


class LoRADense(BaseDense):
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

    splits_tokens = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        lora_rank: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        lora_a_init: Initial = HeUniform(negative_slope=math.sqrt(5)),  # noqa: B008 (MindPet's signature)
        lora_b_init: Initial = "zeros",
        param_init_type: DType = ms.float32,
        compute_dtype: DType = ms.float32,
        **kwargs: object,
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
        self.dtype = self.compute_dtype = compute_dtype
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
        self.base = self.base_with_bias if self.has_bias else self.base_product
        self.result = self.activated if self.activation_flag else self.adapted

    def use_packed(self, packed: PackedWeight) -> None:
        """Hold a matrix in codes from now on."""
        super().use_packed(packed)
        if not self.has_bias:
            self.base = self.base_product

    def start(self) -> None:
        """Set initial values that follow from the base's weight, once the cell has it."""

    def construct(self, input_tensor: Tensor) -> Tensor:
        """(..., in_channels) -> (..., out_channels), dtype kept."""
        outer = _outer_axes_in_graph(self.shape_op(input_tensor))
        y = self.result(self.cast(self.reshape(input_tensor, (-1, self.in_channels)), self.dtype))
        return self.cast(self.reshape(y, (*outer, self.out_channels)), input_tensor.dtype)

    def activated(self, x: Tensor) -> Tensor:
        """(M, in_channels) -> (M, out_channels), with the activation."""
        return self.activation(self.adapted(x))

    def adapted(self, x: Tensor) -> Tensor:
        """(M, in_channels) -> (M, out_channels): the base and its update, before the activation."""
        # After `to_float` MindSpore casts what every method is given, not only the cell's own inputs.
        x = self.cast(x, self.dtype)
        return self.add(self.base(x), self.mul(self.change(self.lora_dropout(x)), self.cast(self.scaling, self.dtype)))

    def base_with_bias(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        return self.bias_add(self.base_product(x), self.cast(self.bias, self.dtype))

    def product(self, x: Tensor) -> Tensor:
        """x A^T B^T, of an input that went through the dropout."""
        z = self.lora_a_matmul(self.cast(x, self.dtype), self.cast(self.mindpet_delta_lora_a, self.dtype))
        return self.lora_b_matmul(z, self.cast(self.mindpet_delta_lora_b, self.dtype))

    change = product
    """What is added to the base, over s."""

    def shard(
        self,
        strategy_org_dense_matmul: Strategy = None,
        strategy_org_bias_add: Strategy = None,
        strategy_lora_dropout: Strategy = None,
        strategy_lora_a_matmul: Strategy = None,
        strategy_lora_b_matmul: Strategy = None,
        strategy_lora_mul: Strategy = None,
        strategy_lora_add: Strategy = None,
        strategy_activation: Strategy = None,
    ) -> None:
        """Set how each operator is split over devices, for semi-automatic parallel; ignored in other modes.

        Strategies are tuples with one tuple of splits per input. Raises ValueError for an activation that reduces over the split
        axis (LogSoftmax) or has no operator of its own.
        """
        shard_base(self, strategy_org_dense_matmul, strategy_org_bias_add)
        self.lora_dropout.dropout.shard(strategy_lora_dropout)
        self.lora_a_matmul.shard(strategy_lora_a_matmul)
        self.lora_b_matmul.shard(strategy_lora_b_matmul)
        self.mul.shard(strategy_lora_mul)
        self.add.shard(strategy_lora_add)
        shard_activation("LoRADense", self.activation, strategy_activation)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: outputs over tp ranks, so B is cut as the base's rows are; `row`: inputs, so A is cut as its columns are;
        `scattered`: the same, and rows of both products over all ranks."""
        outer, inner = (tp if how == "column" else 1), (tp if how in ("row", "scattered") else 1)
        rows = dp * tp if how == "scattered" else dp
        self.shard(
            strategy_org_dense_matmul=((dp, inner), (outer, inner)),
            strategy_org_bias_add=((rows, outer), (outer,)),
            strategy_lora_dropout=((dp, inner),),
            strategy_lora_a_matmul=((dp, inner), (1, inner)),
            strategy_lora_b_matmul=((rows, 1), (outer, 1)),
            strategy_lora_mul=((rows, outer), ()),
            strategy_lora_add=((rows, outer), (rows, outer)),
            strategy_activation=((rows, outer),),
        )
        self.lora_dropout.set_layout("row" if how == "scattered" else how, dp, tp)
        if how == "scattered":
            for matmul in (self.matmul, self.lora_a_matmul):
                matmul.shard(((dp, tp), (1, tp)), ((rows, 1),))


class BiasedLoraDense(LoRADense):
    """LoRADense whose B has a bias c, zero at first: y = act(x W^T + b + s (dropout(x) A^T B^T + c)).

    Inputs and Returns: see LoRADense. Owns: also mindpet_delta_lora_bias (out_channels,) float32.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        self.mindpet_delta_lora_bias = Parameter(Tensor(np.zeros(out_channels, np.float32)), name=LORA_BIAS)
        self.lora_bias_add = ops.BiasAdd()

    def change(self, x: Tensor) -> Tensor:
        """x A^T B^T + c."""
        return self.lora_bias_add(self.product(x), self.cast(self.mindpet_delta_lora_bias, self.dtype))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """See LoRADense; the bias is cut as the outputs are."""
        super().set_layout(how, dp, tp)
        rows, outer = (dp * tp if how == "scattered" else dp), (tp if how == "column" else 1)
        self.lora_bias_add.shard(((rows, outer), (outer,)))


def _outer_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All axes but the last. Raises ValueError where there is no other."""
    if len(shape) < 2:
        raise ValueError("LoRADense: the input must have at least 2 axes")
    return shape[:-1]


_outer_axes_in_graph = ops.constexpr(_outer_axes)


def _check_alpha(alpha: object) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise TypeError(f"LoRADense: lora_alpha must be an int or a float, got {type(alpha).__name__}")
    if alpha == 0:
        raise ValueError("LoRADense: lora_alpha must not be 0")
