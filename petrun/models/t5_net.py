"""The net of T5: an encoder of the source, a decoder of the target that attends to it, and generation with two caches a layer.

B batch, S tokens of the source, T of the target, H hidden, N heads, D head width, F width of the feed-forward part, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from petrun.kernels import Attention, BiasedAttention, Dropout, MergeHeads, RmsNorm, SplitHeads, WriteCache
from petrun.models.decoding import CausalMask, cached_mask, zero_caches
from petrun.models.parts import Embedding, Product, Scale, activation, dense
from petrun.tensors import Array
from petrun.typing import Cell, DType


@dataclass(frozen=True, kw_only=True)
class T5Sizes:
    """What the layers of both stacks are made of."""

    hidden: int
    heads: int
    head_width: int
    """D; N * D may differ from H."""
    wide: int
    act: str
    gated: bool
    """Whether the feed-forward part is wo(act(wi_0 x) * wi_1 x), else wo(act(wi x))."""
    eps: float
    dropout: float
    buckets: int
    """Classes of distances, each with a bias for every head."""
    far: int
    """Distances from this one on are of one class."""


def bucket_of_distance(buckets: int, far: int) -> Array:
    """Return the bucket of each distance 0, 1, ..., `far`, (far + 1,) int32: half of them for one distance each, the others for ranges
    that grow geometrically. In float32, as transformers computes it.

    Source: Raffel et al., arXiv:1910.10683, section 2.1; T5Attention._relative_position_bucket of transformers.
    """
    exact = buckets // 2
    distance = np.arange(far + 1)
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(far / exact))
    ranged = np.minimum(exact + (share * np.float32(buckets - exact)).astype(np.int64), buckets - 1)
    return np.where(distance < exact, distance, ranged).astype(np.int32)


class RelativeBias(nn.Cell):
    """weight[bucket of (key's position - query's position)], for every head.

    `both_ways`: half of the buckets are for keys behind the query; else such keys count as the query's own position, and are masked.
    Inputs: queries (B or 1, T) int32, their positions; keys: S, whose positions are 0 to S - 1. Returns: (B or 1, N, T, S) float32.
    Owns: weight (buckets, N) float32.
    """

    def __init__(self, sizes: T5Sizes, both_ways: bool) -> None:
        super().__init__()
        self.both_ways, self.far = both_ways, sizes.far
        self.half = sizes.buckets // 2 if both_ways else sizes.buckets
        self.bucket = Tensor(bucket_of_distance(self.half, sizes.far), ms.int32)
        self.weight = Parameter(initializer("zeros", (sizes.buckets, sizes.heads), ms.float32), name="weight")

    def construct(self, queries: Tensor, keys: int) -> Tensor:
        ahead = ops.reshape(ops.arange(keys, dtype=ms.int32), (1, 1, keys)) - ops.expand_dims(queries, 2)
        behind = ops.abs(ahead) if self.both_ways else ops.maximum(-ahead, ops.zeros_like(ahead))
        bucket = ops.gather(self.bucket, ops.minimum(behind, ops.full_like(behind, self.far)), 0)
        if self.both_ways:
            bucket = bucket + ops.cast(ahead > 0, ms.int32) * self.half
        return ops.transpose(ops.gather(self.weight, bucket, 0), (0, 3, 1, 2))


class HeadProjections(nn.Cell):
    """The four layers around an attention core. Nothing has a bias."""

    def __init__(self, sizes: T5Sizes, dtype: DType, core: Cell) -> None:
        super().__init__()
        width = sizes.heads * sizes.head_width
        self.q = dense(sizes.hidden, width, dtype, bias=False)
        self.k = dense(sizes.hidden, width, dtype, bias=False)
        self.v = dense(sizes.hidden, width, dtype, bias=False)
        self.split, self.merge = SplitHeads(sizes.head_width), MergeHeads(sizes.head_width)
        self.core = core
        self.o = dense(width, sizes.hidden, dtype, bias=False)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, N, T, D)."""
        return self.split(self.q(x))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, H) -> two (B, N, S, D)."""
        return self.split(self.k(x)), self.split(self.v(x))


class SelfAttention(HeadProjections):
    """Attention with a bias by distance. The core's scores are not scaled."""

    def __init__(self, sizes: T5Sizes, dtype: DType, seed: int, path: str) -> None:
        super().__init__(sizes, dtype, BiasedAttention(sizes.dropout, seed, f"{path}.core"))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        return self.o(self.merge(self.core(q, k, v, mask, bias)))

    def construct(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, H), mask (B or 1, 1, T or 1, T) bool, bias (1, N, T, T) -> (B, T, H)."""
        k, v = self.keys_values(x)
        return self.attend(self.queries(x), k, v, mask, bias)


class CrossAttention(HeadProjections):
    """Attention of the target to the encoder's states, without a bias. The core's scores are not scaled."""

    def __init__(self, sizes: T5Sizes, dtype: DType, seed: int, path: str) -> None:
        super().__init__(sizes, dtype, Attention(1.0, sizes.dropout, seed, f"{path}.core", sizes.heads))

    def construct(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, H), k and v (B, N, S, D) of the source, mask (B, 1, 1, S) bool -> (B, T, H)."""
        return self.o(self.merge(self.core(self.queries(x), k, v, mask)))


class T5FeedForward(nn.Cell):
    """wo(dropout(act(wi x))), or with a gate wo(dropout(act(wi_0 x) * wi_1 x)): (B, T, H) -> (B, T, H)."""

    def __init__(self, sizes: T5Sizes, dtype: DType, seed: int, path: str) -> None:
        super().__init__()
        self.is_gated = sizes.gated
        if sizes.gated:
            self.wi_0 = dense(sizes.hidden, sizes.wide, dtype, bias=False)
            self.wi_1 = dense(sizes.hidden, sizes.wide, dtype, bias=False)
            self.times = Product()
        else:
            self.wi = dense(sizes.hidden, sizes.wide, dtype, bias=False)
        self.act = activation(sizes.act)
        self.dropout = Dropout(sizes.dropout, seed, f"{path}.dropout")
        self.wo = dense(sizes.wide, sizes.hidden, dtype, bias=False)

    def construct(self, x: Tensor) -> Tensor:
        wide = self.times(self.act(self.wi_0(x)), self.wi_1(x)) if self.is_gated else self.act(self.wi(x))
        return self.wo(self.dropout(wide))


class EncoderLayer(nn.Cell):
    """x + attn(norm(x)), then x + mlp(norm(x)), with dropout on the branches."""

    def __init__(self, sizes: T5Sizes, dtype: DType, seed: int, path: str) -> None:
        super().__init__()
        self.attn_norm = RmsNorm(sizes.hidden, sizes.eps)
        self.attn = SelfAttention(sizes, dtype, seed, f"{path}.attn")
        self.attn_dropout = Dropout(sizes.dropout, seed, f"{path}.attn_dropout")
        self.mlp_norm = RmsNorm(sizes.hidden, sizes.eps)
        self.mlp = T5FeedForward(sizes, dtype, seed, f"{path}.mlp")
        self.mlp_dropout = Dropout(sizes.dropout, seed, f"{path}.mlp_dropout")
        self.after_attn, self.after_mlp = ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the residual stream, (B, T, H), by rows of the batch."""
        for add in (self.after_attn, self.after_mlp):
            add.shard(((dp, 1, 1), (dp, 1, 1)))

    def construct(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        x = self.after_attn(x, self.attn_dropout(self.attn(self.attn_norm(x), mask, bias)))
        return self.after_mlp(x, self.mlp_dropout(self.mlp(self.mlp_norm(x))))


class TargetLayer(nn.Cell):
    """x + attn(norm(x)), then x + cross(norm(x), source), then x + mlp(norm(x)), with dropout on the branches."""

    def __init__(self, sizes: T5Sizes, dtype: DType, seed: int, path: str) -> None:
        super().__init__()
        self.attn_norm = RmsNorm(sizes.hidden, sizes.eps)
        self.attn = SelfAttention(sizes, dtype, seed, f"{path}.attn")
        self.attn_dropout = Dropout(sizes.dropout, seed, f"{path}.attn_dropout")
        self.cross_norm = RmsNorm(sizes.hidden, sizes.eps)
        self.cross = CrossAttention(sizes, dtype, seed, f"{path}.cross")
        self.cross_dropout = Dropout(sizes.dropout, seed, f"{path}.cross_dropout")
        self.mlp_norm = RmsNorm(sizes.hidden, sizes.eps)
        self.mlp = T5FeedForward(sizes, dtype, seed, f"{path}.mlp")
        self.mlp_dropout = Dropout(sizes.dropout, seed, f"{path}.mlp_dropout")
        self.write = WriteCache()
        self.after_attn, self.after_cross, self.after_mlp = ops.Add(), ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the residual stream, (B, T, H), by rows of the batch."""
        for add in (self.after_attn, self.after_cross, self.after_mlp):
            add.shard(((dp, 1, 1), (dp, 1, 1)))

    def leave(self, x: Tensor, attended: Tensor, source: tuple[Tensor, ...], source_mask: Tensor) -> Tensor:
        """Add what the self-attention gave; then the attention to keys and values of the source, and the feed-forward part."""
        x = self.after_attn(x, self.attn_dropout(attended))
        x = self.after_cross(x, self.cross_dropout(self.cross(self.cross_norm(x), source[0], source[1], source_mask)))
        return self.after_mlp(x, self.mlp_dropout(self.mlp(self.mlp_norm(x))))

    def construct(self, x: Tensor, mask: Tensor, bias: Tensor, states: Tensor, source_mask: Tensor) -> Tensor:
        return self.leave(x, self.attn(self.attn_norm(x), mask, bias), self.cross.keys_values(states), source_mask)

    def step(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor,
        caches: tuple[Tensor, ...],
        source_mask: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute a token of every row, (B, 1, H), which attends to its cache and to that of its source.

        `caches`: keys and values of the target, then those of the source. Returns x, then keys and values of the target.
        """
        read = self.attn_norm(x)
        q = self.attn.queries(read)
        k, v = self.attn.keys_values(read)
        k, v = self.write(k, v, caches[0], caches[1], rows, columns)
        return self.leave(x, self.attn.attend(q, k, v, mask, bias), caches[2:], source_mask), k, v


class Stack(nn.Cell):
    """Layers of one kind, the bias that their self-attention shares, and the norm of the result."""

    def __init__(self, sizes: T5Sizes, layers: list[Cell], seed: int, path: str) -> None:
        super().__init__()
        self.dropout = Dropout(sizes.dropout, seed, f"{path}.dropout")
        self.bias = RelativeBias(sizes, both_ways=path == "encoder")
        self.layers = nn.CellList(layers)
        self.norm = RmsNorm(sizes.hidden, sizes.eps)
        self.last_dropout = Dropout(sizes.dropout, seed, f"{path}.last_dropout")

    def finish(self, x: Tensor) -> Tensor:
        return self.last_dropout(self.norm(x))


class T5Net(nn.Cell):
    """Inputs: input_ids (B, S) int32, the source; segment_ids (B, S) int32, 0 = padding; decoder_input_ids (B, T) int32, the target
    behind its start token, padded on the right. Returns: logits (B, T, V) float32.
    """

    def __init__(
        self, sizes: T5Sizes, dtype: DType, *, vocab: int, layers: tuple[int, int], start: int, seed: int
    ) -> None:
        """`layers`: of the encoder, of the decoder; `start`: the token before every target."""
        super().__init__()
        self.dtype, self.start, self.heads, self.head_width = dtype, start, sizes.heads, sizes.head_width
        self.embed = Embedding(vocab, sizes.hidden, dtype)
        of_source: list[Cell] = [EncoderLayer(sizes, dtype, seed, f"encoder.layers.{i}") for i in range(layers[0])]
        of_target: list[Cell] = [TargetLayer(sizes, dtype, seed, f"decoder.layers.{i}") for i in range(layers[1])]
        self.encoder = Stack(sizes, of_source, seed, "encoder")
        self.decoder = Stack(sizes, of_target, seed, "decoder")
        self.head = dense(sizes.hidden, vocab, dtype, bias=False)
        self.mask = CausalMask()
        self.write = WriteCache()
        self.scales = False
        self.prompt_tokens = 0
        """Virtual tokens before every source."""
        self.prefix_tokens = 0
        """Virtual tokens before the keys and values of the decoder's self-attention, at the positions before the start token's."""

    def tie_head(self) -> None:
        """Have the head share the embedding's matrix."""
        self.head.weight = self.embed.weight

    def scale_states(self, hidden: int) -> None:
        """Multiply what the head reads by H^-0.5, as the first T5 does."""
        self.scales, self.scale = True, Scale(hidden**-0.5)

    def logits(self, x: Tensor) -> Tensor:
        x = self.decoder.finish(x)
        return ops.cast(self.head(self.scale(x) if self.scales else x), ms.float32)

    def encode(self, input_ids: Tensor, source_mask: Tensor) -> Tensor:
        """(B, S) -> the encoder's states (B, P + S, H), P virtual tokens first. `source_mask`: (B, 1, 1, P + S) bool."""
        tokens = self.prompt_tokens + input_ids.shape[1]
        x = self.embed(input_ids)
        if self.prompt_tokens:
            x = ops.concat((self.embed.prompt(x.shape[0], x.dtype), x), 1)
        x = self.encoder.dropout(x)
        bias = self.encoder.bias(ops.reshape(ops.arange(tokens, dtype=ms.int32), (1, tokens)), tokens)
        for layer in self.encoder.layers:
            x = layer(x, source_mask, bias)
        return self.encoder.finish(x)

    def with_prompt(self, source_mask: Tensor) -> Tensor:
        """(B, 1, 1, S) bool -> (B, 1, 1, P + S): the virtual tokens are seen."""
        if self.prompt_tokens == 0:
            return source_mask
        seen = ops.ones((source_mask.shape[0], 1, 1, self.prompt_tokens), ms.bool_)
        return ops.concat((seen, source_mask), -1)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        source_mask = self.with_prompt(
            ops.reshape(segment_ids != 0, (segment_ids.shape[0], 1, 1, segment_ids.shape[1]))
        )
        states = self.encode(input_ids, source_mask)
        rows, tokens = decoder_input_ids.shape
        virtual = self.prefix_tokens
        columns = ops.reshape(ops.arange(tokens, dtype=ms.int32), (1, tokens))
        mask = self.mask(ops.ones_like(decoder_input_ids), ops.broadcast_to(columns, (rows, tokens)), 0, virtual)
        bias = self.decoder.bias(columns + virtual, virtual + tokens)
        x = self.decoder.dropout(self.embed(decoder_input_ids))
        for layer in self.decoder.layers:
            x = layer(x, mask, bias, states, source_mask)
        return self.logits(x)

    def check_slots(self, tokens: int) -> None:
        """Nothing: positions have no limit."""

    def writes_in_place(self) -> bool:
        """Tell whether a step changes the caches that it is given."""
        return bool(self.write.in_place(self.dtype))

    def open_caches(self, rows: int, slots: int) -> tuple[Tensor, ...]:
        """Return empty caches of `rows` with room for `slots` tokens: for each layer keys and values of the target, keys and values of
        the source; at the end twice the tokens of each row's source, (B, 1, 1, 1) float32."""
        found: tuple[Tensor, ...] = ()
        for _ in self.decoder.layers:
            for room in (slots, self.prompt_tokens + slots):
                found += zero_caches(2, (rows, self.heads, room, self.head_width), self.dtype)
        return found + zero_caches(2, (rows, 1, 1, 1), ms.float32)

    def prefill(
        self, input_ids: Tensor, lengths: Tensor, rows: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Encode sources, which are the prompts, write their keys and values, and begin their targets. See decoding.PrefillStep."""
        count, tokens = input_ids.shape
        columns = ops.reshape(ops.arange(tokens, dtype=ms.int32), (1, 1, 1, tokens))
        source_mask = self.with_prompt(columns < ops.reshape(lengths, (count, 1, 1, 1)))
        states = self.encode(input_ids, source_mask)
        first = ops.zeros_like(rows)
        x = self.embed(ops.full_like(input_ids[:, :1], self.start))
        virtual = self.prefix_tokens
        alone = ops.ones((1, 1, 1, virtual + 1), ms.bool_)
        bias = self.decoder.bias(ops.full((1, 1), virtual, dtype=ms.int32), virtual + 1)
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.decoder.layers):
            own = caches[4 * i : 4 * i + 4]
            source = layer.cross.keys_values(states)
            read = layer.attn_norm(x)
            q = layer.attn.queries(read)
            k, v = layer.attn.keys_values(read)
            written = layer.write(k, v, own[0], own[1], rows, first)
            kept = layer.write(source[0], source[1], own[2], own[3], rows, first)
            # Nothing else would ask for what was written in place.
            q = ops.depend(ops.depend(q, written[0]), kept[0])
            x = layer.leave(x, layer.attn.attend(q, k, v, alone, bias), source, source_mask)
            new = (*new, *written, *kept)
        counts = ops.cast(ops.reshape(lengths, (count, 1, 1, 1)), ms.float32)
        told = self.write(counts, counts, caches[-2], caches[-1], rows, first)
        return (ops.depend(self.logits(x)[:, 0], told[0]), *new, *told)

    def decode(self, input_ids: Tensor, columns: Tensor, caches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute a token of every target. See decoding.DecodeStep: `columns` count the source's tokens too, the start token not."""
        count, slots = columns.shape[0], caches[0].shape[2]
        lengths = ops.cast(ops.reshape(caches[-2], (count,)), ms.int32)
        # A row that is free has no source, and a column of its own choice.
        at = ops.maximum(columns - lengths + 1, ops.zeros_like(columns))
        kept, virtual = caches[2].shape[2], self.prefix_tokens
        source_mask = ops.reshape(ops.arange(kept, dtype=ms.int32), (1, 1, 1, kept)) < ops.reshape(
            lengths + self.prompt_tokens, (count, 1, 1, 1)
        )
        mask = cached_mask(at, slots, 0, virtual)
        bias = self.decoder.bias(ops.reshape(at + virtual, (count, 1)), virtual + slots)
        rows = ops.arange(count, dtype=ms.int32)
        x = self.embed(input_ids)
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.decoder.layers):
            own = caches[4 * i : 4 * i + 4]
            x, k, v = layer.step(x, mask, bias, own, source_mask, rows, at)
            new = (*new, k, v, *own[2:])
        return (self.logits(x[:, 0]), *new, *caches[-2:])
