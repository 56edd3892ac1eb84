"""The attention core: everything between the projections."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.kernels import fused, native
from petrun.kernels.activations import SoftCap
from petrun.kernels.device import on_ascend
from petrun.kernels.dropout import KeepMask, batch_offset, checked_rate, fused_key, step_counter
from petrun.kernels.flash import FlashAttention

HIDDEN = 1e30
"""Subtracted from the score of a hidden position: finite, so that a row without a visible position has no NaN."""


class KeyNumbers(nn.Cell):
    """slope of the head * number of a key among those that its query sees, which is its position but for a constant of the query.

    Inputs: visible (B, 1, T, S) float32, 1 = visible. Returns: (B, N, T, S) float32.
    """

    def __init__(self, slopes: tuple[float, ...]) -> None:
        super().__init__()
        self.slopes = Tensor(np.array(slopes, np.float32).reshape(1, -1, 1, 1))
        self.count, self.times = ops.CumSum(), ops.Mul()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard heads over tp ranks, and rows over dp."""
        rows = (dp, 1, 1, 1)
        self.count.shard((rows,))
        self.times.shard((rows, (1, tp, 1, 1)))

    def construct(self, visible: Tensor) -> Tensor:
        return ops.stop_gradient(self.times(self.count(visible, -1), self.slopes))


class Attention(fused.FusedCell):
    """dropout(softmax(q k^T * scale over the visible positions)) v; a query that sees nothing gets 0.

    Source: Vaswani et al., arXiv:1706.03762, eq. (1); grouped heads: Ainslie et al., arXiv:2305.13245.
    Query head n reads key/value head n // (N / N_kv).
    Inputs: q (B, N, T, D), k and v (B, N_kv, S, D), float16, bfloat16 or float32; mask (B, 1, T, S) bool,
    True = visible. Returns: (B, N, T, D) in q's dtype. Softmax is taken in float32.
    With `cap` (Gemma 2, arXiv:2408.00118, section 2) a score x becomes cap * tanh(x / cap), computed with the matrix of scores everywhere.
    With `slopes` (ALiBi, Press et al., arXiv:2108.12409) a head's slope times the number of a key among those that its query sees is added
    to the score. On Ascend it is computed with the matrix of scores.
    """

    def __init__(
        self,
        scale: float,
        dropout: float = 0.0,
        seed: int = 0,
        site: str = "",
        heads: int = 0,
        slopes: tuple[float, ...] = (),
        cap: float = 0.0,
    ) -> None:
        """`heads`: N, needed to shard it over ranks. `slopes`: one for each head, or none. `cap`: 0, none."""
        super().__init__()
        self.scale = scale
        self.bias = KeyNumbers(slopes) if slopes else None
        self.p = checked_rate(dropout)
        self.keep = KeepMask(dropout, seed, site)
        object.__setattr__(self, "step", step_counter())
        object.__setattr__(self, "offset", batch_offset())
        self.flash = (
            FlashAttention(scale, dropout, seed, site, heads) if on_ascend() and not slopes and not cap else None
        )
        self.cap = SoftCap(cap) if cap else None
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.values = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)
        self.scaled, self.hide, self.far, self.masked = ops.Mul(), ops.Sub(), ops.Mul(), ops.Add()
        self.biased = ops.Add()
        self.keeps, self.grown, self.weighed = ops.Mul(), ops.Mul(), ops.Mul()
        self.expand, self.tile = ops.ExpandDims(), ops.Tile()
        library = native.library()
        self.is_fused = library is not None and not cap
        self.fused = fused.if_built(fused.attention, library)
        self.fused_dropout = fused.if_built(fused.attention_dropout, library)
        self.scale_tensor = Tensor([scale, *slopes], ms.float32)
        self.key = fused_key(dropout, seed, site)
        self.factor = Tensor([1.0 / (1.0 - dropout)], ms.float32)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        b, n, t, d = q.shape
        s = k.shape[2]
        if self.is_fused and q.dtype == ms.float32:
            if mask.shape != (b, 1, t, s):
                mask = ops.broadcast_to(mask, (b, 1, t, s))
            if self.training and self.p > 0.0:
                drawn = self.step, self.offset, self.key, self.factor
                return self.fused_dropout(q, k, v, mask, self.scale_tensor, *drawn)[0]
            return self.fused(q, k, v, mask, self.scale_tensor)[0]
        if self.flash is not None and self.flash.takes(q, s):
            return self.flash(q, k, v, mask)
        if mask.shape[0] != b:
            mask = ops.broadcast_to(mask, (b, *mask.shape[1:]))
        groups = n // k.shape[1]
        if groups > 1:
            k = ops.reshape(self.tile(self.expand(k, 2), (1, 1, groups, 1, 1)), (b, n, s, d))
            v = ops.reshape(self.tile(self.expand(v, 2), (1, 1, groups, 1, 1)), (b, n, s, d))
        scores = self.scaled(ops.cast(self.scores(q, k), ms.float32), self.scale)
        if self.cap is not None:
            scores = self.cap(scores)
        visible = ops.cast(mask, ms.float32)
        if self.bias is not None:
            scores = self.biased(scores, self.bias(visible))
        return self.weighted_values(scores, visible, v)

    def weighted_values(self, scores: Tensor, visible: Tensor, v: Tensor) -> Tensor:
        """dropout(softmax(scores (B, N, T, S) float32)) v over the positions where visible (B, 1, T, S) float32 is 1."""
        probs = self.softmax(self.masked(scores, self.far(self.hide(visible, 1.0), HIDDEN)))
        if self.training and self.p > 0.0:
            kept = self.keep(self.step, self.offset, scores.shape)
            kept = self.grown(ops.cast(kept, ms.float32), 1.0 / (1.0 - self.p))
            probs = self.keeps(probs, kept)
        return self.values(ops.cast(self.weighed(probs, visible), v.dtype), v)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard heads over tp ranks, and the mask's rows over dp. MindSpore shards an operator without a strategy by its first axis
        alone, and sends the tensors between them."""
        heads, rows = (dp, tp, 1, 1), (dp, 1, 1, 1)
        self.scores.shard((heads, heads))
        self.softmax.shard((heads,))
        self.values.shard((heads, heads))
        self.scaled.shard((heads, ()))
        self.hide.shard((rows, ()))
        self.far.shard((rows, ()))
        self.masked.shard((heads, rows))
        self.grown.shard((heads, ()))
        self.keeps.shard((heads, heads))
        self.weighed.shard((heads, rows))
        self.expand.shard((heads,))
        self.tile.shard(((dp, tp, 1, 1, 1),))
        self.keep.set_layout(how, dp, tp)
        self.biased.shard((heads, heads))
        if self.bias is not None:
            self.bias.set_layout(how, dp, tp)
        if self.cap is not None:
            self.cap.set_layout("heads", dp, tp)
        if self.flash is not None:
            self.flash.set_layout(how, dp, tp)


class BiasedAttention(Attention):
    """Attention whose scores, which are not scaled, get a learned bias before the softmax. With the matrix of scores on every device.

    Source: Raffel et al., arXiv:1910.10683, section 2.1.
    Inputs: q (B, N, T, D), k and v (B, N, S, D); mask (B or 1, 1, T, S) bool, True = visible; bias (B or 1, N, T, S) float32.
    Returns: (B, N, T, D) in q's dtype.
    """

    def __init__(self, dropout: float = 0.0, seed: int = 0, site: str = "") -> None:
        super().__init__(1.0, dropout, seed, site)
        self.flash = None

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """As Attention; the bias of all rows is one."""
        super().set_layout(how, dp, tp)
        self.biased.shard(((dp, tp, 1, 1), (1, tp, 1, 1)))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor = None) -> Tensor:
        scores = self.biased(ops.cast(self.scores(q, k), ms.float32), bias)
        return self.weighted_values(scores, ops.cast(mask, ms.float32), v)
