"""Mixtral: Llama's net with a feed-forward part of experts in every layer.

Source: Jiang et al., arXiv:2401.04088; layout and names of transformers' MixtralForCausalLM, and of the files on hubs.
"""

from __future__ import annotations

from functools import partial

from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, chosen_experts, grouped_heads, head_width
from petrun.models.llama_family import llama_family
from petrun.models.llama_names import NetNames, names, sites
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import parse_rope
from petrun.typing import JsonObject

_NAMES = NetNames(
    router="block_sparse_moe.gate",
    experts={
        role: f"block_sparse_moe.experts.*.{name}" for role, name in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
    },
)


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' MixtralConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "mixtral", own=("num_local_experts", "num_experts"))
    hidden, heads, layers = f.integer("hidden_size"), f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    # A null says that every head has keys and values of its own.
    kv_heads = grouped_heads(f, heads, heads if "num_key_value_heads" in f.raw else 8)
    head_dim, positions = head_width(f, hidden, heads), f.integer("max_position_embeddings", 4096 * 32)
    experts, per_token = chosen_experts(f, experts=8, per_token=2)
    # Noise on what the router reads, in training.
    f.only("router_jitter_noise", (0, 0.0), 0.0)
    window, wide = f.integer("sliding_window", 0, least=0), f.integer("intermediate_size")
    config = LlamaConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        wide=wide,
        positions=positions,
        act=f.choice("hidden_act", tuple(ACTIVATIONS), "silu"),
        eps=f.positive("rms_norm_eps", 1e-5),
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=parse_rope(f.instead({"rope_theta": f.value("rope_theta", 1e6)}), head_dim, positions),
        windows=(window,) * layers,
        experts=experts,
        experts_per_token=per_token,
        expert_wide=wide,
        renormalises=True,
    )
    f.finish()
    return config


FAMILY = llama_family(
    name="mixtral",
    causal={"mixtral": "MixtralForCausalLM"},
    classes={"mixtral": "MixtralForSequenceClassification"},
    parse=parse,
    sites=partial(sites, stored=_NAMES),
    names=partial(names, stored=_NAMES),
)
