"""The families again, in float64 numpy, written from their definitions: what the nets are held against where no torch is.

Tensors go by their Hugging Face names, masks are the usual 1 = token, 0 = padding.
"""

import json
import math

import numpy as np
from safetensors.numpy import save_file

BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "id2label": {"0": "bad", "1": "fair", "2": "good"},
    "pad_token_id": 0,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 50,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 20,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "eos_token_id": 7,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": [2, 3],
}


def spec_bert(c, classes=3, pooler=True):
    h, wide = c["hidden_size"], c["intermediate_size"]
    yield "bert.embeddings.word_embeddings.weight", (c["vocab_size"], h)
    yield "bert.embeddings.position_embeddings.weight", (c["max_position_embeddings"], h)
    yield "bert.embeddings.token_type_embeddings.weight", (c["type_vocab_size"], h)
    yield from both("bert.embeddings.LayerNorm", (h,))
    for i in range(c["num_hidden_layers"]):
        p = f"bert.encoder.layer.{i}."
        for part in ("query", "key", "value"):
            yield from both(p + f"attention.self.{part}", (h, h))
        yield from both(p + "attention.output.dense", (h, h))
        yield from both(p + "attention.output.LayerNorm", (h,))
        yield from both(p + "intermediate.dense", (wide, h))
        yield from both(p + "output.dense", (h, wide))
        yield from both(p + "output.LayerNorm", (h,))
    if pooler:
        yield from both("bert.pooler.dense", (h, h))
    if classes:
        yield from both("classifier", (classes, h))


def spec_gpt2(c):
    h = c["n_embd"]
    wide = c.get("n_inner") or 4 * h
    yield "transformer.wte.weight", (c["vocab_size"], h)
    yield "transformer.wpe.weight", (c["n_positions"], h)
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        yield from both(p + "ln_1", (h,))
        yield from both(p + "attn.c_attn", (h, 3 * h), (3 * h,))
        yield from both(p + "attn.c_proj", (h, h))
        yield from both(p + "ln_2", (h,))
        yield from both(p + "mlp.c_fc", (h, wide), (wide,))
        yield from both(p + "mlp.c_proj", (wide, h), (h,))
    yield from both("transformer.ln_f", (h,))
    if not c.get("tie_word_embeddings", True):
        yield "lm_head.weight", (c["vocab_size"], h)


def spec_llama(c):
    h, wide, heads, kv = (
        c[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    d = c.get("head_dim") or h // heads
    kind = c["model_type"]
    bias = c.get("attention_bias", False)
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for part, rows in (("q", heads * d), ("k", kv * d), ("v", kv * d)):
            yield p + f"self_attn.{part}_proj.weight", (rows, h)
            if bias or kind == "qwen2":
                yield p + f"self_attn.{part}_proj.bias", (rows,)
        yield p + "self_attn.o_proj.weight", (h, heads * d)
        if bias:
            yield p + "self_attn.o_proj.bias", (h,)
        if kind == "qwen3":
            yield p + "self_attn.q_norm.weight", (d,)
            yield p + "self_attn.k_norm.weight", (d,)
        for part, shape in (("gate", (wide, h)), ("up", (wide, h)), ("down", (h, wide))):
            yield p + f"mlp.{part}_proj.weight", shape
            if c.get("mlp_bias", False):
                yield p + f"mlp.{part}_proj.bias", shape[:1]
        yield p + "input_layernorm.weight", (h,)
        yield p + "post_attention_layernorm.weight", (h,)
    yield "model.norm.weight", (h,)
    if not c.get("tie_word_embeddings", False):
        yield "lm_head.weight", (c["vocab_size"], h)


def both(name, shape, bias=None):
    yield f"{name}.weight", shape
    yield f"{name}.bias", bias or shape[:1]


SPECS = {"bert": spec_bert, "gpt2": spec_gpt2, **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), spec_llama)}


def make(config, seed=0, dtype=np.float32, **kwargs):
    """Random tensors for a config, by Hugging Face name; those of families without a net here follow from their names."""
    if config["model_type"] not in SPECS:
        from tests.models.agreement import tensors

        return tensors(config, **kwargs)
    rng = np.random.default_rng(seed)
    spec = SPECS[config["model_type"]](config, **kwargs)
    return {
        n: (
            rng.normal(size=s) * 0.3 + (1.0 if "norm" in n.lower() or ".ln_" in n else 0.0) * n.endswith("weight")
        ).astype(dtype)
        for n, s in spec
    }


def write(folder, config, tensors):
    """A Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def normed(x, t, name, eps):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * t[f"{name}.weight"] + t[f"{name}.bias"]


def rms(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def linear(x, t, name):
    y = x @ t[f"{name}.weight"].astype(np.float64).T
    return y + t[f"{name}.bias"] if f"{name}.bias" in t else y


ACTS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


def attention(q, k, v, visible, scale):
    """q (N, T, D), k and v (N_kv, T, D), visible (T, T) -> (T, N * D), one row at a time, head by head."""
    groups = len(q) // len(k)
    out = []
    for n in range(len(q)):
        scores = q[n] @ k[n // groups].T * scale
        scores = np.where(visible, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(scores / scores.sum(-1, keepdims=True) @ v[n // groups])
    return np.concatenate(out, -1)


def heads(x, n):
    return x.reshape(len(x), n, -1).transpose(1, 0, 2)


def bert(t, c, ids, mask, types):
    return np.stack([_bert_row(t, c, *row) for row in zip(ids, mask, types, strict=True)])


def _bert_row(t, c, ids, mask, types):
    n, eps = c["num_attention_heads"], c["layer_norm_eps"]
    e = "bert.embeddings."
    x = (
        t[e + "word_embeddings.weight"].astype(np.float64)[ids]
        + t[e + "position_embeddings.weight"][: len(ids)]
        + t[e + "token_type_embeddings.weight"][types]
    )
    x = normed(x, t, e + "LayerNorm", eps)
    visible = np.broadcast_to(mask[None] == 1, (len(ids), len(ids)))
    for i in range(c["num_hidden_layers"]):
        p = f"bert.encoder.layer.{i}."
        q, k, v = (heads(linear(x, t, p + f"attention.self.{part}"), n) for part in ("query", "key", "value"))
        y = attention(q, k, v, visible, (c["hidden_size"] // n) ** -0.5)
        x = normed(x + linear(y, t, p + "attention.output.dense"), t, p + "attention.output.LayerNorm", eps)
        y = linear(ACTS[c["hidden_act"]](linear(x, t, p + "intermediate.dense")), t, p + "output.dense")
        x = normed(x + y, t, p + "output.LayerNorm", eps)
    return linear(np.tanh(linear(x[0], t, "bert.pooler.dense")), t, "classifier")


def causal(segments, window=0):
    length = len(segments)
    visible = np.zeros((length, length), bool)
    for q in range(length):
        for k in range(q + 1):
            visible[q, k] = segments[q] == segments[k] and (window == 0 or q - k < window)
    return visible


def gpt2(t, c, ids, segments, positions):
    return np.stack([_gpt2_row(t, c, *row) for row in zip(ids, segments, positions, strict=True)])


def _gpt2_row(t, c, ids, segments, positions):
    n, eps = c["n_head"], c["layer_norm_epsilon"]
    x = t["transformer.wte.weight"].astype(np.float64)[ids] + t["transformer.wpe.weight"][positions]
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        scale = (c["n_embd"] // n) ** -0.5 if c.get("scale_attn_weights", True) else 1.0
        scale /= i + 1 if c.get("scale_attn_by_inverse_layer_idx") else 1
        y = normed(x, t, p + "ln_1", eps) @ t[p + "attn.c_attn.weight"] + t[p + "attn.c_attn.bias"]
        q, k, v = (heads(part, n) for part in np.split(y, 3, -1))
        x = x + attention(q, k, v, causal(segments), scale) @ t[p + "attn.c_proj.weight"] + t[p + "attn.c_proj.bias"]
        y = normed(x, t, p + "ln_2", eps) @ t[p + "mlp.c_fc.weight"] + t[p + "mlp.c_fc.bias"]
        x = x + ACTS[c["activation_function"]](y) @ t[p + "mlp.c_proj.weight"] + t[p + "mlp.c_proj.bias"]
    x = normed(x, t, "transformer.ln_f", eps)
    return x @ t.get("lm_head.weight", t["transformer.wte.weight"]).T


def rotate(x, positions, theta):
    """Complex view: the pair (x_j, x_{j + D/2}) turns by position * theta^(-2j / D)."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def llama(t, c, ids, segments, positions, windows=None):
    windows = windows or [0] * c["num_hidden_layers"]
    return np.stack([_llama_row(t, c, windows, *row) for row in zip(ids, segments, positions, strict=True)])


def _llama_row(t, c, windows, ids, segments, positions):
    n, kv, eps, theta = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"], c["rope_theta"]
    x = t["model.embed_tokens.weight"].astype(np.float64)[ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        y = rms(x, t[p + "input_layernorm.weight"], eps)
        q, k, v = (heads(linear(y, t, p + f"self_attn.{part}_proj"), m) for part, m in (("q", n), ("k", kv), ("v", kv)))
        if c["model_type"] == "qwen3":
            q, k = rms(q, t[p + "self_attn.q_norm.weight"], eps), rms(k, t[p + "self_attn.k_norm.weight"], eps)
        q, k = rotate(q, positions, theta), rotate(k, positions, theta)
        y = attention(q, k, v, causal(segments, windows[i]), q.shape[-1] ** -0.5)
        x = x + linear(y, t, p + "self_attn.o_proj")
        y = rms(x, t[p + "post_attention_layernorm.weight"], eps)
        y = ACTS[c["hidden_act"]](linear(y, t, p + "mlp.gate_proj")) * linear(y, t, p + "mlp.up_proj")
        x = x + linear(y, t, p + "mlp.down_proj")
    x = rms(x, t["model.norm.weight"], eps)
    return x @ t.get("lm_head.weight", t["model.embed_tokens.weight"]).T


def batch(vocab=50, tokens=9, lengths=(9, 5, 2), left=False, seed=5):
    """ids, segments (1 = token), positions counted within the tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, vocab, (len(lengths), tokens)).astype(np.int32)
    segments = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        segments[row, tokens - length if left else 0 : tokens if left else length] = 1
    positions = np.maximum(np.cumsum(segments, 1) - 1, 0).astype(np.int32)
    return ids * segments, segments, positions


def causal_loss(logits, labels):
    """Mean cross entropy of logits at t against labels at t + 1, -100 left out."""
    wide, wanted = logits[:, :-1].astype(np.float64), labels[:, 1:]
    logp = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    rows, columns = np.nonzero(wanted != -100)
    return -logp[rows, columns, wanted[rows, columns]].mean()
