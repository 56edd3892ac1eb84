"""Products with one matrix of a stack for each row, as the experts of a mixture compute them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, ops

from petrun.kernels import fused, native
from petrun.typing import Primitive


@lru_cache
def grouped_product(library: Path) -> Primitive:
    """x (R, K), w (E, N, K), chosen (M,) int32 -> (M, N), as GroupedProduct."""
    grad = fused.operator(library, "grouped_product_grad", lambda dy, w, chosen, x: x, _of_rows)
    weight_grad = fused.operator(library, "grouped_weight_grad", lambda dy, x, chosen, w: w, _of_rows)

    def bprop(x: Tensor, w: Tensor, chosen: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return grad(dout, w, chosen, x), weight_grad(dout, x, chosen, w), ops.zeros_like(chosen)

    return fused.operator(library, "grouped_product", lambda x, w, chosen: (chosen[0], w[1]), _of_rows, bprop)


def _of_rows(rows: Tensor, *rest: Tensor) -> Tensor:
    """The type of a result is that of the first input."""
    return rows


class GroupedProduct(fused.FusedCell):
    """x_m w[chosen_m]^T: on the CPU a C++ operator brings the rows of a matrix together. Where `is_fused` is False, `every` and
    `each` multiply by all matrices instead, in static shapes.

    Inputs: x (R, K); w (E, N, K); chosen (M,) int32, M a multiple of R: M / R rows following one another read the same row of x.
    Returns: (M, N) in the dtype of x.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(grouped_product, library)
        self.matmul = ops.MatMul(transpose_b=True)
        self.batched = ops.BatchMatMul(transpose_b=True)

    def shard(self, of_rows: tuple[tuple[int, ...], ...], of_stack: tuple[tuple[int, ...], ...]) -> None:
        """Split the products of `every` and `each` over devices."""
        self.is_fused = False
        self.matmul.shard(of_rows)
        self.batched.shard(of_stack)

    def construct(self, x: Tensor, w: Tensor, chosen: Tensor) -> Tensor:
        y = self.fused(ops.cast(x, ms.float32), ops.cast(w, ms.float32), chosen)
        return ops.cast(y, x.dtype)

    def every(self, x: Tensor, w: Tensor) -> Tensor:
        """Multiply each row by all matrices: x (R, K) -> (R, E * N)."""
        return self.matmul(x, ops.reshape(ops.cast(w, x.dtype), (-1, w.shape[2])))

    def each(self, x: Tensor, w: Tensor) -> Tensor:
        """Multiply a stack by a stack: x (E, R, K) -> (E, R, N)."""
        return self.batched(x, ops.cast(w, x.dtype))
