"""Phi-3 and Phi-4: Llama's net with one matrix for queries, keys and values, one for gate and up, and rotary positions of LongRoPE.

Source: Abdin et al., arXiv:2404.14219 and arXiv:2412.08905; layout and names of transformers' Phi3ForCausalLM.
"""

from __future__ import annotations

from collections.abc import Mapping

from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, grouped_heads, head_width
from petrun.models.llama_family import llama_family
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import Rope, parse_rope
from petrun.typing import JsonObject

_LONG_ROPE_NAMES = ("su", "yarn")
"""What older folders call longrope."""


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' Phi3Config; sizes have none. Raises ModelError."""
    f = Fields(raw, "phi3")
    # transformers has no operator for the second one; the first one is on what a branch adds.
    f.only("resid_pdrop", (0, 0.0), 0.0)
    f.only("embd_pdrop", (0, 0.0), 0.0)
    hidden, heads, layers = f.integer("hidden_size"), f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    kv_heads, head_dim = grouped_heads(f, heads, heads), head_width(f, hidden, heads)
    positions = f.integer("max_position_embeddings", 4096)
    window = f.integer("sliding_window", 0, least=0)
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
        eps=f.positive("rms_norm_eps", 1e-5),
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        qk_norm=False,
        qkv=True,
        gate_up=True,
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=_rope(f, head_dim, positions),
        windows=(window,) * layers,
    )
    f.finish()
    return config


def _rope(f: Fields, head_dim: int, positions: int) -> Rope:
    key = "rope_scaling" if f.raw.get("rope_scaling") else "rope_parameters"
    stored = f.raw.get(key)
    values: JsonObject = {}
    if isinstance(stored, Mapping):
        kind = stored.get("rope_type", stored.get("type", "default"))
        if kind in _LONG_ROPE_NAMES:
            kind = "longrope"
        elif kind not in ("default", "longrope"):
            f.unsupported(f"{key}.rope_type", kind, "default, longrope")
        values = {key: {**stored, "rope_type": kind}}
    original = f.integer("original_max_position_embeddings", 4096)
    return parse_rope(
        f.instead({**values, "original_max_position_embeddings": original}), head_dim, positions, share=1.0
    )


FAMILY = llama_family(
    name="phi3",
    causal={"phi3": "Phi3ForCausalLM"},
    classes={"phi3": "Phi3ForSequenceClassification"},
    parse=parse,
)
