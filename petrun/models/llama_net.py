"""The net of Llama, which GLM, ChatGLM, Phi-3, Gemma, Mixtral and Qwen3-MoE share: grouped attention with rotary positions, and a gated
feed-forward part.

B batch, T tokens, H hidden, N heads, N_kv key/value heads, D head width, S cache slots, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import mindspore as ms
from mindspore import nn, ops

from petrun.errors import ModelError
from petrun.kernels import (
    Attention,
    MergeHeads,
    OffsetRmsNorm,
    RmsNorm,
    SiluMul,
    SoftCap,
    SplitGroupedQkv,
    SplitHeads,
    WriteCache,
)
from petrun.kernels import Rope as Rotate
from petrun.models.classes import LastToken
from petrun.models.decoding import CachedNet, cached_mask, prompt_layout, tokens_at
from petrun.models.experts import SparseMlp
from petrun.models.llama_config import LlamaConfig
from petrun.models.llama_tables import LlamaTables
from petrun.models.parts import DTYPES, Embedding, Product, Scale, SplitGateUp, activation, dense, named
from petrun.models.rope import RotatePairs
from petrun.typing import Cell, DType, Primitive, Tensor


def rms_norm(c: LlamaConfig, width: int) -> RmsNorm:
    """Make a norm over `width` features."""
    return (OffsetRmsNorm if c.offset_norms else RmsNorm)(width, c.eps)


class LlamaAttention(nn.Cell):
    """Grouped attention with rotary positions; Qwen3 and Gemma 3 norm each head of q and k first.

    Inputs: x (B, T, H); cos, sin (B, 1, T, D); mask (B, 1, T, T) bool. Returns: (B, T, H), before the residual.
    """

    def __init__(self, c: LlamaConfig, dtype: DType, seed: int, site: str) -> None:
        super().__init__()
        if c.qkv:
            self.qkv = dense(c.hidden, (c.heads + 2 * c.kv_heads) * c.head_dim, dtype, c.qkv_bias)
            self.split = SplitGroupedQkv(c.head_dim, c.heads, c.kv_heads)
        else:
            self.q = dense(c.hidden, c.heads * c.head_dim, dtype, c.qkv_bias)
            self.k = dense(c.hidden, c.kv_heads * c.head_dim, dtype, c.qkv_bias)
            self.v = dense(c.hidden, c.kv_heads * c.head_dim, dtype, c.qkv_bias)
            self.split = SplitHeads(c.head_dim)
        self.normed = c.qk_norm
        if c.qk_norm:
            self.q_norm = rms_norm(c, c.head_dim)
            self.k_norm = rms_norm(c, c.head_dim)
        self.merge = MergeHeads(c.head_dim)
        self.rotate = RotatePairs(c.rope) if c.rope.is_paired else Rotate()
        scale = (c.query_width or c.head_dim) ** -0.5
        self.core = Attention(scale, c.attention_dropout, seed, f"{site}.core", c.heads, cap=c.score_cap)
        self.o = dense(c.heads * c.head_dim, c.hidden, dtype, c.o_bias)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """q (B, N, T, D), k and v (B, N_kv, T, D), q and k rotated."""
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if self.normed:
            q = self.q_norm(q)
            k = self.k_norm(k)
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return self.o(self.merge(self.core(q, k, v, mask)))

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.project(x, cos, sin)
        return self.attend(q, k, v, mask)


class JoinedAttention(LlamaAttention):
    """The same with one layer `qkv`, and heads that are not normed."""

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """q (B, N, T, D), k and v (B, N_kv, T, D), q and k rotated."""
        q, k, v = self.split(self.qkv(x))
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin), v


class LlamaMlp(nn.Cell):
    """down(act(gate(x)) * up(x)), (B, T, H) -> (B, T, H)."""

    def __init__(self, c: LlamaConfig, dtype: DType) -> None:
        super().__init__()
        self.is_joined = c.gate_up
        if c.gate_up:
            self.gate_up = dense(c.hidden, 2 * c.wide, dtype, c.mlp_bias)
            self.halves = SplitGateUp()
        else:
            self.gate = dense(c.hidden, c.wide, dtype, c.mlp_bias)
            self.up = dense(c.hidden, c.wide, dtype, c.mlp_bias)
        self.down = dense(c.wide, c.hidden, dtype, c.mlp_bias)
        self.joined = c.act in ("silu", "swish")
        self.act = SiluMul() if self.joined else activation(c.act)
        if not self.joined:
            self.product = Product()

    def construct(self, x: Tensor) -> Tensor:
        gate, up = self.halves(self.gate_up(x)) if self.is_joined else (self.gate(x), self.up(x))
        if self.joined:
            return self.down(self.act(gate, up))
        return self.down(self.product(self.act(gate), up))


class LlamaLayer(nn.Cell):
    """Pre-norm: x + attn(norm(x)), then x + mlp(norm(x)); GLM-4-0414 and Gemma 2 and 3 norm what each of both adds, too."""

    splits_tokens = True

    def __init__(self, c: LlamaConfig, dtype: DType, seed: int, index: int) -> None:
        super().__init__()
        self.window = c.windows[index]
        self.attn_norm = rms_norm(c, c.hidden)
        self.attn = (JoinedAttention if c.qkv else LlamaAttention)(c, dtype, seed, f"layers.{index}.attn")
        self.mlp_norm = rms_norm(c, c.hidden)
        self.mlp = SparseMlp(c, dtype) if c.has_experts(index) else LlamaMlp(c, dtype)
        self.write = WriteCache()
        self.sandwiched = c.sandwich
        if c.sandwich:
            self.attn_post_norm = rms_norm(c, c.hidden)
            self.mlp_post_norm = rms_norm(c, c.hidden)
        self.after_attn, self.after_mlp = ops.Add(), ops.Add()
        self.flat = False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """The residual stream, (B, T, H), by rows of the batch; `stream`: B * T over all ranks, for which it is laid flat."""
        self.flat = how == "stream"
        rows = (dp * tp, 1) if self.flat else (dp, 1, 1)
        self.after_attn.shard((rows, rows))
        self.after_mlp.shard((rows, rows))

    def plus(self, add: Primitive, x: Tensor, y: Tensor) -> Tensor:
        if not self.flat:
            return add(x, y)
        shape = x.shape
        return ops.reshape(add(ops.reshape(x, (-1, shape[-1])), ops.reshape(y, (-1, shape[-1]))), shape)

    def leave(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result to x; then the feed-forward part."""
        x = self.plus(self.after_attn, x, self.attn_post_norm(attended) if self.sandwiched else attended)
        fed = self.mlp(self.mlp_norm(x))
        return self.plus(self.after_mlp, x, self.mlp_post_norm(fed) if self.sandwiched else fed)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, part: int = 0) -> Tensor:
        return self.leave(x, self.attn(self.attn_norm(x), cos, sin, mask))

    def prefill(
        self, x: Tensor, tables: tuple[Tensor, ...], caches: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute a prompt, which attends to itself. `tables`: cos, sin, mask; `caches`, `rows`, `columns`: as WriteCache. Returns x,
        then the caches."""
        cos, sin, mask = tables
        q, k, v = self.attn.project(self.attn_norm(x), cos, sin)
        k_cache, v_cache = self.write(k, v, caches[0], caches[1], rows, columns)
        # Nothing else would ask for what was written in place.
        q = ops.depend(q, k_cache)
        return self.leave(x, self.attn.attend(q, k, v, mask)), k_cache, v_cache

    def decode(
        self, x: Tensor, tables: tuple[Tensor, ...], caches: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute a token of every row, which attends to the caches. Inputs and returns as prefill's."""
        cos, sin, mask = tables
        q, k, v = self.attn.project(self.attn_norm(x), cos, sin)
        k_cache, v_cache = self.write(k, v, caches[0], caches[1], rows, columns)
        return self.leave(x, self.attn.attend(q, k_cache, v_cache, mask)), k_cache, v_cache


class Llama(CachedNet):
    """Inputs: input_ids, segment_ids (0 = padding), position_ids, each (B, T) int32. Returns: logits (B, T, V) float32; (B, C) of a net
    that classifies rows."""

    def __init__(self, c: LlamaConfig, dtype: DType, seed: int, classes: int | None = None) -> None:
        super().__init__()
        self.kv_heads, self.head_dim, self.dtype = c.kv_heads, c.head_dim, dtype
        self.rope = c.rope
        self.prefix_positions = c.prefix_positions
        self.reads = tuple(0 if window else 1 for window in c.windows)
        """Which of LlamaTables' results each layer reads: 0, those of layers with a window."""
        self.make_tables = partial(LlamaTables, c, dtype)
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.embed = Embedding(c.vocab, c.hidden, dtype)
        self.scales, self.caps = c.embedding_scale != 1.0, c.logit_cap > 0.0
        if self.scales:
            self.scale = Scale(c.embedding_scale)
        self.tables = nn.CellList([self.make_tables()])
        self.layers = nn.CellList([LlamaLayer(c, dtype, seed, i) for i in range(c.layers)])
        self.norm = rms_norm(c, c.hidden)
        self.classifies = classes is not None
        if classes is not None:
            self.last = LastToken(c.pad_token)
            self.score = dense(c.hidden, classes, ms.float32, bias=False)
        else:
            self.head = dense(c.hidden, c.vocab, dtype, bias=False)
        if classes is None and c.tied:
            self.head.weight = self.embed.weight
        if self.caps:
            self.cap = SoftCap(c.logit_cap)

    def logits(self, x: Tensor) -> Tensor:
        logits = ops.cast(self.head(self.norm(x)), ms.float32)
        return self.cap(logits) if self.caps else logits

    def embedded(self, input_ids: Tensor) -> Tensor:
        """Embed tokens, (B, T, H)."""
        return self.scale(self.embed(input_ids)) if self.scales else self.embed(input_ids)

    def enter(self, input_ids: Tensor) -> Tensor:
        """Embed the row, with the prompt before it: (B, P + T, H)."""
        x = self.embedded(input_ids)
        if self.prompt_tokens > 0:
            x = ops.concat((self.embed.prompt(x.shape[0], x.dtype), x), 1)
        return x

    def open_stages(self, count: int) -> list[Cell]:
        """Have what the layers share made on each of `count` stages. Returns the cells that make it."""
        self.tables.extend([self.make_tables() for _ in range(count - len(self.tables))])
        return list(self.tables)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, part: int = 0) -> Tensor:
        """`part`: number of the batch's part that a pipeline sees; it changes nothing, but see train.pipelined."""
        x = self.enter(input_ids)
        made: tuple[tuple[tuple[Tensor, ...], ...], ...] = ()
        for tables in self.tables:
            made = (*made, tables(segment_ids, position_ids, self.prefix_tokens, self.prompt_tokens, part))
        for i, layer in enumerate(self.layers):
            cos, sin, mask = made[i * len(self.tables) // len(self.layers)][self.reads[i]]
            x = layer(x, cos, sin, mask, part)
        x = x[:, self.prompt_tokens :] if self.prompt_tokens > 0 else x
        if self.classifies:
            return self.score(self.last(self.norm(x), input_ids, segment_ids))
        return self.logits(x)

    def check_slots(self, tokens: int) -> None:
        """Raises ModelError where a cache cannot hold what the model computes for a row of so many tokens."""
        tokens += self.prefix_tokens + self.prompt_tokens
        if self.rope.fixed_to is not None and tokens > self.rope.fixed_to:
            raise ModelError(
                f"rope_type = {self.rope.kind} changes the keys of earlier tokens beyond {self.rope.fixed_by} = {self.rope.fixed_to}; "
                f"{tokens} tokens with a cache are not supported",
                hint="Shorten the prompt, or generate fewer tokens.",
            )

    def prefill(
        self, input_ids: Tensor, lengths: Tensor, rows: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """See decoding.PrefillStep."""
        x = self.enter(input_ids)
        segment_ids, position_ids = prompt_layout(input_ids, lengths)
        made = self.tables[0](segment_ids, position_ids, self.prefix_tokens, self.prompt_tokens)
        start = ops.zeros_like(rows)
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.layers):
            x, k, v = layer.prefill(x, made[self.reads[i]], caches[2 * i : 2 * i + 2], rows, start)
            new = (*new, k, v)
        return (self.logits(tokens_at(x, lengths + (self.prompt_tokens - 1))), *new)

    def decode(self, input_ids: Tensor, columns: Tensor, caches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See decoding.DecodeStep."""
        x = self.embedded(input_ids)
        virtual = self.prefix_tokens + self.prompt_tokens
        before = virtual if self.prefix_positions else self.prompt_tokens
        angles = self.tables[0].rotary(ops.reshape(columns + before, (-1, 1)))
        slots = caches[0].shape[2] - self.prompt_tokens
        full_mask = cached_mask(columns, slots, 0, virtual)
        near_mask = cached_mask(columns, slots, self.tables[0].window, virtual)
        made = self.tables[0].both(angles, near_mask, full_mask)
        rows, columns = ops.arange(columns.shape[0], dtype=ms.int32), columns + self.prompt_tokens
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.layers):
            x, k, v = layer.decode(x, made[self.reads[i]], caches[2 * i : 2 * i + 2], rows, columns)
            new = (*new, k, v)
        return (self.logits(x[:, 0]), *new)


def build(
    config: LlamaConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> nn.Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    return named(Llama(config, DTYPES[compute_dtype], dropout_seed, num_labels))
