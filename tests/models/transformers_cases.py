"""Small models of the families, whose numbers follow from the tensors' names, and what transformers computes with them.

`python -m tests.models.transformers_cases`, where torch and transformers are installed, computes the logits and the greedy text of every
case and stores them in transformers_cases.json; tests/models/agreement.py holds petrun against these.
"""

import json
from pathlib import Path

import numpy as np

from tests.interop.peft.peft_adapters import numbers

STORED = Path(__file__).with_name("transformers_cases.json")
VOCAB, NEW = 24, 6
LENGTHS = (9, 5, 2)
SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT = {
    **SIZES, "model_type": "opt", "ffn_dim": 24, "max_position_embeddings": 20, "dropout": 0.0, "pad_token_id": 1,
    "bos_token_id": 2, "eos_token_id": 2, "word_embed_proj_dim": 16,
}  # fmt: skip
BLOOM = {
    **{key: SIZES[key] for key in ("vocab_size", "hidden_size")}, "model_type": "bloom", "n_layer": 2, "n_head": 4,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
GLM = {
    **SIZES, "model_type": "glm", "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "eos_token_id": [1, 2],
}  # fmt: skip
PHI3 = {
    **SIZES, "model_type": "phi3", "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "original_max_position_embeddings": 16,
}  # fmt: skip
LONG_ROPE = {"type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [2.0, 4.5]}
GEMMA2 = {
    **SIZES, "model_type": "gemma2", "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "query_pre_attn_scalar": 6, "sliding_window": 4,
    "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0,
}  # fmt: skip
GEMMA3 = {
    **{key: value for key, value in GEMMA2.items() if not key.endswith("softcapping")}, "model_type": "gemma3_text",
    "sliding_window_pattern": 2, "rope_theta": 500.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}  # fmt: skip
MIXTRAL = {
    **SIZES, "model_type": "mixtral", "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN3_MOE = {
    **SIZES, "model_type": "qwen3_moe", "num_hidden_layers": 3, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8,
    "moe_intermediate_size": 12, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": [1, 2], "num_experts": 6,
    "num_experts_per_tok": 3, "norm_topk_prob": True, "mlp_only_layers": [1],
}  # fmt: skip
ROBERTA = {
    **SIZES, "model_type": "roberta", "intermediate_size": 24, "max_position_embeddings": 20, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "id2label": {"0": "bad", "1": "fair", "2": "good"},
}  # fmt: skip
CLASSIFIERS = {
    "roberta": ROBERTA,
    "xlm-roberta": {**ROBERTA, "model_type": "xlm-roberta", "hidden_act": "gelu_new"},
}
CASES = {
    "opt": OPT,
    "opt-350m": {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 12},
    "opt-no-bias": {**OPT, "enable_bias": False, "activation_function": "gelu", "_remove_final_layer_norm": True},
    "bloom": BLOOM,
    "bloom-6-heads": {**BLOOM, "hidden_size": 24, "n_head": 6},
    "glm": GLM,
    "glm-quarter": {
        **GLM,
        "attention_bias": False,
        "partial_rotary_factor": 0.25,
        "tie_word_embeddings": True,
        "hidden_act": "gelu",
    },
    "glm4": {**GLM, "model_type": "glm4"},
    "phi3": PHI3,
    # Longer rows than original_max_position_embeddings: the greedy text of such rows is not that of a cache.
    "phi3-long": {
        **PHI3,
        "original_max_position_embeddings": 8,
        "rope_scaling": LONG_ROPE,
        "sliding_window": 6,
        "tie_word_embeddings": True,
    },
    "phi4-mini": {
        **PHI3,
        "rope_scaling": {**LONG_ROPE, "short_factor": [1.5], "long_factor": [3.0]},
        "partial_rotary_factor": 0.5,
    },
    "gemma": {
        **{
            key: value for key, value in GEMMA2.items() if not any(part in key for part in ("soft", "query", "sliding"))
        },
        "model_type": "gemma",
        "hidden_act": "gelu",
    },
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma3-new": {
        **{key: value for key, value in GEMMA3.items() if "rope" not in key},
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0},
        },
        "final_logit_softcapping": 4.0,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "mixtral": MIXTRAL,
    "mixtral-window": {
        **MIXTRAL,
        "sliding_window": 4,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
        "num_experts_per_tok": 1,
    },
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe-sparse-step": {
        **{key: value for key, value in QWEN3_MOE.items() if key != "num_experts"},
        "num_local_experts": 5,
        "norm_topk_prob": False,
        "mlp_only_layers": [],
        "decoder_sparse_step": 2,
        "use_sliding_window": True,
        "sliding_window": 4,
        "attention_bias": True,
    },
    "bloom-normed-residual": {**BLOOM, "apply_residual_connection_post_layernorm": True},
}

_LLAMA = {
    **SIZES, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_GPT2 = {
    "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 20, "pad_token_id": 5,
    "eos_token_id": 2,
    "bos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
CLASSES = {
    **{name: f"{name.capitalize()}ForSequenceClassification" for name in ("llama", "mistral", "qwen2", "qwen3", "bloom", "glm", "glm4")},
    **{name: f"{name.capitalize()}ForSequenceClassification" for name in ("phi3", "gemma", "gemma2", "mixtral")},
    "gpt2": "GPT2ForSequenceClassification", "opt": "OPTForSequenceClassification", "qwen3_moe": "Qwen3MoeForSequenceClassification",
    "gemma3_text": "Gemma3TextForSequenceClassification",
}  # fmt: skip
_SCORED = {
    "gpt2": _GPT2,
    "llama": {**_LLAMA, "model_type": "llama"},
    "mistral": {**_LLAMA, "model_type": "mistral", "sliding_window": 4, "head_dim": 4},
    "qwen2": {**_LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "model_type": "qwen3", "head_dim": 8},
    **{
        name: CASES[name]
        for name in (
            "opt",
            "opt-350m",
            "bloom",
            "glm",
            "glm4",
            "phi3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "mixtral",
            "qwen3_moe",
        )
    },
}
SCORED = {
    f"{name}-classes": {**config, "id2label": ROBERTA["id2label"], "architectures": [CLASSES[config["model_type"]]]}
    for name, config in _SCORED.items()
}
"""Decoders that classify rows."""

BERT_TAGS = {
    **SIZES, "model_type": "bert", "intermediate_size": 24, "max_position_embeddings": 20, "type_vocab_size": 2, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "pad_token_id": 0,
}  # fmt: skip
_TAGGED = {"bert": BERT_TAGS, "roberta": ROBERTA, "xlm-roberta": CLASSIFIERS["xlm-roberta"]}
TAG_CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
TAGGED = {
    f"{name}-tags": {
        **config, "id2label": ROBERTA["id2label"], "architectures": [f"{TAG_CLASSES[name]}ForTokenClassification"],
    }
    for name, config in _TAGGED.items()
}  # fmt: skip
"""Encoders that classify tokens."""


def values(name, shape):
    """The tensor of a name: norms near 1, all else around 0."""
    drawn = numbers(name, shape)
    return drawn * np.float32(0.4) + np.float32(1) if "norm" in name.lower() and name.endswith("weight") else drawn


def in_files(config, name, shape):
    """The tensor that transformers calls `name`: where it joins experts, of those that the files of hubs have each by itself."""
    if config["model_type"] not in ("mixtral", "qwen3_moe"):
        return values(name, shape)
    mixtral = config["model_type"] == "mixtral"
    name = name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name
    if ".experts." not in name:
        return values(name, shape)
    at, _, kind = name.rpartition(".")
    wide = shape[1] // 2 if kind == "gate_up_proj" else shape[1]
    roles = (
        {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
        if mixtral
        else {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": (kind,)}
    )
    own = (wide, shape[2])
    return np.stack(
        [np.concatenate([values(f"{at}.{i}.{role}.weight", own) for role in roles[kind]]) for i in range(shape[0])]
    )


def batch(left):
    """ids, segments (1 = token), positions counted within the tokens, each (3, 9)."""
    ids, segments = np.zeros((2, len(LENGTHS), max(LENGTHS)), np.int32)
    rng = np.random.default_rng(7)
    for row, length in enumerate(LENGTHS):
        own = slice(max(LENGTHS) - length, None) if left else slice(length)
        ids[row, own], segments[row, own] = rng.integers(3, VOCAB, length), 1
    return ids, segments, np.maximum(np.cumsum(segments, 1) - 1, 0).astype(np.int32)


def last_two(found, left):
    """Of (B, T, V) what stands at the last two tokens of each row, (2 * B, V)."""
    ends = [max(LENGTHS) if left else length for length in LENGTHS]
    return np.concatenate([row[end - 2 : end] for row, end in zip(found, ends, strict=True)])


def in_transformers(config):
    """(logits of the last two tokens of each row, greedy tokens that follow it)."""
    import inspect

    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(kind, attn_implementation="eager").eval()
    with torch.no_grad():
        # A matrix with two names has the values of the first.
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(in_files(config, name, tuple(tensor.shape))))
        found = []
        for left in (False, True):
            ids, segments, positions = (torch.from_numpy(a).long() for a in batch(left))
            more = {"position_ids": positions} if "position_ids" in inspect.signature(model.forward).parameters else {}
            logits = model(input_ids=ids, attention_mask=segments, **more).logits.numpy()
            found.append(last_two(logits, left))
        np.testing.assert_allclose(*found, atol=1e-4)
        text = model.generate(
            ids, attention_mask=segments, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return found[0], text[:, ids.shape[1] :].tolist()


PREFIX_TOKENS = 3


def prefix_table(config):
    """A prefix as ChatGLM's P-Tuning v2 has it, (P, 2 * layers * key/value heads * width): of each layer keys, then values."""
    width = config["num_key_value_heads"] * config["head_dim"]
    return values("prefix", (PREFIX_TOKENS, 2 * config["num_hidden_layers"] * width))


def prefixed(config):
    """Logits behind a prefix that stands in the cache as it is and takes no positions, as in modeling_chatglm.py."""
    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(kind, attn_implementation="eager").eval()
    ids, segments, positions = (torch.from_numpy(a).long() for a in batch(left=False))
    table = torch.from_numpy(prefix_table(config)).reshape(
        PREFIX_TOKENS, 2 * config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]
    )
    cache = transformers.DynamicCache()
    for layer in range(config["num_hidden_layers"]):
        pair = table[:, 2 * layer : 2 * layer + 2].permute(1, 2, 0, 3)
        keys, both = (part.expand(len(ids), *part.shape) for part in pair)
        cache.update(keys, both, layer)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
        mask = torch.cat((torch.ones(len(ids), PREFIX_TOKENS, dtype=torch.long), segments), 1)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
    return last_two(logits.numpy(), left=False)


def classified(config):
    """Logits of rows padded on the right, and of rows padded on the left: padding is then the first token, which the
    head of an encoder reads. That of a decoder reads the last token whose id is not that of padding."""
    import inspect

    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForSequenceClassification.from_config(kind, attn_implementation="eager").eval()
    assert CLASSES.get(config["model_type"], type(model).__name__) == type(model).__name__
    found = []
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(in_files(config, name, tuple(tensor.shape))))
        for left in (False, True):
            ids, segments, positions = batch(left)
            padded = torch.from_numpy(np.where(segments == 1, ids, config["pad_token_id"])).long()
            # An encoder makes them from the ids. Without them, some decoders count padding on the left as well.
            takes = config["model_type"] in CLASSES and "position_ids" in inspect.signature(model.forward).parameters
            more = {"position_ids": torch.from_numpy(positions).long()} if takes else {}
            found.append(model(input_ids=padded, attention_mask=torch.from_numpy(segments), **more).logits.numpy())
    return found


def tagged(config):
    """Logits of the last two tokens of each row, padded on the right."""
    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForTokenClassification.from_config(kind, attn_implementation="eager").eval()
    assert type(model).__name__ == config["architectures"][0]
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
        ids, segments, _ = batch(left=False)
        padded = torch.from_numpy(np.where(segments == 1, ids, config["pad_token_id"])).long()
        return last_two(model(input_ids=padded, attention_mask=torch.from_numpy(segments)).logits.numpy(), left=False)


def rounded(table):
    return [[round(float(v), 5) for v in row] for row in table]


def main():
    """Compute and store every case."""
    import transformers

    stored = {}
    for name, config in CASES.items():
        logits, text = in_transformers(config)
        stored[name] = {"logits": rounded(logits), "greedy": text}
    for name, config in {**CLASSIFIERS, **SCORED}.items():
        right, left = classified(config)
        stored[name] = {"right": rounded(right), "left": rounded(left)}
    for name, config in TAGGED.items():
        stored[name] = {"logits": rounded(tagged(config))}
    stored["glm-prefix"] = {"logits": rounded(prefixed(GLM))}
    content = {"computed_with": f"transformers {transformers.__version__}", "cases": stored}
    STORED.write_text(json.dumps(content, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(len(stored), "cases")


if __name__ == "__main__":
    main()
