"""Starting weights of the base: random, but for the beginnings of the circuit that copies a value out of the context.

A transformer trained from noise meets a plateau before attention and values agree on copying, and a few minutes on two cores end on that
plateau. So layer 0 starts with heads that look one and two tokens back (through the biases of q and k: under rotary embeddings a constant
q and k give a score that depends on the distance alone), the later layers with heads that look for tokens whose predecessor equals the
current token, and every head passes on what it sees (o = b v^T). Training then moves everything.

Source: the previous-token and induction heads of Olsson et al., "In-context Learning and Induction Heads", arXiv:2209.11895; product
initialisation v o ~ identity of Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", arXiv:2305.09828.
H hidden, D head width, I width of the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]

LOOK_BACK, BACK, MATCH, COPY, NOISE = 8.0, 1.6, 5.0, 3.0, 0.1
FINAL_NORM = 0.05
"""Embeddings have unit variance, so that steps of the optimizer are small beside them; the last norm brings the logits down."""


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """(rows, columns) with orthonormal rows; rows <= columns."""
    q, _ = np.linalg.qr(rng.standard_normal((columns, rows)))
    return q.T.astype(np.float32)


def starting_weights(config: dict[str, Any], seed: int) -> dict[str, Array]:
    """Tensors of a Qwen2ForCausalLM with tied embeddings, by their Hugging Face names, float32."""
    rng = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    passed = _orthogonal(rng, hidden // config["num_attention_heads"], hidden)
    turn = _orthogonal(rng, hidden, hidden)
    weights = {
        "model.embed_tokens.weight": rng.standard_normal((config["vocab_size"], hidden)).astype(np.float32),
        "model.norm.weight": np.full(hidden, FINAL_NORM, np.float32),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        attention = _attention(rng, config, layer, passed, turn)
        weights.update({f"{at}self_attn.{name}": value for name, value in attention.items()})
        for name, shape, spread in (
            ("gate_proj", (wide, hidden), 1 / math.sqrt(hidden)),
            ("up_proj", (wide, hidden), 1 / math.sqrt(hidden)),
            ("down_proj", (hidden, wide), 1 / math.sqrt(wide)),
        ):
            weights[f"{at}mlp.{name}.weight"] = (spread * rng.standard_normal(shape)).astype(np.float32)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}{norm}.weight"] = np.ones(hidden, np.float32)
    return weights


def _attention(
    rng: np.random.Generator, config: dict[str, Any], layer: int, passed: Array, turn: Array
) -> dict[str, Array]:
    """q, k, v, o of one layer. The first key/value group looks back (layer 0) or looks for matches; the others start from noise."""
    hidden, heads, groups = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    width, share = hidden // heads, heads // groups
    q = (3 * NOISE / math.sqrt(hidden) * rng.standard_normal((hidden, hidden))).astype(np.float32)
    k = (3 * NOISE / math.sqrt(hidden) * rng.standard_normal((groups * width, hidden))).astype(np.float32)
    v = np.concatenate([_orthogonal(rng, width, hidden) for _ in range(groups)])
    q_bias, k_bias = np.zeros(hidden, np.float32), np.zeros(groups * width, np.float32)
    speeds = config["rope_theta"] ** (-np.arange(0, width, 2) / width)
    if layer == 0:
        v[:width] = passed
        strength = LOOK_BACK * speeds**0.25
        k_bias[:width] = np.concatenate([strength, 0 * strength])
    else:
        # Only the slowly turning pairs: the others would compare at one distance alone.
        match = MATCH * np.tile(speeds < 0.06, 2)[:, None] * passed
        k[:width] += match @ turn.T
    o = np.concatenate([COPY * v[(head // share) * width :][:width].T for head in range(heads)], axis=1)
    for head in range(share):
        rows = slice(head * width, (head + 1) * width)
        if layer == 0:
            angle = (head + 1) * speeds
            q_bias[rows] = np.concatenate([strength * np.cos(angle), -strength * np.sin(angle)])
            o[:, rows] = BACK * (turn if head == 0 else _orthogonal(rng, hidden, hidden)) @ passed.T
        else:
            q[rows] += match
    return {
        "q_proj.weight": q,
        "q_proj.bias": q_bias,
        "k_proj.weight": k,
        "k_proj.bias": k_bias,
        "v_proj.weight": v,
        "v_proj.bias": np.zeros(groups * width, np.float32),
        "o_proj.weight": o.astype(np.float32),
    }
