"""Bases and deltas with random values for the benchmarks, as Hugging Face and peft write them, so that both sides load the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
"""26.8 M parameters."""


def write_qwen2(folder: Path) -> None:
    """Write a Qwen2 of 26.8 M random weights, with the embedded base's tokenizer."""
    from petrun.assets import base_folder

    write_base(folder, QWEN2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_folder() / name, folder / name)


def write_base(folder: Path, raw: dict[str, Any]) -> None:
    """Write config.json and random weights of any family, without a tokenizer."""
    from petrun.models.families import family_of_type
    from petrun.tensors import array_entries, write_safetensors

    family = family_of_type(raw["model_type"])
    assert family is not None
    config = family.parse(raw)
    names, rng = family.names(config), np.random.default_rng(0)
    tensors = {}
    for parameter in family.build(config).get_parameters():
        scale = 0.02 if "embed" in parameter.name else 0.05
        # Norms near 1, and everything else around 0.
        centre = 1.0 if parameter.name.endswith("norm.weight") else 0.0
        values = (centre + scale * rng.standard_normal(parameter.shape)).astype(np.float32)
        stored = names[parameter.name]
        tensors[stored.name] = np.ascontiguousarray(values.T) if stored.transpose else values
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", array_entries(tensors), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw))


def write_byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one token a byte: 258 with padding (0) and end (1)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(("<pad>", "<eos>", *alphabet))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<eos>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "<eos>"}))


def write_lora(folder: Path, base: Path, rank: int = 8) -> None:
    """Write a LoRA of q and v with random values for a base of Qwen2's layout, in peft's format."""
    from petrun.tensors import array_entries, write_safetensors

    config = json.loads((base / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    wide = {"q_proj": hidden, "v_proj": hidden // heads * config["num_key_value_heads"]}
    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in wide.items():
            start = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{start}.lora_A.weight"] = (0.1 * rng.standard_normal((rank, hidden))).astype(np.float32)
            tensors[f"{start}.lora_B.weight"] = (0.1 * rng.standard_normal((width, rank))).astype(np.float32)
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors", array_entries(tensors), {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(wide),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
