"""Rotary position embedding."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from petrun.kernels import fused, native
from petrun.typing import Tensor


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin in primitives: see Rope."""
    half = x.shape[-1] // 2
    rotated = ops.concat((-x[..., half:], x[..., :half]), -1)
    return x * cos + rotated * sin


class Rope(fused.FusedCell):
    """x * cos + rotate_half(x) * sin, rotate_half([a, b]) = [-b, a] over the two halves of the last axis.

    Source: Su et al., arXiv:2104.09864, eq. (34), in the half-split layout of Hugging Face's Llama:
    the file's q and k weights are permuted for it.
    Inputs: x (B, N, T, D); cos and sin (B, 1, T, D) or (1, 1, T, D), x's dtype; no gradient reaches them.
    Returns: (B, N, T, D).
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.rope, library)
        self.slice, self.neg, self.concat = ops.StridedSlice(), ops.Neg(), ops.Concat(-1)
        self.straight, self.crossed, self.add = ops.Mul(), ops.Mul(), ops.Add()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.is_fused and x.dtype == ms.float32 and cos.dtype == ms.float32 and sin.dtype == ms.float32:
            return self.fused(x, cos, sin)
        b, n, t, d = x.shape
        first = self.slice(x, (0, 0, 0, 0), (b, n, t, d // 2), (1, 1, 1, 1))
        second = self.slice(x, (0, 0, 0, d // 2), (b, n, t, d), (1, 1, 1, 1))
        rotated = self.concat((self.neg(second), first))
        return self.add(self.straight(x, ops.stop_gradient(cos)), self.crossed(rotated, ops.stop_gradient(sin)))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks; cos and sin are the same for all."""
        heads, table = (dp, tp, 1, 1), (dp, 1, 1, 1)
        self.slice.shard((heads,))
        self.neg.shard((heads,))
        self.concat.shard((heads, heads))
        self.straight.shard((heads, table))
        self.crossed.shard((heads, table))
        self.add.shard((heads, heads))
