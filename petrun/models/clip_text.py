"""The text encoder of CLIP, whose states a Stable-Diffusion U-Net attends to.

Source: Radford et al., arXiv:2103.00020, section 2.4; layout and names of transformers' CLIPTextModel. The net is held against its
numbers.
B batch, T tokens, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.graph.sites import Sites
from petrun.kernels import Attention, LayerNorm, MergeHeads, SplitHeads
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, Embedding, activation, cell_paths, dense, named
from petrun.typing import Cell, DType, JsonObject


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(FamilyConfig):
    """config.json of a text encoder."""

    act: str
    eps: float


def parse(raw: JsonObject) -> ClipTextConfig:
    """Defaults are those of transformers' CLIPTextConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, "clip_text")
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    if hidden % heads:
        f.wrong("num_attention_heads", heads, f"a divisor of hidden_size = {hidden}")
    f.only("attention_dropout", (0.0,), 0.0)
    f.only("dropout", (0.0,), 0.0)
    positions = f.integer("max_position_embeddings", 77)
    config = ClipTextConfig(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("intermediate_size"),
        positions=positions,
        act=f.choice("hidden_act", tuple(ACTIVATIONS), "quick_gelu"),
        eps=f.positive("layer_norm_eps", 1e-5),
    )
    f.finish()
    return config


class TextAttention(nn.Cell):
    """out_proj(attention of the tokens to those before them): (B, T, H) and mask (1, 1, T, T) bool -> (B, T, H)."""

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        width = c.hidden // c.heads
        self.q_proj, self.k_proj, self.v_proj = (dense(c.hidden, c.hidden, dtype) for _ in range(3))
        self.out_proj = dense(c.hidden, c.hidden, dtype)
        self.split, self.merge = SplitHeads(width), MergeHeads(width)
        self.core = Attention(width**-0.5, heads=c.heads)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        return self.out_proj(self.merge(self.core(q, k, v, mask)))


class TextFeedForward(nn.Cell):
    """fc2(act(fc1(x))), (B, T, H) -> (B, T, H)."""

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        self.fc1, self.fc2 = dense(c.hidden, c.wide, dtype), dense(c.wide, c.hidden, dtype)
        self.act = activation(c.act)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class TextLayer(nn.Cell):
    """x + self_attn(layer_norm1(x)), then x + mlp(layer_norm2(x))."""

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(c.hidden, c.eps)
        self.self_attn = TextAttention(c, dtype)
        self.layer_norm2 = LayerNorm(c.hidden, c.eps)
        self.mlp = TextFeedForward(c, dtype)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class TextEmbeddings(nn.Cell):
    """token_embedding[ids] + position_embedding[0..T-1], (B, T) int32 -> (B, T, H)."""

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        assert c.positions is not None
        self.token_embedding = Embedding(c.vocab, c.hidden, dtype)
        self.position_embedding = Embedding(c.positions, c.hidden, dtype)

    def construct(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.slice(0, ids.shape[1])


class TextStack(nn.Cell):
    """The layers, one after the other."""

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        self.layers = nn.CellList([TextLayer(c, dtype) for _ in range(c.layers)])

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class ClipText(nn.Cell):
    """The states of a text after the last layer and its norm. Padding is a text's like any other token, as the pipelines have it.

    Inputs: input_ids (B, T) int32. Returns: (B, T, H) float32.
    """

    def __init__(self, c: ClipTextConfig, dtype: DType) -> None:
        super().__init__()
        assert c.positions is not None
        self.embeddings = TextEmbeddings(c, dtype)
        self.encoder = TextStack(c, dtype)
        self.final_layer_norm = LayerNorm(c.hidden, c.eps)
        self.before = Tensor(np.tril(np.ones((1, 1, c.positions, c.positions), bool)))

    def construct(self, input_ids: Tensor) -> Tensor:
        tokens = input_ids.shape[1]
        x = self.encoder(self.embeddings(input_ids), self.before[:, :, :tokens, :tokens])
        return ops.cast(self.final_layer_norm(x), ms.float32)


def build(
    config: ClipTextConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. It has no dropout and no head: the last two change nothing."""
    return named(ClipText(config, DTYPES[compute_dtype]))


@lru_cache(maxsize=4)
def _paths(config: ClipTextConfig) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in build(config).get_parameters())


def names(config: ClipTextConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it: its path in the net, below text_model."""
    return {path: StoredName(name=f"text_model.{path}") for path in _paths(config)}


def sites(config: ClipTextConfig) -> Sites:
    """Describe where deltas attach."""
    return Sites(
        linears={
            role: f"encoder.layers.*.{path}"
            for role, path in {
                "q": "self_attn.q_proj",
                "k": "self_attn.k_proj",
                "v": "self_attn.v_proj",
                "out": "self_attn.out_proj",
                "up": "mlp.fc1",
                "down": "mlp.fc2",
            }.items()
        },
        default_roles=("q", "k", "v", "out"),
        hf_paths=cell_paths(names(config)),
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.hidden // config.heads,
        layers=config.layers,
    )


FAMILY = Family(
    name="clip_text",
    hf_classes={"clip_text_model": "CLIPTextModel"},
    tasks=(),
    inputs=("input_ids",),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "text_model."),
    # Of transformers before 4.31.
    ignored=("text_model.embeddings.position_ids",),
)
