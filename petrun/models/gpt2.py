"""GPT-2: a decoder with learned positions.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; layout and names of transformers' GPT2LMHeadModel,
whose Conv1D weights are stored (in, out).
B batch, T tokens, H hidden, N heads, D head width, S cache slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.errors import ModelError
from petrun.graph.sites import Sites
from petrun.kernels import Attention, Dropout, LayerNorm, MergeHeads, SplitQkv
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.decoding import CausalMask, cache_index, cached_mask, open_cache, virtual_positions, write_cache
from petrun.models.fields import Fields
from petrun.models.parts import ACTIVATIONS, DTYPES, Embedding, FeedForward, cell_paths, dense, named, tied_head
from petrun.typing import DType, JsonObject, Tensor


@dataclass(frozen=True, kw_only=True)
class Gpt2Config(FamilyConfig):
    """config.json of a GPT-2."""

    positions: int
    act: str
    eps: float
    residual_dropout: float
    embedding_dropout: float
    attention_dropout: float
    scale_weights: bool
    scale_by_layer: bool
    tied: bool


def parse(raw: JsonObject) -> Gpt2Config:
    """Defaults are those of transformers' GPT2Config; sizes have none. Raises ModelError."""
    f = Fields(raw, "gpt2")
    f.only("is_causal", (True,), True)
    f.only("add_cross_attention", (False,), False)
    # reorder_and_upcast_attn asks for float32 scores and softmax: they always are here.
    f.flag("reorder_and_upcast_attn", False)
    hidden, heads = f.integer("n_embd", aliases=["hidden_size"]), f.integer("n_head", aliases=["num_attention_heads"])
    if hidden % heads:
        f.wrong("n_embd", hidden, f"a multiple of n_head = {heads}")
    config = Gpt2Config(
        vocab=f.integer("vocab_size"),
        hidden=hidden,
        layers=f.integer("n_layer", aliases=["num_hidden_layers"]),
        heads=heads,
        kv_heads=heads,
        wide=f.integer("n_inner", 4 * hidden),
        positions=f.integer("n_positions", 1024, ["max_position_embeddings"]),
        act=f.choice("activation_function", tuple(ACTIVATIONS), "gelu_new"),
        eps=f.positive("layer_norm_epsilon", 1e-5),
        residual_dropout=f.number("resid_pdrop", 0.1, below=1.0),
        embedding_dropout=f.number("embd_pdrop", 0.1, below=1.0),
        attention_dropout=f.number("attn_pdrop", 0.1, below=1.0),
        scale_weights=f.flag("scale_attn_weights", True),
        scale_by_layer=f.flag("scale_attn_by_inverse_layer_idx", False),
        tied=f.flag("tie_word_embeddings", True),
    )
    f.finish()
    return config


class Gpt2Attention(nn.Cell):
    """Inputs: x (B, T, H), mask (B, 1, T, T) bool. Returns: (B, T, H), before dropout and the residual."""

    def __init__(self, c: Gpt2Config, dtype: DType, seed: int, index: int) -> None:
        super().__init__()
        width = c.hidden // c.heads
        scale = width**-0.5 if c.scale_weights else 1.0
        if c.scale_by_layer:
            scale /= index + 1
        self.qkv = dense(c.hidden, 3 * c.hidden, dtype)
        self.split = SplitQkv(width)
        self.merge = MergeHeads(width)
        self.core = Attention(scale, c.attention_dropout, seed, f"layers.{index}.attn.core", c.heads)
        self.o = dense(c.hidden, c.hidden, dtype)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute q, k, v, each (B, N, T, D)."""
        return self.split(self.qkv(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return self.o(self.merge(self.core(q, k, v, mask)))

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(q, k, v, mask)


class Gpt2Layer(nn.Cell):
    """Pre-norm: x + dropout(attn(norm(x))), then x + dropout(mlp(norm(x)))."""

    def __init__(self, c: Gpt2Config, dtype: DType, seed: int, index: int) -> None:
        super().__init__()
        self.attn_norm = LayerNorm(c.hidden, c.eps)
        self.attn = Gpt2Attention(c, dtype, seed, index)
        self.attn_dropout = Dropout(c.residual_dropout, seed, f"layers.{index}.attn_dropout")
        self.mlp_norm = LayerNorm(c.hidden, c.eps)
        self.mlp = FeedForward(c.hidden, c.wide, c.act, dtype)
        self.mlp_dropout = Dropout(c.residual_dropout, seed, f"layers.{index}.mlp_dropout")
        self.after_attn, self.after_mlp = ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the residual stream, (B, T, H), by rows of the batch."""
        self.after_attn.shard(((dp, 1, 1), (dp, 1, 1)))
        self.after_mlp.shard(((dp, 1, 1), (dp, 1, 1)))

    def feed(self, x: Tensor) -> Tensor:
        return self.after_mlp(x, self.mlp_dropout(self.mlp(self.mlp_norm(x))))

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.feed(self.after_attn(x, self.attn_dropout(self.attn(self.attn_norm(x), mask))))

    def prefill(self, x: Tensor, mask: Tensor, slots: int) -> tuple[Tensor, ...]:
        q, k, v = self.attn.project(self.attn_norm(x))
        return self.feed(x + self.attn.attend(q, k, v, mask)), open_cache(k, slots), open_cache(v, slots)

    def decode(self, x: Tensor, mask: Tensor, index: Tensor, k_cache: Tensor, v_cache: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.attn.project(self.attn_norm(x))
        k = write_cache(k_cache, index, k)
        v = write_cache(v_cache, index, v)
        return self.feed(x + self.attn.attend(q, k, v, mask)), k, v


class Gpt2(nn.Cell):
    """Inputs: input_ids, segment_ids (0 = padding), position_ids, each (B, T) int32. Returns: logits (B, T, V) float32."""

    def __init__(self, c: Gpt2Config, dtype: DType, seed: int) -> None:
        super().__init__()
        self.heads, self.longest = c.heads, c.positions
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.embed = Embedding(c.vocab, c.hidden, dtype)
        self.positions = Embedding(c.positions, c.hidden, dtype)
        self.dropout = Dropout(c.embedding_dropout, seed, "dropout")
        self.causal_mask = CausalMask()
        self.layers = nn.CellList([Gpt2Layer(c, dtype, seed, i) for i in range(c.layers)])
        self.norm = LayerNorm(c.hidden, c.eps)
        self.head = dense(c.hidden, c.vocab, dtype, bias=False)
        if c.tied:
            self.head.weight = self.embed.weight
        self.add_position = ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        self.add_position.shard(((dp, 1, 1), (dp, 1, 1)))

    def enter(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Embed the row, with the prompt before it: (B, P + T, H)."""
        x = self.embed(input_ids)
        if self.prompt_tokens > 0:
            x = ops.concat((self.embed.prompt(x.shape[0], x.dtype), x), 1)
        positions = virtual_positions(position_ids, self.prefix_tokens, self.prompt_tokens)
        return self.dropout(self.add_position(x, self.positions(positions)))

    def logits(self, x: Tensor) -> Tensor:
        return ops.cast(self.head(self.norm(x)), ms.float32)

    def construct(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        x = self.enter(input_ids, position_ids)
        mask = self.causal_mask(segment_ids, position_ids, 0, self.prefix_tokens, self.prompt_tokens)
        for layer in self.layers:
            x = layer(x, mask)
        return self.logits(x[:, self.prompt_tokens :] if self.prompt_tokens > 0 else x)

    def check_slots(self, tokens: int) -> None:
        """Raises ModelError where the model has no positions for a row of so many tokens."""
        tokens += self.prefix_tokens + self.prompt_tokens
        if tokens > self.longest:
            raise ModelError(
                f"prompt and new tokens need {tokens} positions, the model has n_positions = {self.longest}",
                hint="Shorten the prompt, or generate fewer tokens.",
            )

    def prefill(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, slots: int) -> tuple[Tensor, ...]:
        """See decoding.PrefillStep."""
        x = self.enter(input_ids, position_ids)
        mask = self.causal_mask(segment_ids, position_ids, 0, self.prefix_tokens, self.prompt_tokens)
        caches: tuple[Tensor, ...] = ()
        for layer in self.layers:
            x, k, v = layer.prefill(x, mask, self.prompt_tokens + slots)
            caches = (*caches, k, v)
        return (self.logits(x[:, -1]), *caches)

    def decode(
        self, input_ids: Tensor, position_ids: Tensor, slot: Tensor, visible: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """See decoding.DecodeStep."""
        virtual = self.prefix_tokens + self.prompt_tokens
        x = self.dropout(self.embed(input_ids) + self.positions(position_ids + virtual))
        mask = cached_mask(visible, slot, position_ids, 0, virtual)
        index = cache_index(input_ids.shape[0] * self.heads, slot + self.prompt_tokens)
        new: tuple[Tensor, ...] = ()
        for i, layer in enumerate(self.layers):
            x, k, v = layer.decode(x, mask, index, caches[2 * i], caches[2 * i + 1])
            new = (*new, k, v)
        return (self.logits(x[:, 0]), *new)


def build(
    config: Gpt2Config, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> nn.Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build."""
    return named(Gpt2(config, DTYPES[compute_dtype], dropout_seed))


_CONV1D = {"attn.qkv": "attn.c_attn", "attn.o": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
_NORMS = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}


def names(config: Gpt2Config) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    table = {
        "embed.weight": StoredName(name="transformer.wte.weight", also=tied_head(config.tied)),
        "positions.weight": StoredName(name="transformer.wpe.weight"),
        "norm.weight": StoredName(name="transformer.ln_f.weight"),
        "norm.bias": StoredName(name="transformer.ln_f.bias"),
    }
    if not config.tied:
        table["head.weight"] = StoredName(name="lm_head.weight")
    for i in range(config.layers):
        for ours, theirs in {**_CONV1D, **_NORMS}.items():
            weight = StoredName(name=f"transformer.h.{i}.{theirs}.weight", transpose=ours in _CONV1D)
            table[f"layers.{i}.{ours}.weight"] = weight
            table[f"layers.{i}.{ours}.bias"] = StoredName(name=f"transformer.h.{i}.{theirs}.bias")
    return table


_SPLITS = {
    "": "tokens",
    "embed": "vocabulary",
    "positions": "whole",
    "dropout": "tokens",
    "causal_mask": "tokens",
    "layers.*": "tokens",
    **dict.fromkeys((f"layers.*.{part}_{cell}" for part in ("attn", "mlp") for cell in ("norm", "dropout")), "tokens"),
    "layers.*.attn.qkv": "column",
    **dict.fromkeys((f"layers.*.attn.{cell}" for cell in ("split", "core", "merge")), "heads"),
    "layers.*.attn.o": "row",
    "layers.*.mlp.up": "column",
    "layers.*.mlp.act": "wide",
    "layers.*.mlp.down": "row",
    "norm": "tokens",
    "head": "column",
}


def sites(config: Gpt2Config) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return Sites(
        linears={ours.rpartition(".")[2]: f"layers.*.{ours}" for ours in _CONV1D},
        default_roles=("qkv",),
        tables=("embed", "positions"),
        embedding="embed",
        head="head",
        cores="layers.*.attn.core",
        positions="positions",
        sublayers=("layers.*.attn.o", "layers.*.mlp.down"),
        blocks="layers.*",
        splits=_SPLITS,
        hf_paths={**cell_paths(names(config)), "head": "lm_head"},
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.hidden // config.heads,
        layers=config.layers,
    )


FAMILY = Family(
    name="gpt2",
    hf_classes={"gpt2": "GPT2LMHeadModel"},
    tasks=("lm", "instruct"),
    inputs=("input_ids", "segment_ids", "position_ids"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "transformer."),
    # Causal masks that old files store as buffers.
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
)
