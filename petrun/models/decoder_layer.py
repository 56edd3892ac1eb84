"""A decoder's layer without rotary positions, which GPT-2, OPT and BLOOM share: attention, feed-forward part, and where the norms stand.

B batch, T tokens, H hidden, N heads, D head width, S cache slots.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import nn, ops

from petrun.kernels import Dropout, LayerNorm, MergeHeads, SplitHeads, WriteCache
from petrun.models.parts import FeedForward, dense
from petrun.typing import Cell, DType, Tensor

NORM_ORDERS = ("pre", "post", "normed")
"""pre: x + f(norm(x)); post: norm(x + f(x)); normed: n + f(n) with n = norm(x)."""


class SelfAttention(nn.Cell):
    """Attention of heads that have keys and values of their own.

    With `split`, a cell (B, T, 3 * H) -> q, k, v, one layer `qkv` makes all three; else the layers `q`, `k` and `v` do.
    Inputs: x (B, T, H), mask (B, 1, T, T) bool. Returns: (B, T, H), before dropout and the residual.
    """

    def __init__(
        self, hidden: int, heads: int, dtype: DType, core: Cell, split: Cell | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        width = hidden // heads
        self.head_dim, self.is_joined = width, split is not None
        if split is not None:
            self.qkv = dense(hidden, 3 * hidden, dtype, bias)
            self.split = split
        else:
            self.q = dense(hidden, hidden, dtype, bias)
            self.k = dense(hidden, hidden, dtype, bias)
            self.v = dense(hidden, hidden, dtype, bias)
            self.split = SplitHeads(width)
        self.merge = MergeHeads(width)
        self.core = core
        self.o = dense(hidden, hidden, dtype, bias)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute q, k, v, each (B, N, T, D)."""
        if self.is_joined:
            return self.split(self.qkv(x))
        return self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return self.o(self.merge(self.core(q, k, v, mask)))

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(q, k, v, mask)


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """What a layer is made of besides its attention."""

    hidden: int
    wide: int
    act: str
    eps: float
    dropout: float
    """Of both branches, before the residual."""
    order: str = "pre"
    """One of NORM_ORDERS."""
    bias: bool = True
    """Whether the feed-forward part has biases."""


class DecoderLayer(nn.Cell):
    """x = mix(x, attn), then x = mix(x, mlp); mix as `order` says, with dropout on the branch."""

    def __init__(self, sizes: LayerSizes, attn: SelfAttention, dtype: DType, seed: int, index: int) -> None:
        super().__init__()
        self.is_post = sizes.order == "post"
        self.keeps_normed = sizes.order == "normed"
        self.attn_norm = LayerNorm(sizes.hidden, sizes.eps)
        self.attn = attn
        self.attn_dropout = Dropout(sizes.dropout, seed, f"layers.{index}.attn_dropout")
        self.mlp_norm = LayerNorm(sizes.hidden, sizes.eps)
        self.mlp = FeedForward(sizes.hidden, sizes.wide, sizes.act, dtype, sizes.bias)
        self.mlp_dropout = Dropout(sizes.dropout, seed, f"layers.{index}.mlp_dropout")
        self.write = WriteCache()
        self.after_attn, self.after_mlp = ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the residual stream, (B, T, H), by rows of the batch."""
        self.after_attn.shard(((dp, 1, 1), (dp, 1, 1)))
        self.after_mlp.shard(((dp, 1, 1), (dp, 1, 1)))

    def enter(self, x: Tensor) -> Tensor:
        """What the attention reads."""
        return x if self.is_post else self.attn_norm(x)

    def leave(self, x: Tensor, read: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result to x, of which it read `read`; then the feed-forward part."""
        attended = self.attn_dropout(attended)
        if self.is_post:
            x = self.attn_norm(attended, x)
            return self.mlp_norm(self.mlp_dropout(self.mlp(x)), x)
        x = self.after_attn(read if self.keeps_normed else x, attended)
        read = self.mlp_norm(x)
        return self.after_mlp(read if self.keeps_normed else x, self.mlp_dropout(self.mlp(read)))

    def construct(self, x: Tensor, mask: Tensor, part: int = 0) -> Tensor:
        read = self.enter(x)
        return self.leave(x, read, self.attn(read, mask))

    def prefill(
        self, x: Tensor, mask: Tensor, caches: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute a prompt, which attends to itself. `caches`, `rows`, `columns`: as WriteCache. Returns x, then the caches."""
        read = self.enter(x)
        q, k, v = self.attn.project(read)
        k_cache, v_cache = self.write(k, v, caches[0], caches[1], rows, columns)
        # Nothing else would ask for what was written in place.
        q = ops.depend(q, k_cache)
        return self.leave(x, read, self.attn.attend(q, k, v, mask)), k_cache, v_cache

    def decode(
        self, x: Tensor, mask: Tensor, caches: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute a token of every row, which attends to the caches. Inputs and returns as prefill's."""
        read = self.enter(x)
        q, k, v = self.attn.project(read)
        k_cache, v_cache = self.write(k, v, caches[0], caches[1], rows, columns)
        return self.leave(x, read, self.attn.attend(q, k_cache, v_cache, mask)), k_cache, v_cache
