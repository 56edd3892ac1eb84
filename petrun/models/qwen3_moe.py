"""Qwen3's mixture of experts: Qwen3's net with a feed-forward part of experts, in all layers or some.

Source: Yang et al., arXiv:2505.09388; layout and names of transformers' Qwen3MoeForCausalLM, and of the files on hubs.
"""

from __future__ import annotations

from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, chosen_experts, grouped_heads, head_width
from petrun.models.llama_family import llama_family
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import parse_rope
from petrun.typing import JsonObject


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' Qwen3MoeConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "qwen3_moe", own=("num_local_experts", "num_experts"))
    hidden, heads, layers = f.integer("hidden_size"), f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    kv_heads = grouped_heads(f, heads, 4)
    head_dim, positions = head_width(f, hidden, heads), f.integer("max_position_embeddings", 32768)
    experts, per_token = chosen_experts(f, experts=128, per_token=8)
    biased = f.flag("attention_bias", False)
    # One window for all layers, unlike Qwen2's and Qwen3's.
    windowed = f.flag("use_sliding_window", False) and f.raw.get("sliding_window", 4096) is not None
    window = f.integer("sliding_window", 4096) if windowed else 0
    config = LlamaConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        wide=f.integer("intermediate_size"),
        positions=positions,
        act=f.choice("hidden_act", tuple(ACTIVATIONS), "silu"),
        eps=f.positive("rms_norm_eps", 1e-6),
        qkv_bias=biased,
        o_bias=biased,
        mlp_bias=False,
        qk_norm=True,
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=parse_rope(f, head_dim, positions),
        windows=(window,) * layers,
        experts=experts,
        experts_per_token=per_token,
        expert_wide=f.integer("moe_intermediate_size", 768),
        renormalises=f.flag("norm_topk_prob", False),
        plain_layers=_plain_layers(f, layers),
    )
    f.finish()
    return config


def _plain_layers(f: Fields, layers: int) -> tuple[int, ...]:
    """Return the layers without experts: those that are named, and all but every `decoder_sparse_step`-th."""
    named = f.value("mlp_only_layers", [])
    if not isinstance(named, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in named):
        f.wrong("mlp_only_layers", named, "a list of layers, counted from 0")
        named = []
    step = f.integer("decoder_sparse_step", 1)
    return tuple(i for i in range(layers) if i in named or (i + 1) % step)


FAMILY = llama_family(
    name="qwen3_moe",
    causal={"qwen3_moe": "Qwen3MoeForCausalLM"},
    classes={"qwen3_moe": "Qwen3MoeForSequenceClassification"},
    parse=parse,
)
