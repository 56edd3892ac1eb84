"""T5 and mT5: an encoder of the source and a decoder of the target, with biases by distance in the place of positions.

Source: Raffel et al., arXiv:1910.10683; Xue et al., arXiv:2010.11934; layout and names of transformers' T5ForConditionalGeneration. The
first T5 has ReLU, and one matrix for embedding and head; v1.1, Flan-T5 and mT5 have a gated GELU, and a head of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from petrun.graph.sites import Sites
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, cell_paths, named
from petrun.models.t5_net import T5Net, T5Sizes
from petrun.tensors import TensorReader, tensor_digest
from petrun.typing import Cell, JsonObject

_HEADS = ("lm_head.weight", "head.weight")
_EMBEDDINGS = ("shared.weight", "embed.weight", "encoder.embed_tokens.weight")


@dataclass(frozen=True, kw_only=True)
class T5Config(FamilyConfig):
    """config.json of a T5. `layers` are the encoder's."""

    decoder_layers: int
    head_width: int
    act: str
    gated: bool
    eps: float
    dropout: float
    buckets: int
    far: int
    tied: bool
    """Whether the head is the embedding's matrix."""
    scaled: bool
    """Whether the head reads states times H^-0.5."""


def parse(raw: JsonObject) -> T5Config:
    """Defaults are those of transformers' T5Config and MT5Config; sizes have none. Raises ModelError."""
    is_mt5 = raw.get("model_type") == "mt5"
    f = Fields(raw, "mt5" if is_mt5 else "t5", ("is_encoder_decoder",))
    f.only("is_encoder_decoder", (True,), True)
    f.only("is_decoder", (False,), False)
    gated, act = _activation(f, "gated-gelu" if is_mt5 else "relu")
    buckets = f.integer("relative_attention_num_buckets", 32, least=4)
    far = f.integer("relative_attention_max_distance", 128)
    if far <= buckets // 2:
        f.wrong("relative_attention_max_distance", far, f"above half of relative_attention_num_buckets = {buckets}")
    heads, layers = f.integer("num_heads"), f.integer("num_layers")
    pad = f.integer("pad_token_id", 0, least=0)
    tied = f.flag("tie_word_embeddings", True)
    vocab = f.integer("vocab_size")
    start = f.integer("decoder_start_token_id", pad, least=0)
    if start >= vocab:
        f.wrong("decoder_start_token_id", start, f"below vocab_size = {vocab}")
    config = T5Config(
        vocab=vocab,
        hidden=f.integer("d_model"),
        layers=layers,
        heads=heads,
        kv_heads=heads,
        wide=f.integer("d_ff"),
        positions=None,
        decoder_start=start,
        decoder_layers=f.integer("num_decoder_layers", layers),
        head_width=f.integer("d_kv"),
        act=act,
        gated=gated,
        eps=f.positive("layer_norm_epsilon", 1e-6),
        dropout=f.number("dropout_rate", 0.1, below=1.0),
        buckets=buckets,
        far=far,
        # transformers 5 writes `true` whatever the weights are, and says beside it whether the states are scaled.
        tied=tied,
        scaled=not is_mt5 and f.flag("scale_decoder_outputs", tied),
    )
    f.finish()
    return config


def _activation(f: Fields, default: str) -> tuple[bool, str]:
    """Return (whether the feed-forward part has a gate, its activation), as T5Config makes them of feed_forward_proj."""
    stated = str(f.value("feed_forward_proj", default))
    gate, _, act = stated.rpartition("-")
    if stated == "gated-gelu":
        act = "gelu_new"
    if gate not in ("", "gated") or act not in ACTIVATIONS:
        f.unsupported("feed_forward_proj", stated, "relu, gated-gelu, or either form with another activation")
        return False, "relu"
    f.only("dense_act_fn", (act,), act)
    f.only("is_gated_act", (gate == "gated",), gate == "gated")
    return gate == "gated", act


def settle(config: T5Config, reader: TensorReader) -> T5Config:
    """Return the config with `tied` as the files have it: a head that differs from the embedding is its own, whatever config.json says,
    and where there is none the embedding is the head. So does transformers 5, whose configs always say that the two are tied."""
    held = set(reader.names)
    head = next((name for name in _HEADS if name in held), None)
    if head is None:
        return replace(config, tied=True)
    embedding = next((name for name in _EMBEDDINGS if name in held), None)
    alike = config.tied and embedding is not None
    tied = alike and tensor_digest(reader, head) == tensor_digest(reader, str(embedding))
    return replace(config, tied=tied)


def build(
    config: T5Config, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    c = config
    sizes = T5Sizes(
        hidden=c.hidden,
        heads=c.heads,
        head_width=c.head_width,
        wide=c.wide,
        act=c.act,
        gated=c.gated,
        eps=c.eps,
        dropout=c.dropout,
        buckets=c.buckets,
        far=c.far,
    )
    assert c.decoder_start is not None
    net = T5Net(
        sizes,
        DTYPES[compute_dtype],
        vocab=c.vocab,
        layers=(c.layers, c.decoder_layers),
        start=c.decoder_start,
        seed=dropout_seed,
    )
    if c.tied:
        net.tie_head()
    if c.scaled:
        net.scale_states(c.hidden)
    return named(net)


_ATTENTION = ("q", "k", "v", "o")


def names(config: T5Config) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    also = {"encoder.embed_tokens.weight": "", "decoder.embed_tokens.weight": ""}
    if config.tied:
        also["lm_head.weight"] = "head.weight"
    cells = {}
    for stack, count in (("encoder", config.layers), ("decoder", config.decoder_layers)):
        cells[f"{stack}.bias"] = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        cells[f"{stack}.norm"] = f"{stack}.final_layer_norm"
        for i in range(count):
            cells |= {
                f"{stack}.layers.{i}.{ours}": f"{stack}.block.{i}.layer.{theirs}"
                for ours, theirs in _layer(config, stack == "decoder").items()
            }
    table = {f"{ours}.weight": StoredName(name=f"{theirs}.weight") for ours, theirs in cells.items()}
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    return {"embed.weight": StoredName(name="shared.weight", also=also), **table}


def _layer(config: T5Config, of_target: bool) -> dict[str, str]:
    """Return path in a layer -> path below transformers' `layer`."""
    parts = [("attn", "SelfAttention"), *([("cross", "EncDecAttention")] if of_target else [])]
    found = {}
    for number, (ours, theirs) in enumerate(parts):
        found[f"{ours}_norm"] = f"{number}.layer_norm"
        found |= {f"{ours}.{role}": f"{number}.{theirs}.{role}" for role in _ATTENTION}
    last = len(parts)
    wide = ("wi_0", "wi_1", "wo") if config.gated else ("wi", "wo")
    return {**found, "mlp_norm": f"{last}.layer_norm"} | {
        f"mlp.{role}": f"{last}.DenseReluDense.{role}" for role in wide
    }


_SPLITS = {
    "embed": "vocabulary",
    "mask": "tokens",
    **dict.fromkeys((f"*.{cell}" for cell in ("dropout", "norm", "last_dropout")), "tokens"),
    "*.layers.*": "tokens",
    **dict.fromkeys(
        (f"*.layers.*.{part}_{cell}" for part in ("attn", "cross", "mlp") for cell in ("norm", "dropout")), "tokens"
    ),
    **dict.fromkeys((f"*.layers.*.{part}.{role}" for part in ("attn", "cross") for role in "qkv"), "column"),
    **dict.fromkeys(
        (f"*.layers.*.{part}.{cell}" for part in ("attn", "cross") for cell in ("split", "core", "merge")), "heads"
    ),
    **dict.fromkeys((f"*.layers.*.{part}.o" for part in ("attn", "cross")), "row"),
    **dict.fromkeys((f"*.layers.*.mlp.{role}" for role in ("wi", "wi_0", "wi_1")), "column"),
    **dict.fromkeys((f"*.layers.*.mlp.{cell}" for cell in ("act", "times", "dropout")), "wide"),
    "*.layers.*.mlp.wo": "row",
    "scale": "tokens",
    "head": "column",
}


def sites(config: T5Config) -> Sites:
    """Describe where deltas attach."""
    wide = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    roles = {role: f"*.layers.*.{role}" for role in _ATTENTION}
    return Sites(
        linears={
            **roles,
            **{role: f"*.layers.*.mlp.{leaf}" for role, leaf in {**wide, "down": "wo"}.items()},
            "encoder": "encoder.layers.*.*.*",
            "decoder": "decoder.layers.*.*.*",
            "cross": "decoder.layers.*.cross.*",
        },
        default_roles=("q", "v"),
        tables=("embed",),
        embedding="embed",
        # As in peft: a prefix stands before the decoder's own keys and values, and a prompt before the source.
        cores="decoder.layers.*.attn.core",
        head="head",
        sublayers=("*.layers.*.attn.o", "*.layers.*.cross.o", "*.layers.*.mlp.wo"),
        blocks="*.layers.*",
        splits=_SPLITS,
        encoder_decoder=True,
        hf_paths={**cell_paths(names(config)), "head": "lm_head"},
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.head_width,
        layers=config.decoder_layers,
    )


FAMILY = Family(
    name="t5",
    hf_classes={"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"},
    tasks=("instruct",),
    inputs=("input_ids", "segment_ids", "decoder_input_ids"),
    parse=parse,
    settle=settle,
    build=build,
    sites=sites,
    names=names,
    # Of the first checkpoints; nothing reads it.
    ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)
