"""BERT: a bidirectional encoder with a classification head.

Source: Devlin et al., arXiv:1810.04805; layout and names of transformers' BertForSequenceClassification.
B batch, T tokens, H hidden, N heads, D head width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.sites import Sites
from petrun.kernels import Attention, Dropout, LayerNorm, MergeHeads, SplitHeads, Tanh
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, Embedding, FeedForward, cell_paths, dense, named
from petrun.typing import Cell, DType, JsonObject, Tensor


@dataclass(frozen=True, kw_only=True)
class BertConfig(FamilyConfig):
    """config.json of a BERT."""

    positions: int
    token_types: int
    act: str
    eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float


def parse(raw: JsonObject) -> BertConfig:
    """Defaults are those of transformers' BertConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "bert")
    f.only("position_embedding_type", ("absolute",), "absolute")
    f.only("is_decoder", (False,), False)
    f.only("add_cross_attention", (False,), False)
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    if hidden % heads:
        f.wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    hidden_dropout = f.number("hidden_dropout_prob", 0.1, below=1.0)
    config = BertConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("intermediate_size"),
        positions=f.integer("max_position_embeddings", 512),
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


class BertEmbeddings(nn.Cell):
    """LayerNorm(word[ids] + position[0..T-1] + token_type[types]), then dropout.

    A prompt's vectors replace word embeddings, with token type 0; a prefix takes the first positions.
    Inputs: input_ids, token_type_ids (B, T) int32. Returns: (B, P + T, H).
    """

    def __init__(self, c: BertConfig, dtype: DType, seed: int) -> None:
        super().__init__()
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.word = Embedding(c.vocab, c.hidden, dtype)
        self.position = Embedding(c.positions, c.hidden, dtype)
        self.token_type = Embedding(c.token_types, c.hidden, dtype)
        self.norm = LayerNorm(c.hidden, c.eps)
        self.dropout = Dropout(c.hidden_dropout, seed, "embeddings.dropout")
        self.add_type, self.add_position = ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch; the positions are the same for all."""
        self.add_type.shard(((dp, 1, 1), (dp, 1, 1)))
        self.add_position.shard(((dp, 1, 1), (1, 1, 1)))

    def construct(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        rows, tokens = input_ids.shape
        words, count = self.word(input_ids), self.prompt_tokens
        if count > 0:
            words = ops.concat((self.word.prompt(rows, words.dtype), words), 1)
            token_type_ids = ops.concat((ops.zeros((rows, count), token_type_ids.dtype), token_type_ids), 1)
        positions = ops.reshape(self.position.slice(self.prefix_tokens, count + tokens), (1, count + tokens, -1))
        x = self.add_position(self.add_type(words, self.token_type(token_type_ids)), positions)
        return self.dropout(self.norm(x))


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
    """Logits from the first position: classifier(dropout(tanh(pooler(x[:, 0])))).

    Inputs: input_ids, segment_ids (0 = padding), token_type_ids, each (B, T) int32. Returns: (B, C) float32.
    """

    def __init__(self, c: BertConfig, dtype: DType, seed: int, num_labels: int) -> None:
        super().__init__()
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.masks = nn.CellList([BertMask()])
        self.embeddings = BertEmbeddings(c, dtype, seed)
        layers = [BertLayer(c, dtype, seed, f"layers.{i}", i == c.layers - 1) for i in range(c.layers)]
        self.layers = nn.CellList(layers)
        self.pooler = dense(c.hidden, c.hidden, ms.float32)
        self.tanh = Tanh()
        self.dropout = Dropout(c.classifier_dropout, seed, "dropout")
        self.classifier = dense(c.hidden, num_labels, ms.float32)

    def open_stages(self, count: int) -> list[Cell]:
        """Have the shared inputs of the layers made on each of `count` stages. Returns the cells that make them."""
        self.masks.extend([BertMask() for _ in range(count - len(self.masks))])
        return list(self.masks)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, token_type_ids: Tensor, part: int = 0) -> Tensor:
        """`part`: number of the batch's part that a pipeline sees; it changes nothing, but see train.pipelined."""
        x = self.embeddings(input_ids, token_type_ids)
        made: tuple[Tensor, ...] = ()
        for mask in self.masks:
            made = (*made, mask(segment_ids, self.prefix_tokens, self.prompt_tokens, part))
        for i, layer in enumerate(self.layers):
            x = layer(x, made[i * len(self.masks) // len(self.layers)], part)
        first = ops.reshape(x, (x.shape[0], x.shape[2]))
        pooled = self.tanh(self.pooler(ops.cast(first, ms.float32)))
        return ops.cast(self.classifier(self.dropout(pooled)), ms.float32)


def build(
    config: BertConfig,
    *,
    compute_dtype: str = "float32",
    dropout_seed: int = 0,
    num_labels: int | None = None,
) -> nn.Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    return named(Bert(config, DTYPES[compute_dtype], dropout_seed, num_labels or 2))


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


def names(config: BertConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {
        "embeddings.word.weight": StoredName(name="bert.embeddings.word_embeddings.weight"),
        "embeddings.position.weight": StoredName(name="bert.embeddings.position_embeddings.weight"),
        "embeddings.token_type.weight": StoredName(name="bert.embeddings.token_type_embeddings.weight"),
    }
    cells = {"embeddings.norm": "bert.embeddings.LayerNorm"}
    for i in range(config.layers):
        cells.update({f"layers.{i}.{ours}": f"bert.encoder.layer.{i}.{theirs}" for ours, theirs in _CELLS.items()})
    for kind in ("weight", "bias"):
        table.update({f"{ours}.{kind}": StoredName(name=f"{theirs}.{kind}") for ours, theirs in cells.items()})
        table[f"pooler.{kind}"] = StoredName(name=f"bert.pooler.dense.{kind}", optional=True)
        table[f"classifier.{kind}"] = StoredName(name=f"classifier.{kind}", optional=True)
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
    **dict.fromkeys(("pooler", "tanh", "dropout", "classifier"), "whole"),
}


def sites(config: BertConfig) -> Sites:
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
        trained_heads=("classifier.*",),
        blocks="layers.*",
        splits=_SPLITS,
        hf_paths=cell_paths(names(config)),
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.hidden // config.heads,
        layers=config.layers,
    )


FAMILY = Family(
    name="bert",
    hf_classes={"bert": "BertForSequenceClassification"},
    tasks=("classify",),
    inputs=("input_ids", "segment_ids", "token_type_ids"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "bert."),
    # Buffers, and the heads of other tasks, which sequence classification does not use.
    ignored=("bert.embeddings.position_ids", "cls.*", "qa_outputs.*"),
)
