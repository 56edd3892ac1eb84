"""Products with a frozen matrix in codes of 8 or 4 bits, w = (v(q) - zero) * scale * unit: see petrun.tensors.quantised.packed."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.kernels import fused, native
from petrun.typing import Cell


class PackedProduct(fused.FusedCell):
    """x w^T. On the CPU a C++ operator makes a tile of w at a time, for the product and for the gradient of x; else w is made of
    primitives.

    Inputs: x (M, K) float; codes int8 or uint8, (N * K,) or with two codes of 4 bits in a byte (ceil(N * K / 2),); table float32 (16,),
    (256,) or, of int8 codes, (1,); scales float32 (S,), of `block` values each; zeros float32 (S,) or one 0.
    Returns: (M, N) in the dtype of x.
    """

    def __init__(self, shape: tuple[int, int], block: int, unit: float, bits: int) -> None:
        super().__init__()
        rows, width = shape
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.packed_product, library, rows, width)
        self.values = PackedValues(shape, block, unit, bits)
        self.sizes, self.unit = self.values.sizes, self.values.unit
        self.matmul, self.made = ops.MatMul(transpose_b=True), _Made(self.values)
        self.product = _Product(self.values)
        self.is_split = False

    def shard(self, strategy: tuple[tuple[int, ...], ...] | None, results: tuple[tuple[int, ...], ...] | None) -> None:
        """Split the product over devices, as that of x (M, K) and w (N, K) is."""
        self.is_fused, self.is_split = False, True
        self.matmul.shard(strategy, results)

    def construct(self, x: Tensor, codes: Tensor, table: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if self.is_fused:
            y = self.fused(ops.cast(x, ms.float32), codes, table, scales, zeros, self.sizes, self.unit)
            return ops.cast(y, x.dtype)
        if self.is_split:
            return self.matmul(x, self.made(x, codes, table, scales, zeros))
        return self.product(x, codes, table, scales, zeros)


class _Made(nn.Cell):
    """w in the dtype of x, made when x is there: MindSpore computes what depends on parameters alone before all else, w of every layer at
    once."""

    def __init__(self, values: Cell) -> None:
        super().__init__()
        self.values, self.depend = values, ops.Depend()

    def construct(self, x: Tensor, codes: Tensor, table: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return ops.cast(self.values(self.depend(codes, x), table, scales, zeros), x.dtype)


class _Product(nn.Cell):
    """x w^T of primitives, with a gradient of its own: MindSpore's would keep w of every layer until the backward pass."""

    def __init__(self, values: Cell) -> None:
        super().__init__()
        self.made = _Made(values)
        self.matmul, self.grad_matmul = ops.MatMul(transpose_b=True), ops.MatMul()

    def construct(self, x: Tensor, codes: Tensor, table: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return self.matmul(x, self.made(x, codes, table, scales, zeros))

    def bprop(
        self, x: Tensor, codes: Tensor, table: Tensor, scales: Tensor, zeros: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the gradient of x; of the codes there is none."""
        dx = self.grad_matmul(dout, self.made(dout, codes, table, scales, zeros))
        return dx, ops.zeros_like(codes), ops.zeros_like(table), ops.zeros_like(scales), ops.zeros_like(zeros)


class PackedValues(fused.FusedCell):
    """w. Inputs: as those of PackedProduct but x. Returns: (N, K) float32."""

    def __init__(self, shape: tuple[int, int], block: int, unit: float, bits: int) -> None:
        super().__init__()
        self.rows, self.width = shape
        self.block, self.bits = block, bits
        self.in_rows = self.width % block == 0
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.packed_values, library, self.rows, self.width)
        self.sizes = Tensor(np.array([self.rows, self.width, block], np.int32))
        self.unit = Tensor(np.array([unit], np.float32))
        self.factor = unit
        self.look_up = ops.Gather()

    def construct(self, codes: Tensor, table: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if self.is_fused:
            return self.fused(self.unit, codes, table, scales, zeros, self.sizes, self.unit)
        values = self.of_codes(codes, table)
        if self.in_rows:
            values = ops.reshape(values, (-1, self.block))
            values = (values - ops.reshape(zeros, (-1, 1))) * ops.reshape(scales, (-1, 1))
        else:
            # Blocks cross rows, and the last one may be shorter.
            full = ops.reshape(ops.tile(ops.reshape(scales, (-1, 1)), (1, self.block)), (-1,))
            values = values * full[: self.rows * self.width]
        return ops.reshape(values * self.factor, (self.rows, self.width))

    def of_codes(self, codes: Tensor, table: Tensor) -> Tensor:
        """Return the codes' values in order, (N * K,) float32."""
        whole = ops.cast(codes, ms.int32)
        if self.bits == 4:
            halves = ops.stack((whole // 16, whole % 16), 1)
            return ops.reshape(self.look_up(table, halves, 0), (-1,))[: self.rows * self.width]
        return ops.cast(whole, ms.float32) if table.shape[0] == 1 else self.look_up(table, whole, 0)


class NestedScales(fused.FusedCell):
    """Scales that are quantised themselves: table[codes] * absmax of their block + offset.

    Inputs: codes (S,) uint8; absmax (ceil(S / block),) and offset (1,) float32. Returns: (S,) float32.
    """

    def __init__(self, table: np.ndarray[tuple[int, ...], np.dtype[np.float32]], block: int) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.nested_scales, library)
        self.table, self.size = Tensor(table), block
        self.block = Tensor(np.array([block], np.int32))
        self.look_up = ops.Gather()

    def construct(self, codes: Tensor, absmax: Tensor, offset: Tensor) -> Tensor:
        if self.is_fused:
            return self.fused(self.table, codes, absmax, offset, self.block)
        shared = ops.reshape(ops.tile(ops.reshape(absmax, (-1, 1)), (1, self.size)), (-1,))[: codes.shape[0]]
        return self.look_up(self.table, ops.cast(codes, ms.int32), 0) * shared + offset
