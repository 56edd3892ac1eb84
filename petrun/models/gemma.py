"""Gemma, Gemma 2 and the text models of Gemma 3: Llama's net with scaled embeddings and norms whose weights are stored less 1.

Gemma 2 and 3 norm what a branch adds, too, and limit what most layers see; Gemma 2 bends scores and logits to a cap; Gemma 3 norms each
head of q and k, and rotates the layers with a window by another base.

Source: Gemma team, arXiv:2403.08295, arXiv:2408.00118 and arXiv:2503.19786; layout and names of transformers' GemmaForCausalLM,
Gemma2ForCausalLM and Gemma3ForCausalLM.
"""

from __future__ import annotations

from collections.abc import Mapping

from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, grouped_heads
from petrun.models.llama_family import llama_family
from petrun.models.llama_names import LLAMA, NetNames, names, sites, with_cells
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import Rope, parse_rope
from petrun.typing import JsonObject

_POSITIONS = {"gemma": 8192, "gemma2": 8192, "gemma3_text": 131072}
_ACT = "gelu_pytorch_tanh"
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_FOUR_NORMS = NetNames(
    cells=with_cells(
        attn_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    )
)


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' GemmaConfig, Gemma2Config and Gemma3TextConfig; sizes have none. Raises ModelError."""
    kind = str(raw.get("model_type") or "gemma2")
    f = Fields(raw, kind, () if kind == "gemma" else _CAPS)
    heads, layers = f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    kv_heads = grouped_heads(f, heads, 16 if kind == "gemma" else 4)
    head_dim = f.integer("head_dim", 256)
    hidden = f.integer("hidden_size")
    positions = f.integer("max_position_embeddings", _POSITIONS[kind])
    bias = f.flag("attention_bias", False)
    windows = _windows(f, kind, layers)
    near_rope = _near_rope(f, head_dim, positions) if kind == "gemma3_text" and max(windows) else None
    if kind == "gemma3_text":
        # transformers' net of Gemma 3 takes no notice of it.
        f.only("attn_logit_softcapping", (None, 0, 0.0), None)
    config = LlamaConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        wide=f.integer("intermediate_size"),
        positions=positions,
        act=_act(f, kind),
        eps=f.positive("rms_norm_eps", 1e-6),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=False,
        qk_norm=kind == "gemma3_text",
        sandwich=kind != "gemma",
        offset_norms=True,
        embedding_scale=hidden**0.5,
        query_width=None if kind == "gemma" else f.positive("query_pre_attn_scalar", 256.0),
        score_cap=_cap(f, "attn_logit_softcapping", 50.0) if kind == "gemma2" else 0.0,
        logit_cap=0.0 if kind == "gemma" else _cap(f, "final_logit_softcapping", 30.0 if kind == "gemma2" else None),
        tied=f.flag("tie_word_embeddings", True),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=_full_rope(f, head_dim, positions) if kind == "gemma3_text" else parse_rope(f, head_dim, positions),
        near_rope=near_rope,
        windows=windows,
    )
    f.finish()
    return config


def _act(f: Fields, kind: str) -> str:
    if kind != "gemma":
        return f.choice("hidden_activation", tuple(ACTIVATIONS), _ACT)
    act = f.choice("hidden_act", tuple(ACTIVATIONS), _ACT)
    # The first releases say gelu and mean its tanh approximation, as transformers takes it.
    return _ACT if act == "gelu" else act


def _cap(f: Fields, name: str, default: float | None) -> float:
    """Read a cap; null means none."""
    if name in f.raw and f.raw[name] is None:
        return 0.0
    return 0.0 if default is None and name not in f.raw else f.positive(name, default)


def _windows(f: Fields, kind: str, layers: int) -> tuple[int, ...]:
    """Return the sliding windows by layer: by layer_types, or every layer but each second one (Gemma 2) or sixth one (Gemma 3)."""
    if kind == "gemma":
        return (0,) * layers
    every = 2 if kind == "gemma2" else f.integer("sliding_window_pattern", 6)
    own = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    types = f.value("layer_types", own)
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {"sliding_attention", "full_attention"}:
        f.unsupported("layer_types", types, f"{layers} times full_attention or sliding_attention")
        return (0,) * layers
    if "sliding_window" in f.raw and f.raw["sliding_window"] is None and "sliding_attention" in types:
        f.unsupported("sliding_window", None, "an integer, where a layer is of sliding_attention")
    window = f.integer("sliding_window", 4096)
    return tuple(window if t == "sliding_attention" else 0 for t in types)


def _of_type(f: Fields, layer_type: str) -> JsonObject:
    """Return what rope_parameters says of layers of this type."""
    stored = f.raw.get("rope_parameters") or {}
    if not isinstance(stored, Mapping) or not set(stored) <= {"full_attention", "sliding_attention"}:
        f.unsupported("rope_parameters", stored, "objects full_attention and sliding_attention")
        return {}
    found = stored.get(layer_type) or {}
    return dict(found) if isinstance(found, Mapping) else {}


def _full_rope(f: Fields, head_dim: int, positions: int) -> Rope:
    scaling = f.raw.get("rope_scaling")
    stored = {**_of_type(f, "full_attention"), **(scaling if isinstance(scaling, Mapping) else {})}
    return _rope_of(f, stored, f.raw.get("rope_theta") or 1e6, head_dim, positions)


def _near_rope(f: Fields, head_dim: int, positions: int) -> Rope:
    stored = _of_type(f, "sliding_attention")
    return _rope_of(f, stored, f.raw.get("rope_local_base_freq") or 1e4, head_dim, positions)


def _rope_of(f: Fields, stored: JsonObject, theta: object, head_dim: int, positions: int) -> Rope:
    values = {
        "rope_parameters": stored,
        "rope_scaling": None,
        "rope_theta": theta,
        # transformers reads it beside rope_parameters only where these are those of all layers.
        "original_max_position_embeddings": None,
    }
    return parse_rope(f.instead(values), head_dim, positions)


def _stored(config: LlamaConfig) -> NetNames:
    return _FOUR_NORMS if config.sandwich else LLAMA


FAMILY = llama_family(
    name="gemma",
    causal={"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"},
    classes={
        "gemma": "GemmaForSequenceClassification",
        "gemma2": "Gemma2ForSequenceClassification",
        "gemma3_text": "Gemma3TextForSequenceClassification",
    },
    parse=parse,
    sites=lambda config: sites(config, _stored(config)),
    names=lambda config: names(config, _stored(config)),
)
