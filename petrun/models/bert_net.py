"""The net of BERT, which RoBERTa shares: a bidirectional encoder with a classification head.

B batch, T tokens, H hidden, N heads, D head width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.sites import Sites
from petrun.kernels import Attention, Dropout, LayerNorm, MergeHeads, SplitHeads, Tanh
from petrun.models.base import FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, FeedForward, cell_paths, dense
from petrun.typing import Cell, DType, Tensor


@dataclass(frozen=True, kw_only=True)
class BertConfig(FamilyConfig):
    """config.json of a BERT or a RoBERTa."""

    positions: int
    """Tokens of the longest row."""
    unused_positions: int = 0
    """Rows at the begin of the table of positions that no token takes."""
    token_types: int
    act: str
    eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float


def encoder_config(f: Fields, padding_row: int | None = None) -> BertConfig:
    """Read the fields that BERT and RoBERTa share, with transformers' defaults; sizes have none. Raises ModelError.

    `padding_row`: row of the table of positions that padding takes; tokens follow it. None: the first row is the first token's.
    """
    f.only("position_embedding_type", ("absolute",), "absolute")
    f.only("is_decoder", (False,), False)
    f.only("add_cross_attention", (False,), False)
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    if hidden % heads:
        f.wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    unused = 0 if padding_row is None else padding_row + 1
    hidden_dropout = f.number("hidden_dropout_prob", 0.1, below=1.0)
    config = BertConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("intermediate_size"),
        positions=f.integer("max_position_embeddings", 512, least=unused + 1) - unused,
        unused_positions=unused,
        token_types=f.integer("type_vocab_size", 2),
        act=f.choice("hidden_act", tuple(ACTIVATIONS), "gelu"),
        eps=f.positive("layer_norm_eps", 1e-12),
        hidden_dropout=hidden_dropout,
        attention_dropout=f.number("attention_probs_dropout_prob", 0.1, below=1.0),
        classifier_dropout=f.number("classifier_dropout", hidden_dropout, below=1.0),
        init_range=f.number("initializer_range", 0.02),
    )
    f.finish()
    return config


class BertAttention(nn.Cell):
    """Inputs: queries (B, Q, H), x (B, T, H), mask (B, 1, Q, T) bool. Returns: (B, Q, H), before the residual."""

    def __init__(self, c: BertConfig, dtype: DType, seed: int, site: str) -> None:
        super().__init__()
        width = c.hidden // c.heads
        self.q = dense(c.hidden, c.hidden, dtype)
        self.k = dense(c.hidden, c.hidden, dtype)
        self.v = dense(c.hidden, c.hidden, dtype)
        self.split = SplitHeads(width)
        self.merge = MergeHeads(width)
        self.core = Attention(width**-0.5, c.attention_dropout, seed, f"{site}.core", c.heads)
        self.o = dense(c.hidden, c.hidden, dtype)

    def construct(self, queries: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.q(queries)), self.split(self.k(x)), self.split(self.v(x))
        return self.o(self.merge(self.core(q, k, v, mask)))


class BertLayer(nn.Cell):
    """Post-norm: x = norm(x + dropout(f(x))) for attention, then for the feed-forward part.

    Inputs: x (B, T, H), mask (B, 1, T, S) bool. Returns: (B, T, H), or (B, 1, H) with `first_only`: the last layer computes the position
    that the classifier reads, and for the others keys and values alone.
    """

    def __init__(self, c: BertConfig, dtype: DType, seed: int, site: str, first_only: bool) -> None:
        super().__init__()
        self.first_only = first_only
        self.first, self.first_mask = ops.StridedSlice(), ops.StridedSlice()
        self.attn = BertAttention(c, dtype, seed, f"{site}.attn")
        self.attn_dropout = Dropout(c.hidden_dropout, seed, f"{site}.attn_dropout")
        self.attn_norm = LayerNorm(c.hidden, c.eps)
        self.mlp = FeedForward(c.hidden, c.wide, c.act, dtype)
        self.mlp_dropout = Dropout(c.hidden_dropout, seed, f"{site}.mlp_dropout")
        self.mlp_norm = LayerNorm(c.hidden, c.eps)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        self.first.shard(((dp, 1, 1),))
        self.first_mask.shard(((dp, 1, 1, 1),))

    def construct(self, x: Tensor, mask: Tensor, part: int = 0) -> Tensor:
        queries = x
        if self.first_only:
            rows, _, hidden = x.shape
            queries = self.first(x, (0, 0, 0), (rows, 1, hidden), (1, 1, 1))
            mask = self.first_mask(mask, (0, 0, 0, 0), (mask.shape[0], 1, 1, mask.shape[3]), (1, 1, 1, 1))
        x = self.attn_norm(self.attn_dropout(self.attn(queries, x, mask)), queries)
        return self.mlp_norm(self.mlp_dropout(self.mlp(x)), x)


class BertMask(nn.Cell):
    """Mask of the keys that a query attends to. A padded or virtual query attends to its row's tokens, as in transformers: with padding on
    the left the first position, which the classifier reads, is padding. All attend to virtual tokens. A pipeline makes it on each stage.

    Inputs: segment_ids (B, T) int32; prefix, prompt: ints. Returns: (B, 1, P_prompt + T, P_prefix + P_prompt + T) bool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head_axis, self.of_query, self.of_key = ops.ExpandDims(), ops.ExpandDims(), ops.ExpandDims()
        self.same, self.padded, self.either = ops.Equal(), ops.LessEqual(), ops.LogicalOr()
        self.real, self.both = ops.Greater(), ops.LogicalAnd()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        rows = (dp, 1, 1, 1)
        self.head_axis.shard(((dp, 1),))
        self.of_query.shard(((dp, 1, 1),))
        self.of_key.shard(((dp, 1, 1),))
        for operator in (self.same, self.either, self.both):
            operator.shard((rows, rows))
        self.padded.shard((rows, ()))
        self.real.shard((rows, ()))

    def construct(self, segment_ids: Tensor, prefix: int, prompt: int, part: int = 0) -> Tensor:
        segments, virtual = self.head_axis(segment_ids, 1), prefix + prompt
        queries = segments
        if virtual > 0:
            segments = ops.concat((ops.full((segment_ids.shape[0], 1, virtual), -1, dtype=segments.dtype), segments), 2)
            queries = segments[:, :, prefix:]
        query, key = self.of_query(queries, 3), self.of_key(segments, 2)
        seen = self.both(self.either(self.same(query, key), self.padded(query, 0)), self.real(key, 0))
        return ops.logical_or(seen, key < 0) if virtual > 0 else seen


class Bert(nn.Cell):
    """Logits from the first position: classifier(dropout(tanh(pooler(x[:, 0])))); RoBERTa has dropout before the pooler, too. `tags`: of
    every token instead, classifier(dropout(x)).

    Inputs: input_ids, segment_ids (0 = padding), and what `embeddings` reads beside them, each (B, T) int32. Returns: (B, C) float32, for
    `tags` (B, T, C).
    """

    def __init__(
        self,
        c: BertConfig,
        dtype: DType,
        seed: int,
        num_labels: int,
        embeddings: Cell,
        *,
        drops_first: bool = False,
        tags: bool = False,
    ) -> None:
        super().__init__()
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.masks = nn.CellList([BertMask()])
        self.embeddings = embeddings
        layers = [BertLayer(c, dtype, seed, f"layers.{i}", i == c.layers - 1 and not tags) for i in range(c.layers)]
        self.layers = nn.CellList(layers)
        self.tags = tags
        if not tags:
            self.pooler = dense(c.hidden, c.hidden, ms.float32)
            self.tanh = Tanh()
        self.drops_first = drops_first and not tags
        if self.drops_first:
            self.first_dropout = Dropout(c.classifier_dropout, seed, "first_dropout")
        self.dropout = Dropout(c.classifier_dropout, seed, "dropout")
        self.classifier = dense(c.hidden, num_labels, ms.float32)

    def open_stages(self, count: int) -> list[Cell]:
        """Have the shared inputs of the layers made on each of `count` stages. Returns the cells that make them."""
        self.masks.extend([BertMask() for _ in range(count - len(self.masks))])
        return list(self.masks)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, beside: Tensor, part: int = 0) -> Tensor:
        """`part`: number of the batch's part that a pipeline sees; it changes nothing, but see train.pipelined."""
        x = self.embeddings(input_ids, segment_ids, beside)
        made: tuple[Tensor, ...] = ()
        for mask in self.masks:
            made = (*made, mask(segment_ids, self.prefix_tokens, self.prompt_tokens, part))
        for i, layer in enumerate(self.layers):
            x = layer(x, made[i * len(self.masks) // len(self.layers)], part)
        if self.tags:
            x = ops.cast(x[:, self.prompt_tokens :] if self.prompt_tokens > 0 else x, ms.float32)
            return ops.cast(self.classifier(self.dropout(x)), ms.float32)
        first = ops.reshape(x, (x.shape[0], x.shape[2]))
        first = ops.cast(first, ms.float32)
        pooled = self.tanh(self.pooler(self.first_dropout(first) if self.drops_first else first))
        return ops.cast(self.classifier(self.dropout(pooled)), ms.float32)


_CELLS = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def encoder_names(config: BertConfig, root: str, head: Mapping[str, str]) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it. `root`: the encoder's name; `head`: our cells of the head -> theirs."""
    table = {
        "embeddings.word.weight": StoredName(name=f"{root}.embeddings.word_embeddings.weight"),
        "embeddings.position.weight": StoredName(name=f"{root}.embeddings.position_embeddings.weight"),
        "embeddings.token_type.weight": StoredName(name=f"{root}.embeddings.token_type_embeddings.weight"),
    }
    cells = {"embeddings.norm": f"{root}.embeddings.LayerNorm"}
    for i in range(config.layers):
        cells.update({f"layers.{i}.{ours}": f"{root}.encoder.layer.{i}.{theirs}" for ours, theirs in _CELLS.items()})
    for kind in ("weight", "bias"):
        table.update({f"{ours}.{kind}": StoredName(name=f"{theirs}.{kind}") for ours, theirs in cells.items()})
        table.update(
            {f"{ours}.{kind}": StoredName(name=f"{theirs}.{kind}", optional=True) for ours, theirs in head.items()}
        )
    return table


_SPLITS = {
    "masks.*": "tokens",
    "embeddings": "tokens",
    "embeddings.word": "vocabulary",
    "embeddings.position": "whole",
    "embeddings.token_type": "whole",
    "embeddings.norm": "tokens",
    "embeddings.dropout": "tokens",
    "layers.*": "tokens",
    **dict.fromkeys((f"layers.*.attn.{role}" for role in "qkv"), "column"),
    **dict.fromkeys((f"layers.*.attn.{cell}" for cell in ("split", "core", "merge")), "heads"),
    "layers.*.attn.o": "row",
    "layers.*.mlp.up": "column",
    "layers.*.mlp.act": "wide",
    "layers.*.mlp.down": "row",
    **dict.fromkeys((f"layers.*.{part}_{cell}" for part in ("attn", "mlp") for cell in ("norm", "dropout")), "tokens"),
    **dict.fromkeys(("pooler", "tanh", "first_dropout", "dropout", "classifier"), "whole"),
}


def encoder_sites(config: BertConfig, names: Mapping[str, StoredName], trained_heads: tuple[str, ...]) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return Sites(
        linears={
            "q": "layers.*.attn.q",
            "k": "layers.*.attn.k",
            "v": "layers.*.attn.v",
            "o": "layers.*.attn.o",
            "up": "layers.*.mlp.up",
            "down": "layers.*.mlp.down",
        },
        default_roles=("q", "v"),
        tables=("embeddings.word", "embeddings.position", "embeddings.token_type"),
        embedding="embeddings.word",
        head="classifier",
        cores="layers.*.attn.core",
        sublayers=("layers.*.attn.o", "layers.*.mlp.down"),
        trained_heads=trained_heads,
        blocks="layers.*",
        splits=_SPLITS,
        hf_paths=cell_paths(names),
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.hidden // config.heads,
        layers=config.layers,
    )
