"""OPT: a decoder with learned positions and ReLU; the 350M model norms after each branch, and its embedding is narrower than its layers.

Source: Zhang et al., arXiv:2205.01068; layout and names of transformers' OPTForCausalLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from petrun.data.tasks import DECODER_TASKS
from petrun.graph.sites import Sites
from petrun.kernels import Attention, LayerNorm
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.classifier import with_classifier
from petrun.models.decoder import Decoder, DecoderSizes, decoder_sites
from petrun.models.decoder_layer import DecoderLayer, LayerSizes, SelfAttention
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, named, tied_head
from petrun.typing import Cell, DType, JsonObject

_EPS = 1e-5
"""Of every norm: config.json does not say it."""
_UNUSED_POSITIONS = 2
"""Rows at the begin of the table of positions: transformers gives padding the second one."""


@dataclass(frozen=True, kw_only=True)
class OptConfig(FamilyConfig):
    """config.json of an OPT."""

    positions: int
    embedding: int
    """Width of the token embedding."""
    act: str
    norm_first: bool
    final_norm: bool
    bias: bool
    dropout: float
    attention_dropout: float
    tied: bool


def parse(raw: JsonObject) -> OptConfig:
    """Defaults are those of transformers' OPTConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "opt")
    f.only("layer_norm_elementwise_affine", (True,), True)
    # It leaves out whole layers at random while training.
    f.only("layerdrop", (0, 0.0), 0.0)
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    if hidden % heads:
        f.wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    norm_first = f.flag("do_layer_norm_before", True)
    config = OptConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("ffn_dim"),
        positions=f.integer("max_position_embeddings", 2048),
        embedding=f.integer("word_embed_proj_dim", hidden),
        act=f.choice("activation_function", tuple(ACTIVATIONS), "relu"),
        norm_first=norm_first,
        final_norm=norm_first and not f.flag("_remove_final_layer_norm", False),
        bias=f.flag("enable_bias", True),
        dropout=f.number("dropout", 0.1, below=1.0),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        tied=f.flag("tie_word_embeddings", True),
    )
    f.finish()
    return config


def build(
    config: OptConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    c, dtype = config, DTYPES[compute_dtype]
    net = Decoder(
        DecoderSizes(
            vocab=c.vocab,
            hidden=c.hidden,
            kv_heads=c.heads,
            tied=c.tied,
            embedding=c.embedding,
            positions=c.positions,
            positions_field="max_position_embeddings",
            unused_positions=_UNUSED_POSITIONS,
            classes=num_labels,
            pad_token=c.pad_token,
        ),
        dtype,
        layers=[_layer(c, dtype, dropout_seed, i) for i in range(c.layers)],
        norm=LayerNorm(c.hidden, _EPS) if c.final_norm else None,
    )
    return named(net)


def _layer(c: OptConfig, dtype: DType, seed: int, index: int) -> DecoderLayer:
    order = "pre" if c.norm_first else "post"
    sizes = LayerSizes(hidden=c.hidden, wide=c.wide, act=c.act, eps=_EPS, dropout=c.dropout, order=order, bias=c.bias)
    core = Attention((c.hidden // c.heads) ** -0.5, c.attention_dropout, seed, f"layers.{index}.attn.core", c.heads)
    return DecoderLayer(sizes, SelfAttention(c.hidden, c.heads, dtype, core, bias=c.bias), dtype, seed, index)


_LINEARS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.out_proj",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}
# The layer's own final_layer_norm is that of its feed-forward part.
_NORMS = {"attn_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm"}
_DECODER = "model.decoder"


def names(config: OptConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {
        "embed.weight": StoredName(name=f"{_DECODER}.embed_tokens.weight", also=tied_head(config.tied)),
        "positions.weight": StoredName(name=f"{_DECODER}.embed_positions.weight"),
    }
    if config.embedding != config.hidden:
        table |= {
            f"{path}.weight": StoredName(name=f"{_DECODER}.{path}.weight") for path in ("project_in", "project_out")
        }
    cells = {"norm": "final_layer_norm"} if config.final_norm else {}
    biased = set(cells)
    for i in range(config.layers):
        own = {f"layers.{i}.{ours}": f"layers.{i}.{theirs}" for ours, theirs in {**_LINEARS, **_NORMS}.items()}
        biased |= {ours for ours in own if config.bias or ours.endswith("norm")}
        cells |= own
    for ours, theirs in cells.items():
        table[f"{ours}.weight"] = StoredName(name=f"{_DECODER}.{theirs}.weight")
        if ours in biased:
            table[f"{ours}.bias"] = StoredName(name=f"{_DECODER}.{theirs}.bias")
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    return table


def sites(config: OptConfig) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return replace(decoder_sites(config, names(config), _LINEARS, ("q", "v")), hidden=config.embedding)


FAMILY = with_classifier(
    Family(
        name="opt",
        hf_classes={"opt": "OPTForCausalLM"},
        tasks=DECODER_TASKS,
        inputs=("input_ids", "segment_ids", "position_ids"),
        parse=parse,
        build=build,
        sites=sites,
        names=names,
        # OPTModel is saved without the first part, its decoder alone without both.
        prefixes=("", "model.", "model.decoder."),
    ),
    {"opt": "OPTForSequenceClassification"},
)
