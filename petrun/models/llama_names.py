"""Names of the parameters of Llama's net, as the files of its families have them, and the sites where deltas attach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from petrun.graph.sites import Sites
from petrun.models.base import JoinedName, StoredName
from petrun.models.llama_config import LlamaConfig
from petrun.models.parts import cell_paths

_CELLS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.qkv": "self_attn.qkv_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.gate_up": "mlp.gate_up_proj",
    "mlp.down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn_post_norm": "post_self_attn_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


@dataclass(frozen=True, kw_only=True)
class NetNames:
    """What transformers, or a model's own code, calls the parts of this net."""

    embed: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    cells: Mapping[str, str] = field(default_factory=lambda: _CELLS)
    """Cell of a layer -> its name there."""
    router: str = "mlp.gate"
    """In a layer that has experts."""
    experts: Mapping[str, str] = field(
        default_factory=lambda: {role: f"mlp.experts.*.{role}_proj" for role in ("gate", "up", "down")}
    )
    """Role -> the name of its matrices in such a layer, `*` for the number of the expert."""


LLAMA = NetNames()


def with_cells(**changed: str) -> dict[str, str]:
    """Return Llama's names of a layer's cells, some of them changed; `__` stands for a dot."""
    return {**_CELLS, **{ours.replace("__", "."): theirs for ours, theirs in changed.items()}}


def _cells(config: LlamaConfig) -> list[str]:
    """Return the cells of a layer that own parameters."""
    left_out = {"attn.q", "attn.k", "attn.v"} if config.qkv else {"attn.qkv"}
    left_out |= {"mlp.gate", "mlp.up"} if config.gate_up else {"mlp.gate_up"}
    left_out |= set() if config.qk_norm else {"attn.q_norm", "attn.k_norm"}
    left_out |= set() if config.sandwich else {"attn_post_norm", "mlp_post_norm"}
    return [cell for cell in _CELLS if cell not in left_out]


def names(config: LlamaConfig, stored: NetNames = LLAMA) -> dict[str, StoredName]:
    """Name every parameter as the family's files do."""
    head = f"{stored.head}.weight"
    table = {
        "embed.weight": StoredName(name=f"{stored.embed}.weight", also={head: "head.weight"} if config.tied else {}),
        "norm.weight": StoredName(name=f"{stored.norm}.weight"),
    }
    if not config.tied:
        table["head.weight"] = StoredName(name=head)
    biased = {
        **dict.fromkeys(("attn.q", "attn.k", "attn.v", "attn.qkv"), config.qkv_bias),
        "attn.o": config.o_bias,
        **dict.fromkeys(("mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"), config.mlp_bias),
    }
    for i in range(config.layers):
        has_experts = config.has_experts(i)
        if has_experts:
            table |= _expert_names(config, stored, i)
        for ours in _cells(config):
            if has_experts and ours in _PLAIN:
                continue
            path = f"{stored.layers}.{i}.{stored.cells[ours]}"
            table[f"layers.{i}.{ours}.weight"] = StoredName(name=f"{path}.weight")
            if biased.get(ours):
                table[f"layers.{i}.{ours}.bias"] = StoredName(name=f"{path}.bias")
    return table


_PLAIN = ("mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down")
"""Cells of a layer without experts."""


def _expert_names(config: LlamaConfig, stored: NetNames, layer: int) -> dict[str, StoredName]:
    """Name the router and the experts of a layer. transformers 5 holds them as stacks, gate and up joined, and files may, too."""
    ours, theirs, wide = f"layers.{layer}.mlp", f"{stored.layers}.{layer}", config.expert_wide
    joined = {
        "gate": JoinedName(name=f"{theirs}.mlp.experts.gate_up_proj", end=wide),
        "up": JoinedName(name=f"{theirs}.mlp.experts.gate_up_proj", begin=wide),
        "down": JoinedName(name=f"{theirs}.mlp.experts.down_proj"),
    }
    table = {
        f"{ours}.router.weight": StoredName(
            name=f"{theirs}.{stored.router}.weight", joined=JoinedName(name=f"{theirs}.mlp.gate.weight")
        )
    }
    for role, path in stored.experts.items():
        name = f"{theirs}.{path}.weight"
        parts = tuple(name.replace("*", str(expert)) for expert in range(config.experts))
        table[f"{ours}.{role}.weight"] = StoredName(name=name, parts=parts, joined=joined[role])
    return table


_SPLITS = {
    "embed": "vocabulary",
    "scale": "tokens",
    "tables.*.rotary": "tokens",
    "tables.*.causal_mask": "tokens",
    "layers.*": "stream",
    "layers.*.attn_norm": "stream",
    **dict.fromkeys((f"layers.*.attn.{role}" for role in ("q", "k", "v", "qkv")), "column"),
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
    "layers.*.mlp.product": "wide",
    "layers.*.mlp.down": "row",
    **dict.fromkeys((f"layers.*.mlp.{cell}" for cell in ("router", "by_expert", "mix")), "tokens"),
    "norm": "stream",
    "head": "column",
    "cap": "wide",
}


def sites(config: LlamaConfig, stored: NetNames = LLAMA) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    plain = not all(config.has_experts(i) for i in range(config.layers))
    return Sites(
        linears={
            ours.rpartition(".")[2]: f"layers.*.{ours}"
            for ours in _cells(config)
            if "." in ours and "norm" not in ours and (plain or ours not in _PLAIN)
        },
        default_roles=("qkv",) if config.qkv else ("q", "v"),
        tables=("embed",),
        embedding="embed",
        embedding_scale=config.embedding_scale,
        head="head",
        cores="layers.*.attn.core",
        positions="tables.*.rotary",
        prefix_positions=config.prefix_positions,
        window=max(config.windows),
        sublayers=("layers.*.attn.o", *(("layers.*.mlp.down",) if plain else ())),
        blocks="layers.*",
        splits=_SPLITS,
        hf_paths={**cell_paths(names(config, stored)), "head": stored.head},
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        layers=config.layers,
    )
