"""Heads in and out: (B, T, N * D) <-> (B, N, T, D)."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from petrun.kernels import fused, native
from petrun.typing import Tensor


class SplitHeads(fused.FusedCell):
    """The N heads of a projection, side by side in its last axis, become an axis of their own.

    MindSpore's Transpose on the CPU keeps a buffer twice the size of its output for every place it is called from, as
    long as the graph lives; the fused operator keeps none.
    Inputs: x (B, T, N * D), any float dtype. Returns: (B, N, T, D). `width` is D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.split_heads, library, width)
        self.transpose = ops.Transpose()

    def construct(self, x: Tensor) -> Tensor:
        b, t, h = x.shape
        if self.is_fused and x.dtype == ms.float32:
            return ops.reshape(x, (b, h // self.width, 1, self.width)) if t == 1 else self.fused(x)
        return self.transpose(ops.reshape(x, (b, t, h // self.width, self.width)), (0, 2, 1, 3))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        self.transpose.shard(((dp, 1, tp, 1),))


class SplitQkv(fused.FusedCell):
    """Splits one projection that holds queries, keys and values, in that order.

    Inputs: x (B, T, 3 * N * D), any float dtype. Returns: q, k, v, each (B, N, T, D). `width` is D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.split_qkv, library, width)
        self.transpose, self.pick, self.is_sharded = ops.Transpose(), ops.StridedSlice(), False

    def one(self, x: Tensor, which: int) -> Tensor:
        b, t, h = x.shape
        wide = h // 3
        own = self.pick(x, (0, 0, which * wide), (b, t, (which + 1) * wide), (1, 1, 1))
        return self.transpose(ops.reshape(own, (b, t, wide // self.width, self.width)), (0, 2, 1, 3))

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.is_fused and x.dtype == ms.float32:
            return self.fused(x)
        if self.is_sharded:
            return self.one(x, 0), self.one(x, 1), self.one(x, 2)
        b, t, h = x.shape
        qkv = ops.transpose(ops.reshape(x, (b, t, 3, h // (3 * self.width), self.width)), (2, 0, 3, 1, 4))
        return qkv[0], qkv[1], qkv[2]

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks. The projection's outputs are sharded in runs, all queries first, so a rank's slice is not that of its heads:
        MindSpore gathers the outputs over the tp ranks, and each takes its heads."""
        self.is_sharded = True
        self.pick.shard(((dp, 1, 1),))
        self.transpose.shard(((dp, 1, tp, 1),))


class SplitGroupedQkv(nn.Cell):
    """Splits one projection that holds the queries of N heads, then keys and values of N_kv heads each.

    Inputs: x (B, T, (N + 2 * N_kv) * D), any float dtype. Returns: q (B, N, T, D), k and v (B, N_kv, T, D). `width` is D.
    """

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.queries, self.keys = heads * width, kv_heads * width
        self.heads, self.pick = SplitHeads(width), ops.StridedSlice()

    def one(self, x: Tensor, start: int, count: int) -> Tensor:
        b, t, _ = x.shape
        return self.heads(self.pick(x, (0, 0, start), (b, t, start + count), (1, 1, 1)))

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = self.queries, self.queries + self.keys
        return self.one(x, 0, self.queries), self.one(x, k, self.keys), self.one(x, v, self.keys)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks, for which MindSpore gathers the projection's outputs: see SplitQkv."""
        self.pick.shard(((dp, 1, 1),))
        self.heads.set_layout(how, dp, tp)


class SplitHeadsQkv(nn.Cell):
    """Splits one projection that holds queries, keys and values head by head.

    Inputs: x (B, T, N * 3 * D), any float dtype. Returns: q, k, v, each (B, N, T, D). `width` is D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = SplitHeads(3 * width)
        self.parts = ops.Split(3, 3)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.parts(self.heads(x))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks: a rank's shard of the projection's outputs is that of its heads."""
        self.heads.set_layout(how, dp, tp)
        self.parts.shard(((dp, tp, 1, 1),))


class MergeHeads(fused.FusedCell):
    """The inverse of SplitHeads.

    Inputs: x (B, N, T, D), any float dtype. Returns: (B, T, N * D). `width` is D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.merge_heads, library, width)
        self.transpose = ops.Transpose()

    def construct(self, x: Tensor) -> Tensor:
        b, n, t, d = x.shape
        if self.is_fused and x.dtype == ms.float32:
            return ops.reshape(x, (b, 1, n * d)) if t == 1 else self.fused(x)
        return ops.reshape(self.transpose(x, (0, 2, 1, 3)), (b, t, n * d))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        self.transpose.shard(((dp, tp, 1, 1),))
