"""BLOOM: a decoder without positions, whose attention is biased against distance (ALiBi), with a norm after the embedding.

Source: BigScience, arXiv:2211.05100; Press et al., arXiv:2108.12409; layout and names of transformers' BloomForCausalLM, whose queries,
keys and values come out of one matrix, head by head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from petrun.data.tasks import DECODER_TASKS
from petrun.graph.sites import Sites
from petrun.kernels import Attention, LayerNorm, SplitHeadsQkv
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.classifier import with_classifier
from petrun.models.decoder import Decoder, DecoderSizes, decoder_sites
from petrun.models.decoder_layer import DecoderLayer, LayerSizes, SelfAttention
from petrun.models.fields import Fields
from petrun.models.parts import DTYPES, named, tied_head
from petrun.typing import Cell, DType, JsonObject


@dataclass(frozen=True, kw_only=True)
class BloomConfig(FamilyConfig):
    """config.json of a BLOOM."""

    eps: float
    residual_of_norm: bool
    """Whether a branch's residual is its normed input."""
    dropout: float
    attention_dropout: float
    tied: bool


def parse(raw: JsonObject) -> BloomConfig:
    """Defaults are those of transformers' BloomConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "bloom", own=("alibi",))
    # Old files state it; every BLOOM has it.
    f.only("alibi", (True,), True)
    hidden, heads = f.integer("n_embed", aliases=["hidden_size"]), f.integer("n_head", aliases=["num_attention_heads"])
    if hidden % heads:
        f.wrong("hidden_size", hidden, f"a multiple of n_head = {heads}")
    # pretraining_tp and slow_but_exact split matrix products into parts: the same sums in another order.
    config = BloomConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("n_layer", aliases=["num_hidden_layers"]),
        heads=heads,
        kv_heads=heads,
        wide=4 * hidden,
        positions=None,
        eps=f.positive("layer_norm_epsilon", 1e-5),
        residual_of_norm=f.flag("apply_residual_connection_post_layernorm", False),
        dropout=f.number("hidden_dropout", 0.0, below=1.0),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        tied=f.flag("tie_word_embeddings", True),
    )
    f.finish()
    return config


def slopes(heads: int) -> tuple[float, ...]:
    """Return each head's slope: 2^(-8 i / n), i from 1 to n, for a power of two n; of other numbers of heads the rest gets every second
    slope of 2 n heads.

    Source: Press et al., section 3; the rest as in transformers' `_get_alibi_slopes`.
    """
    whole = 2 ** math.floor(math.log2(heads))
    own = [2 ** (-8 * i / whole) for i in range(1, whole + 1)]
    return (*own, *(2 ** (-4 * i / whole) for i in range(1, 2 * (heads - whole), 2)))


def build(
    config: BloomConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    c, dtype = config, DTYPES[compute_dtype]
    net = Decoder(
        DecoderSizes(
            vocab=c.vocab, hidden=c.hidden, kv_heads=c.heads, tied=c.tied, classes=num_labels, pad_token=c.pad_token
        ),
        dtype,
        layers=[_layer(c, dtype, dropout_seed, i) for i in range(c.layers)],
        embed_norm=LayerNorm(c.hidden, c.eps),
        norm=LayerNorm(c.hidden, c.eps),
    )
    return named(net)


def _layer(c: BloomConfig, dtype: DType, seed: int, index: int) -> DecoderLayer:
    width = c.hidden // c.heads
    core = Attention(
        width**-0.5, c.attention_dropout, seed, f"layers.{index}.attn.core", c.heads, slopes=slopes(c.heads)
    )
    sizes = LayerSizes(
        hidden=c.hidden,
        wide=c.wide,
        # Its tanh form has 0.79788456 for sqrt(2 / pi), the same float32.
        act="gelu_pytorch_tanh",
        eps=c.eps,
        dropout=c.dropout,
        order="normed" if c.residual_of_norm else "pre",
    )
    attention = SelfAttention(c.hidden, c.heads, dtype, core, SplitHeadsQkv(width))
    return DecoderLayer(sizes, attention, dtype, seed, index)


_LINEARS = {
    "attn.qkv": "self_attention.query_key_value",
    "attn.o": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def names(config: BloomConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {"embed.weight": StoredName(name="transformer.word_embeddings.weight", also=tied_head(config.tied))}
    cells = {"embed_norm": "word_embeddings_layernorm", "norm": "ln_f"}
    for i in range(config.layers):
        cells |= {f"layers.{i}.{ours}": f"h.{i}.{theirs}" for ours, theirs in {**_LINEARS, **_NORMS}.items()}
    for ours, theirs in cells.items():
        for kind in ("weight", "bias"):
            table[f"{ours}.{kind}"] = StoredName(name=f"transformer.{theirs}.{kind}")
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    return table


def sites(config: BloomConfig) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return replace(decoder_sites(config, names(config), _LINEARS, ("qkv",)), mask_positions=True)


FAMILY = with_classifier(
    Family(
        name="bloom",
        hf_classes={"bloom": "BloomForCausalLM"},
        tasks=DECODER_TASKS,
        inputs=("input_ids", "segment_ids", "position_ids"),
        parse=parse,
        build=build,
        sites=sites,
        names=names,
        prefixes=("", "transformer."),
    ),
    {"bloom": "BloomForSequenceClassification"},
)
