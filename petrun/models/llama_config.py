"""Parse config.json of the llama families: its fields, their defaults and unsupported values."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.models.base import FamilyConfig
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS
from petrun.models.rope import Rope, parse_rope
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(FamilyConfig):
    """config.json of a Llama, or of a family that shares its net."""

    positions: int
    head_dim: int
    act: str
    eps: float
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    qkv: bool = False
    """Whether one matrix makes queries, keys and values."""
    gate_up: bool = False
    """Whether one matrix makes gate and up."""
    sandwich: bool = False
    """Whether what a branch adds is normed, too."""
    offset_norms: bool = False
    """Whether the weights of norms are stored less 1."""
    embedding_scale: float = 1.0
    """Factor of the embedded tokens."""
    query_width: float | None = None
    """Scores are divided by its root; None: the width of a head."""
    score_cap: float = 0.0
    """Scores are bent to stay within it, c tanh(x / c); 0: not at all."""
    logit_cap: float = 0.0
    """The same for logits."""
    tied: bool
    attention_dropout: float
    rope: Rope
    near_rope: Rope | None = None
    """Rotary positions of the layers with a window, where they are others."""
    windows: tuple[int, ...]
    """Tokens a query sees, by layer; 0: all."""
    prefix_positions: bool = True
    """Whether the tokens of a prefix take positions before those of the row."""
    experts: int = 0
    """Experts of a layer's feed-forward part; 0: it has none."""
    experts_per_token: int = 0
    expert_wide: int = 0
    """Width inside an expert; `wide` is that of layers without experts."""
    renormalises: bool = False
    """Whether the weights of a token's experts sum to 1."""
    plain_layers: tuple[int, ...] = ()
    """Layers without experts, of a model that has them."""

    def has_experts(self, layer: int) -> bool:
        """Return whether the feed-forward part of a layer is made of experts."""
        return self.experts > 0 and layer not in self.plain_layers


_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of transformers' config class for the model_type; sizes have none. Raises ModelError."""
    kind = str(raw.get("model_type") or "llama")
    f = Fields(raw, kind)
    hidden, heads, layers = f.integer("hidden_size"), f.integer("num_attention_heads"), f.integer("num_hidden_layers")
    kv_heads = _kv_heads(f, kind, heads)
    head_dim = f.integer("head_dim", 128) if kind == "qwen3" else head_width(f, hidden, heads)
    positions = f.integer("max_position_embeddings", _POSITIONS[kind])
    biased = f.flag("attention_bias", False) if kind in ("llama", "qwen3") else False
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
        qkv_bias=biased or kind == "qwen2",
        o_bias=biased,
        mlp_bias=f.flag("mlp_bias", False) if kind == "llama" else False,
        qk_norm=kind == "qwen3",
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=parse_rope(f, head_dim, positions),
        windows=_windows(f, kind, layers),
    )
    # pretraining_tp > 1 splits the matrix products of old Llama files into parts: the same sums in another order.
    f.finish()
    return config


def _kv_heads(f: Fields, kind: str, heads: int) -> int:
    default = {"llama": heads, "mistral": 8}.get(kind, 32) if "num_key_value_heads" not in f.raw else heads
    return grouped_heads(f, heads, default)


def grouped_heads(f: Fields, heads: int, default: int, name: str = "num_key_value_heads") -> int:
    """Read the number of key/value heads, which divides that of the queries' heads."""
    kv_heads = f.integer(name, default)
    if heads % kv_heads:
        f.wrong(name, kv_heads, f"a divisor of num_attention_heads = {heads}")
    return kv_heads


def chosen_experts(f: Fields, *, experts: int, per_token: int) -> tuple[int, int]:
    """Read how many experts a layer has, and how many compute a token; the arguments are what holds where config.json does not say.

    transformers 4 and 5 write the first one under different names for some families. The router's auxiliary loss, which
    `output_router_logits` adds in training, is not there.
    """
    count = f.integer("num_local_experts", experts, aliases=("num_experts",))
    chosen = f.integer("num_experts_per_tok", per_token)
    if chosen > count:
        f.wrong("num_experts_per_tok", chosen, f"at most the number of experts, {count}")
    f.only("output_router_logits", (False,), False)
    return count, min(chosen, count)


def head_width(f: Fields, hidden: int, heads: int) -> int:
    """Read the width of a head; where it is not stated, all heads together are as wide as the model."""
    if f.raw.get("head_dim") is None and hidden % heads:
        f.wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    return f.integer("head_dim", max(1, hidden // heads))


def _windows(f: Fields, kind: str, layers: int) -> tuple[int, ...]:
    """Return the sliding windows by layer. Mistral: every layer, where set. Qwen: by layer_types, or from max_window_layers on. Llama:
    none.
    """
    if kind == "llama":
        return (0,) * layers
    if kind == "mistral":
        window = f.integer("sliding_window", 0, least=0) if "sliding_window" in f.raw else 4096
        own = ["sliding_attention" if window else "full_attention"] * layers
    else:
        used = f.flag("use_sliding_window", False) and f.raw.get("sliding_window", 4096) is not None
        window = f.integer("sliding_window", 4096) if used else 0
        first = f.integer("max_window_layers", 28, least=0)
        own = ["sliding_attention" if window and i >= first else "full_attention" for i in range(layers)]
    types = f.value("layer_types", own)
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {"sliding_attention", "full_attention"}:
        f.unsupported("layer_types", types, f"{layers} times full_attention or sliding_attention")
        return (0,) * layers
    if "sliding_attention" in types and not window:
        f.wrong("layer_types", types, "without sliding_attention where no sliding_window is in use")
    if kind == "mistral" and types != own:
        f.unsupported("layer_types", types, f"all {own[0]}, as sliding_window says")
    return tuple(window if t == "sliding_attention" else 0 for t in types)
