"""The cell of AdaLoRA: an nn.Dense with an update in the form of a singular value decomposition."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from petrun.delta.dense import CastDense
from petrun.delta.parts import draw_normal
from petrun.kernels import Dropout

ADALORA_A = "mindpet_delta_adalora_a"
ADALORA_B = "mindpet_delta_adalora_b"
ADALORA_E = "mindpet_delta_adalora_e"
ADALORA_KEEP = "mindpet_delta_adalora_keep"
_SPREAD = 0.02


class AdaLoraDense(CastDense):
    """act(x W^T + b + s * ((dropout(x) A^T) * e * keep) B^T).

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_adalora_a (R, in_channels) and _b (out_channels, R), Normal(0.02) at first; _e (R,), 0 at first; _keep (R,), 1
    for the triplets in use and 0 for pruned ones, not trained. All float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rank: int,
        scale: float,
        dropout: float,
        seed: int,
        path: str,
        **base: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **base)
        a = draw_normal(seed, f"{path}.a", (rank, in_channels), _SPREAD)
        b = draw_normal(seed, f"{path}.b", (out_channels, rank), _SPREAD)
        self.mindpet_delta_adalora_a = Parameter(Tensor(a), name=ADALORA_A)
        self.mindpet_delta_adalora_e = Parameter(Tensor(np.zeros(rank, np.float32)), name=ADALORA_E)
        self.mindpet_delta_adalora_b = Parameter(Tensor(b), name=ADALORA_B)
        keep = Tensor(np.ones(rank, np.float32))
        self.mindpet_delta_adalora_keep = Parameter(keep, name=ADALORA_KEEP, requires_grad=False)
        self.scale = Tensor(scale, ms.float32)
        self.adalora_dropout = Dropout(dropout, seed, path)
        self.a_matmul = ops.MatMul(transpose_b=True)
        self.b_matmul = ops.MatMul(transpose_b=True)

    def plain(self, x: Tensor) -> Tensor:
        """Compute (M, in_channels) -> (M, out_channels) in compute_dtype: the base, its update and the activation."""
        kind = self.compute_dtype
        x = self.cast(x, kind)
        y = self.base_product(x)
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, kind))
        values = self.mindpet_delta_adalora_e * self.mindpet_delta_adalora_keep * self.scale
        z = self.a_matmul(self.cast(self.adalora_dropout(x), kind), self.cast(self.mindpet_delta_adalora_a, kind))
        y = y + self.b_matmul(z * self.cast(values, kind), self.cast(self.mindpet_delta_adalora_b, kind))
        return self.activation(y) if self.activation_flag else y
