"""DoRA: the magnitude of every output trains apart from its direction.

    y = m / ||W + s B A|| * (x W^T + s x A^T B^T) + b       ||.||: the norm of each row, (out,)

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353, equation 5 (its columns are rows here, where W is
(out, in)); the norm is a constant in the gradient, section 4.3. m starts as ||W||, so that the net starts as the base.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from petrun.delta.lora.dense import LoRADense
from petrun.errors import ConfigError
from petrun.graph.packed_weight import PackedWeight
from petrun.tensors import Array

LORA_M = "mindpet_delta_lora_m"
# A row of zeros has no direction: its quotient stays finite, and the row stays zero.
_SMALLEST = 1e-15


class DoraDense(LoRADense):
    """LoRADense with a magnitude for every output.

    The norm is taken without building the (out, in) matrix W + s B A:

        ||W + s B A||^2 = ||W||^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>,  <., .> row by row

    While a dropout is on, the base's product is taken twice, as peft does it: y = x W^T + b + (m / ||.|| - 1) d(x) W^T
    + m / ||.|| s d(x) A^T B^T, with d(x) the input after the dropout.

    Inputs and Returns: see LoRADense. Owns: also mindpet_delta_lora_m (out_channels,) float32.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        self.mindpet_delta_lora_m = Parameter(Tensor(np.ones(out_channels, np.float32)), name=LORA_M)
        self.row_products = ops.BatchMatMul(transpose_b=True)
        # Not the forward pass's own operators: those may be split over devices for other shapes.
        self.transposed_matmul = ops.MatMul(transpose_b=True)
        self.plain_matmul = ops.MatMul()
        self.sum, self.times = ops.ReduceSum(), ops.Mul()
        self.of_rows, self.onto_rows = ops.Div(), ops.Mul()

    def base_matrix(self) -> Tensor:
        """Return W, float32."""
        return self.cast(self.weight, ms.float32)

    def packed_matrix(self) -> Tensor:
        """Return W, float32, made of its codes."""
        return self.packed.matrix()

    def use_packed(self, packed: PackedWeight) -> None:
        """Hold a matrix in codes from now on."""
        super().use_packed(packed)
        self.base_matrix = self.packed_matrix  # type: ignore[method-assign]

    def start(self) -> None:
        """m <- ||W + s B A||, by the operators of the forward pass, so that their quotient is exactly 1."""
        self.mindpet_delta_lora_m.set_data(self.row_norms())

    def row_norms(self) -> Tensor:
        """() -> ||W + s B A||, (out_channels,) float32."""
        w = self.base_matrix()
        a = self.cast(self.mindpet_delta_lora_a, ms.float32)
        b = self.cast(self.mindpet_delta_lora_b, ms.float32)
        rows = ops.reshape(w, (self.out_channels, 1, self.in_channels))
        own = ops.reshape(self.row_products(rows, rows), (self.out_channels,))
        mixed = self.sum(self.times(self.transposed_matmul(w, a), b), 1)
        added = self.sum(self.times(self.plain_matmul(b, self.transposed_matmul(a, a)), b), 1)
        squares = own + (2.0 * self.scaling) * mixed + (self.scaling * self.scaling) * added
        # Rounding may leave less than nothing where the update takes a whole row away.
        return ops.sqrt(ops.maximum(squares, own * 1e-7)) + _SMALLEST

    def update(self, x: Tensor) -> Tensor:
        """s x A^T B^T, of an input that went through the dropout."""
        return self.mul(self.product(x), self.cast(self.scaling, self.dtype))

    def adapted(self, x: Tensor) -> Tensor:
        """(M, in_channels) -> (M, out_channels), before the activation."""
        x = self.cast(x, self.dtype)
        norms = ops.stop_gradient(self.row_norms())
        ratio = self.cast(self.of_rows(self.mindpet_delta_lora_m, norms), self.dtype)
        y = self.base_product(x)
        if self.training and self.lora_dropout.p > 0.0:
            dropped = self.cast(self.lora_dropout(x), self.dtype)
            y = self.add(y, self.base_product(dropped) * (ratio - 1.0) + self.update(dropped) * ratio)
        else:
            y = self.onto_rows(self.add(y, self.update(x)), ratio)
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.dtype))
        return y

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Whole on each rank. Raises ConfigError for what tp cuts: the magnitudes need the norms of whole rows."""
        if tp > 1 and how in ("column", "row"):
            raise ConfigError(
                "--parallel tp: the magnitudes of dora need norms of whole rows of W + s B A at each step, which no rank holds",
                hint="Use another delta.variant, or dp, pp and zero.",
            )
        super().set_layout(how, dp, tp)
        # The base's matrix, A and B are whole in the forward pass, so they must be here: a parameter has one layout.
        whole = ((1, 1), (1, 1))
        for operator in (self.transposed_matmul, self.plain_matmul, self.times):
            operator.shard(whole)
        self.row_products.shard(((1, 1, 1), (1, 1, 1)))
        self.sum.shard(((1, 1),))
        self.of_rows.shard(((1,), (1,)))
        self.onto_rows.shard(((dp, 1), (1,)))


def rescaled(merged: Array, magnitude: Array) -> Array:
    """m / ||W|| W for a (out, in) matrix, float32."""
    norms = np.linalg.norm(merged, axis=1) + np.float32(_SMALLEST)
    result: Array = (magnitude.astype(np.float32) / norms)[:, None] * merged
    return result
