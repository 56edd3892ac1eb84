"""PiSSA: LoRA that starts from the largest singular triples of W, and leaves W as it is.

    y = x W^T + b + s (d(x) A^T B^T - d(x) A_0^T B_0^T)
    W = U S V^T;   A_0 = sqrt(S_R / |s|) V_R^T;   B_0 = sign(s) U_R sqrt(S_R / |s|);   s B_0 A_0 = U_R S_R V_R^T

Source: Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", arXiv 2404.02948,
equations 2 to 4. There the base becomes W - s B_0 A_0; here A_0 and B_0 are kept beside A and B, so the same base serves any number of
deltas, and the delta alone says what was learned: s (B A - B_0 A_0), which is a plain LoRA of rank 2 R. Without dropout d the two
compute the same; with it, here only the change is dropped, there the principal part of W as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor

from petrun.delta.lora.dense import LoRADense
from petrun.graph.packed_weight import weight_values
from petrun.tensors import Array

LORA_A0 = "mindpet_delta_lora_a0"
LORA_B0 = "mindpet_delta_lora_b0"
# Up to this width the decomposition is LAPACK's; beyond, it takes minutes a layer, and subspace iteration seconds.
EXACT_WIDTH = 1024
_ITERATIONS = 16
_OVERSAMPLING = 16


class PissaDense(LoRADense):
    """LoRADense that subtracts the product of its initial matrices.

    Inputs and Returns: see LoRADense. Owns: also mindpet_delta_lora_a0 and _b0, of the shapes of A and B, which do not train.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        a, b = self.mindpet_delta_lora_a, self.mindpet_delta_lora_b
        self.mindpet_delta_lora_a0 = Parameter(Tensor(a.asnumpy()), name=LORA_A0, requires_grad=False)
        self.mindpet_delta_lora_b0 = Parameter(Tensor(b.asnumpy()), name=LORA_B0, requires_grad=False)

    def start(self) -> None:
        """A, A_0, B and B_0 <- the principal factors of W."""
        a, b = principal_factors(weight_values(self), self.lora_rank, self.scaling)
        self.mindpet_delta_lora_a.set_data(Tensor(a))
        self.mindpet_delta_lora_a0.set_data(Tensor(a))
        self.mindpet_delta_lora_b.set_data(Tensor(b))
        self.mindpet_delta_lora_b0.set_data(Tensor(b))

    def change(self, x: Tensor) -> Tensor:
        """x A^T B^T - x A_0^T B_0^T: exactly 0 at the start, because the products are taken alike."""
        z = self.lora_a_matmul(self.cast(x, self.dtype), self.cast(self.mindpet_delta_lora_a0, self.dtype))
        return self.product(x) - self.lora_b_matmul(z, self.cast(self.mindpet_delta_lora_b0, self.dtype))


def principal_factors(weight: Array, rank: int, scale: float) -> tuple[Array, Array]:
    """W (out, in) -> A (R, in), B (out, R) float32 with scale * B A = the part of W in its R largest singular triples.

    The entry of A's row with the largest magnitude is positive: a decomposition leaves the signs open.
    """
    left, values, right = largest_triples(weight.astype(np.float32), rank)
    peaks = np.take_along_axis(right, np.abs(right).argmax(1)[:, None], 1)[:, 0]
    signs = np.where(peaks < 0, -1.0, 1.0)
    root = np.sqrt(values / abs(scale))
    a = (signs * root)[:, None] * right
    b = left * (signs * root * np.sign(scale))
    return np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)


def largest_triples(weight: Array, rank: int) -> tuple[Array, Array, Array]:
    """U (out, R), S (R,), V^T (R, in). Wide matrices: Halko et al., arXiv 0909.4061, algorithm 4.4, from fixed numbers."""
    short = min(weight.shape)
    if short > EXACT_WIDTH and 2 * (rank + _OVERSAMPLING) < short:
        start = np.random.default_rng(0).standard_normal((weight.shape[1], rank + _OVERSAMPLING))
        basis = np.linalg.qr(weight @ start.astype(np.float32))[0]
        for _ in range(_ITERATIONS):
            basis = np.linalg.qr(weight @ np.linalg.qr(weight.T @ basis)[0])[0]
        left, values, right = np.linalg.svd(basis.T @ weight, full_matrices=False)
        left = basis @ left
    else:
        left, values, right = np.linalg.svd(weight, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank]
