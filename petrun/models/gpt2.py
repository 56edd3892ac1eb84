"""GPT-2: a decoder with learned positions.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; layout and names of transformers' GPT2LMHeadModel,
whose Conv1D weights are stored (in, out).
B batch, T tokens, H hidden, N heads, D head width, S cache slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from petrun.data.tasks import DECODER_TASKS
from petrun.graph.sites import Sites
from petrun.kernels import Attention, Dropout, LayerNorm, SplitQkv
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.classifier import with_classifier
from petrun.models.decoder import Decoder, DecoderSizes, decoder_sites
from petrun.models.decoder_layer import DecoderLayer, LayerSizes, SelfAttention
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, named, tied_head
from petrun.typing import Cell, DType, JsonObject


@dataclass(frozen=True, kw_only=True)
class Gpt2Config(FamilyConfig):
    """config.json of a GPT-2."""

    positions: int
    act: str
    eps: float
    residual_dropout: float
    embedding_dropout: float
    attention_dropout: float
    scale_weights: bool
    scale_by_layer: bool
    tied: bool


def parse(raw: JsonObject) -> Gpt2Config:
    """Defaults are those of transformers' GPT2Config; sizes have none. Raises ModelError."""
    f = Fields(raw, "gpt2")
    f.only("add_cross_attention", (False,), False)
    # reorder_and_upcast_attn asks for float32 scores and softmax: they always are here.
    f.flag("reorder_and_upcast_attn", False)
    hidden, heads = f.integer("n_embd", aliases=["hidden_size"]), f.integer("n_head", aliases=["num_attention_heads"])
    if hidden % heads:
        f.wrong("n_embd", hidden, f"a multiple of n_head = {heads}")
    config = Gpt2Config(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("n_layer", aliases=["num_hidden_layers"]),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("n_inner", 4 * hidden),
        positions=f.integer("n_positions", 1024, ["max_position_embeddings"]),
        act=f.choice("activation_function", tuple(ACTIVATIONS), "gelu_new"),
        eps=f.positive("layer_norm_epsilon", 1e-5),
        residual_dropout=f.number("resid_pdrop", 0.1, below=1.0),
        embedding_dropout=f.number("embd_pdrop", 0.1, below=1.0),
        attention_dropout=f.number("attn_pdrop", 0.1, below=1.0),
        scale_weights=f.flag("scale_attn_weights", True),
        scale_by_layer=f.flag("scale_attn_by_inverse_layer_idx", False),
        tied=f.flag("tie_word_embeddings", True),
    )
    f.finish()
    return config


def _attention(c: Gpt2Config, dtype: DType, seed: int, index: int) -> SelfAttention:
    width = c.hidden // c.heads
    scale = width**-0.5 if c.scale_weights else 1.0
    if c.scale_by_layer:
        scale /= index + 1
    core = Attention(scale, c.attention_dropout, seed, f"layers.{index}.attn.core", c.heads)
    return SelfAttention(c.hidden, c.heads, dtype, core, SplitQkv(width))


def build(
    config: Gpt2Config, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    c, dtype, seed = config, DTYPES[compute_dtype], dropout_seed
    sizes = LayerSizes(hidden=c.hidden, wide=c.wide, act=c.act, eps=c.eps, dropout=c.residual_dropout)
    net = Decoder(
        DecoderSizes(
            vocab=c.vocab,
            hidden=c.hidden,
            kv_heads=c.heads,
            tied=c.tied,
            positions=c.positions,
            positions_field="n_positions",
            classes=num_labels,
            pad_token=c.pad_token,
        ),
        dtype,
        layers=[DecoderLayer(sizes, _attention(c, dtype, seed, i), dtype, seed, i) for i in range(c.layers)],
        dropout=Dropout(c.embedding_dropout, seed, "dropout"),
        norm=LayerNorm(c.hidden, c.eps),
    )
    return named(net)


_CONV1D = {"attn.qkv": "attn.c_attn", "attn.o": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
_NORMS = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}


def names(config: Gpt2Config) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {
        "embed.weight": StoredName(name="transformer.wte.weight", also=tied_head(config.tied)),
        "positions.weight": StoredName(name="transformer.wpe.weight"),
        "norm.weight": StoredName(name="transformer.ln_f.weight"),
        "norm.bias": StoredName(name="transformer.ln_f.bias"),
    }
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    for i in range(config.layers):
        for ours, theirs in {**_CONV1D, **_NORMS}.items():
            weight = StoredName(name=f"transformer.h.{i}.{theirs}.weight", transpose=ours in _CONV1D)
            table[f"layers.{i}.{ours}.weight"] = weight
            table[f"layers.{i}.{ours}.bias"] = StoredName(name=f"transformer.h.{i}.{theirs}.bias")
    return table


def sites(config: Gpt2Config) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return decoder_sites(config, names(config), _CONV1D, ("qkv",))


FAMILY = with_classifier(
    Family(
        name="gpt2",
        hf_classes={"gpt2": "GPT2LMHeadModel"},
        tasks=DECODER_TASKS,
        inputs=("input_ids", "segment_ids", "position_ids"),
        parse=parse,
        build=build,
        sites=sites,
        names=names,
        prefixes=("", "transformer."),
        # Causal masks that old files store as buffers.
        ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    ),
    {"gpt2": "GPT2ForSequenceClassification"},
)
