"""Names of the parameters of Llama's net, as transformers saves them, and the sites where deltas attach."""

from __future__ import annotations

from petrun.graph.sites import Sites
from petrun.models.base import StoredName
from petrun.models.llama_config import LlamaConfig
from petrun.models.parts import cell_paths, tied_head

_CELLS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}


_QK_NORMS = {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
_POST_NORMS = {"attn_post_norm": "post_self_attn_layernorm", "mlp_post_norm": "post_mlp_layernorm"}


def _cells(config: LlamaConfig) -> dict[str, str]:
    """Return the cells of a layer that own parameters -> their names in transformers."""
    cells: dict[str, str] = {}
    for ours, theirs in _CELLS.items():
        if not config.gate_up or ours not in ("mlp.gate", "mlp.up"):
            cells[ours] = theirs
        elif ours == "mlp.gate":
            cells["mlp.gate_up"] = "mlp.gate_up_proj"
    return {**cells, **(_QK_NORMS if config.qk_norm else {}), **(_POST_NORMS if config.sandwich else {})}


def names(config: LlamaConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {
        "embed.weight": StoredName(name="model.embed_tokens.weight", also=tied_head(config.tied)),
        "norm.weight": StoredName(name="model.norm.weight"),
    }
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    cells = _cells(config)
    biased = {
        **dict.fromkeys(("attn.q", "attn.k", "attn.v"), config.qkv_bias),
        "attn.o": config.o_bias,
        **dict.fromkeys(("mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"), config.mlp_bias),
    }
    for i in range(config.layers):
        for ours, theirs in cells.items():
            table[f"layers.{i}.{ours}.weight"] = StoredName(name=f"model.layers.{i}.{theirs}.weight")
            if biased.get(ours):
                table[f"layers.{i}.{ours}.bias"] = StoredName(name=f"model.layers.{i}.{theirs}.bias")
    return table


_SPLITS = {
    "embed": "vocabulary",
    "tables.*.rotary": "tokens",
    "tables.*.causal_mask": "tokens",
    "layers.*": "stream",
    "layers.*.attn_norm": "stream",
    **dict.fromkeys((f"layers.*.attn.{role}" for role in "qkv"), "column"),
    **dict.fromkeys(
        (f"layers.*.attn.{cell}" for cell in ("q_norm", "k_norm", "split", "rotate", "core", "merge")), "heads"
    ),
    "layers.*.attn.o": "row",
    "layers.*.mlp_norm": "stream",
    **dict.fromkeys((f"layers.*.{part}_post_norm" for part in ("attn", "mlp")), "stream"),
    "layers.*.mlp.gate": "column",
    "layers.*.mlp.up": "column",
    "layers.*.mlp.gate_up": "column",
    "layers.*.mlp.halves": "tokens",
    "layers.*.mlp.act": "wide",
    "layers.*.mlp.down": "row",
    "norm": "stream",
    "head": "column",
}


def sites(config: LlamaConfig) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return Sites(
        linears={
            ours.rpartition(".")[2]: f"layers.*.{ours}" for ours in _cells(config) if "." in ours and "norm" not in ours
        },
        default_roles=("q", "v"),
        tables=("embed",),
        embedding="embed",
        head="head",
        cores="layers.*.attn.core",
        positions="tables.*.rotary",
        window=max(config.windows),
        sublayers=("layers.*.attn.o", "layers.*.mlp.down"),
        blocks="layers.*",
        splits=_SPLITS,
        hf_paths={**cell_paths(names(config)), "head": "lm_head"},
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        layers=config.layers,
    )
