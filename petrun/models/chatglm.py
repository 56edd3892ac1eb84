"""ChatGLM2 and ChatGLM3: GLM-4's net with one matrix for queries, keys and values, in the layout of their own code.

Source: Zeng et al., arXiv:2210.02414, and GLM team, arXiv:2406.12793; layout and names of modeling_chatglm.py in the models' folders.
"""

from __future__ import annotations

from functools import partial

from petrun.data.tasks import DECODER_TASKS
from petrun.models.base import Family
from petrun.models.fields import Fields
from petrun.models.llama_config import LlamaConfig, grouped_heads
from petrun.models.llama_names import NetNames, names, sites
from petrun.models.llama_net import build
from petrun.models.rope import Rope
from petrun.typing import JsonObject

_NAMES = NetNames(
    embed="transformer.embedding.word_embeddings",
    layers="transformer.encoder.layers",
    norm="transformer.encoder.final_layernorm",
    head="transformer.output_layer",
    cells={
        "attn.qkv": "self_attention.query_key_value",
        "attn.o": "self_attention.dense",
        "mlp.gate_up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
)


def parse(raw: JsonObject) -> LlamaConfig:
    """Defaults are those of the folders' configuration_chatglm.py; sizes have none. Raises ModelError.

    apply_query_key_layer_scaling, attention_softmax_in_fp32 and fp32_residual_connection change rounding alone; bias_dropout_fusion, how it
    is computed; classifier_dropout belongs to a head that petrun does not have.
    """
    f = Fields(raw, "chatglm")
    f.only("rmsnorm", (True,), True)
    f.only("post_layer_norm", (True,), True)
    f.only("apply_residual_connection_post_layernorm", (False,), False)
    f.only("original_rope", (True,), True)
    f.only("hidden_dropout", (0, 0.0), 0.0)
    # A base whose settings state a prefix was trained with one; its file is read as a delta.
    f.only("prefix_projection", (False,), False)
    # Its own codes of 8 or 4 bits; --base-bits makes others.
    f.only("quantization_bit", (0,), 0)
    heads, layers = f.integer("num_attention_heads"), f.integer("num_layers")
    # Without it one matrix holds queries, keys and values head by head; no folder has that.
    f.only("multi_query_attention", (True,), False)
    # Its second generation divides positions by it, its third multiplies the base: the code says which, config.json does not.
    f.only("rope_ratio", (1, 1.0), 1)
    kv_heads = grouped_heads(f, heads, 1, "multi_query_group_num")
    head_dim, positions = f.integer("kv_channels", 128), f.integer("seq_length", 2048)
    bias = f.flag("add_bias_linear", False)
    config = LlamaConfig(
        vocab=f.integer("padded_vocab_size"),
        hidden=f.integer("hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        wide=f.integer("ffn_hidden_size"),
        positions=positions,
        act="silu",
        eps=f.positive("layernorm_epsilon", 1e-5),
        qkv_bias=f.flag("add_qkv_bias", False) or bias,
        o_bias=bias,
        mlp_bias=bias,
        qk_norm=False,
        qkv=True,
        gate_up=True,
        tied=f.flag("tie_word_embeddings", False),
        attention_dropout=f.number("attention_dropout", 0.0, below=1.0),
        rope=_rope(f, head_dim, positions),
        windows=(0,) * layers,
        # Its code counts positions from the row's first token, and puts a prefix into the cache as it is.
        prefix_positions=False,
    )
    f.finish()
    return config


def _rope(f: Fields, head_dim: int, positions: int) -> Rope:
    """Rotate the first half of each head, neighbours as pairs, with the base 10000."""
    if head_dim % 4:
        f.wrong("kv_channels", head_dim, "a multiple of 4")
    return Rope(
        kind="default",
        theta=1e4,
        width=head_dim // 2,
        head_dim=head_dim,
        interleaved=True,
        positions=positions,
        original_positions=positions,
    )


FAMILY = Family(
    name="chatglm",
    hf_classes={"chatglm": "ChatGLMForConditionalGeneration"},
    tasks=DECODER_TASKS,
    inputs=("input_ids", "segment_ids", "position_ids"),
    parse=parse,
    build=build,
    sites=partial(sites, stored=_NAMES),
    names=partial(names, stored=_NAMES),
    prefixes=("", "transformer."),
    ignored=("transformer.rotary_pos_emb.inv_freq",),
)
