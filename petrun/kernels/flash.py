"""Attention on Ascend without the matrix of scores: MindSpore's FlashAttentionScore."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import FlashAttentionScore

from petrun.kernels.dropout import KeepMask, batch_offset, step_counter

_WIDEST = 512
_WIDTH_STEP = 16


def takes_width(width: int) -> bool:
    """Return whether the operator is built for heads of this width."""
    return width % _WIDTH_STEP == 0 and width <= _WIDEST


class FlashAttention(nn.Cell):
    """Attention as petrun.kernels.Attention computes it, for the inputs that the operator takes; see `takes`.

    Source: Dao et al., arXiv:2205.14135. Conventions of the operator, from its documentation: layout BNSD, N a multiple of
    N_kv; sparse_mode 0 with a whole mask, True = hidden; dropout's mask is one bit a score, 1 = kept, the first
    score in a byte's lowest bit. Softmax is taken in float32 inside.
    Inputs: q (B, N, T, D), k and v (B, N_kv, S, D), float16 or bfloat16; mask (B or 1, 1, T or 1, S) bool, True = visible.
    Returns: (B, N, T, D) in q's dtype.
    """

    def __init__(self, scale: float, dropout: float, seed: int, site: str, heads: int = 0) -> None:
        """`heads`: N, needed to shard it over ranks."""
        super().__init__()
        self.heads = heads
        self.laid_out = False
        self.scale = scale
        self.p = dropout
        self.keep = KeepMask(dropout, seed, site)
        object.__setattr__(self, "step", step_counter())
        object.__setattr__(self, "offset", batch_offset())
        self.bits = Tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0], ms.float32)
        self.sum = ops.ReduceSum()
        self.any = ops.ReduceAny(keep_dims=True)
        self.invert, self.both, self.times, self.weigh = ops.LogicalNot(), ops.LogicalAnd(), ops.Mul(), ops.Mul()

    def takes(self, q: Tensor, slots: int) -> bool:
        """Half precision, a head width that the operator is built for, and with dropout whole bytes of its mask."""
        fits = takes_width(q.shape[3])
        whole = not self.training or self.p == 0.0 or slots % 8 == 0
        return q.dtype in (ms.float16, ms.bfloat16) and fits and whole

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        b, n, t, _ = q.shape
        s = k.shape[2]
        if mask.shape != (b, 1, t, s):
            mask = ops.broadcast_to(mask, (b, 1, t, s))
        # The operator's result for a row without a visible position is not specified: such a row attends to all here, and its result is 0.
        sees = self.any(mask, -1)
        hidden = self.both(sees, self.invert(mask))
        if self.training and self.p > 0.0:
            kept = self.keep(self.step, self.offset, (b, n, t, s // 8, 8))
            packed = ops.cast(self.sum(self.weigh(ops.cast(kept, ms.float32), self.bits), -1), ms.uint8)
            out = (
                self.dropping(q, k, v, None, packed, None, hidden)[3]
                if self.laid_out
                else self.drop(q, k, v, n, packed, hidden)
            )
        elif self.laid_out:
            out = self.keeping(q, k, v, None, None, None, hidden)[3]
        else:
            out = ops.flash_attention_score(q, k, v, n, attn_mask=hidden, scalar_value=self.scale, input_layout="BNSD")
        return self.times(out, ops.cast(sees, out.dtype))

    def drop(self, q: Tensor, k: Tensor, v: Tensor, heads: int, packed: Tensor, hidden: Tensor) -> Tensor:
        return ops.flash_attention_score(
            q,
            k,
            v,
            heads,
            drop_mask=packed,
            attn_mask=hidden,
            keep_prob=1.0 - self.p,
            scalar_value=self.scale,
            input_layout="BNSD",
        )

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks. Each rank makes the full masks and uses its part."""
        self.laid_out = True
        heads, rows = (dp, tp, 1, 1), (dp, 1, 1, 1)
        self.keeping = FlashAttentionScore(self.heads, scale_value=self.scale, input_layout="BNSD")
        self.keeping.shard((heads, heads, heads, rows))
        self.dropping = FlashAttentionScore(self.heads, 1.0 - self.p, self.scale, input_layout="BNSD")
        self.dropping.shard((heads, heads, heads, heads, rows))
        self.keep.set_layout(how, dp, tp)
        self.weigh.shard(((dp, 1, 1, 1, 1), (1,)))
        self.sum.shard(((dp, 1, 1, 1, 1),))
        self.any.shard((rows,))
        self.invert.shard((rows,))
        self.both.shard((rows, rows))
        self.times.shard((heads, rows))
