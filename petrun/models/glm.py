"""GLM-4: Llama's net with half of each head rotated, neighbours as pairs, and one matrix for gate and up; GLM-4-0414 norms what a branch
adds, too.

Source: GLM team, arXiv:2406.12793; layout and names of transformers' GlmForCausalLM and Glm4ForCausalLM.
"""

from __future__ import annotations

from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, grouped_heads
from petrun.models.llama_family import llama_family
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import parse_rope
from petrun.typing import JsonObject


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' GlmConfig and Glm4Config; sizes have none. Raises ModelError."""
    kind = str(raw.get("model_type") or "glm")
    f = Fields(raw, kind)
    heads, layers = f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    kv_heads = grouped_heads(f, heads, 2)
    head_dim = f.integer("head_dim", 128)
    positions = f.integer("max_position_embeddings", 131072)
    config = LlamaConfig(
        vocab=f.integer("vocab_size"),
        hidden=f.integer("hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        wide=f.integer("intermediate_size"),
        positions=positions,
        act=f.choice("hidden_act", tuple(ACTIVATIONS), "silu"),
        eps=f.positive("rms_norm_eps", 1.5625e-07),
        qkv_bias=f.flag("attention_bias", True),
        o_bias=False,
        mlp_bias=False,
        qk_norm=False,
        gate_up=True,
        sandwich=kind == "glm4",
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=parse_rope(f, head_dim, positions, share=0.5, interleaved=True),
        windows=(0,) * layers,
    )
    f.finish()
    return config


FAMILY = llama_family(
    name="glm",
    causal={"glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM"},
    classes={"glm": "GlmForSequenceClassification", "glm4": "Glm4ForSequenceClassification"},
    parse=parse,
)
