"""Adapters as peft saves them, whose numbers follow from their names, and the logits that peft computes with them.

`python -m tests.interop.peft.peft_adapters FOLDER` writes bases and adapters; `python tests/interop/peft/peft_adapters.py FOLDER`, where
torch, transformers and peft are installed, computes the logits and stores them in peft_logits.json; test_peft_adapters.py holds petrun
against these. The second call also saves a fresh adapter of each config with peft, whose tensors must have the same names.
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_name("peft_logits.json")
VOCAB, HIDDEN, LAYERS, RANK = 32, 16, 2, 2
IDS = np.random.default_rng(1).integers(3, VOCAB, (2, 6))
BASES = {
    "llama": {"vocab_size": VOCAB, "tie_word_embeddings": True},
    "gpt2": {"vocab_size": VOCAB, "tie_word_embeddings": True},
    "untied": {"vocab_size": VOCAB, "tie_word_embeddings": False},
}
NAMES = {
    "llama": {"embed": "model.embed_tokens", "q": "model.layers.{}.self_attn.q_proj", "head": "lm_head"},
    "gpt2": {"embed": "transformer.wte", "q": "transformer.h.{}.attn.c_attn", "head": "lm_head"},
}
TIE = {"ensure_weight_tying": True}
ROWS = "trainable_token_indices"
CASES = {
    # name: (bases, config with embed, q and head for the modules' names, what the file holds beside the layers' matrices)
    "embed-saved": ("llama gpt2 untied", {"modules_to_save": ["embed"]}, "whole:embed"),
    "head-saved": ("llama gpt2", {"modules_to_save": ["head"]}, "whole:head"),
    "both-saved": ("llama gpt2", {"modules_to_save": ["embed", "head"]}, "whole:embed whole:head"),
    "saved-alike": ("llama", {"modules_to_save": ["model.embed_tokens"], **TIE}, "whole:embed same:head"),
    "saved-not-alike": ("gpt2", {"modules_to_save": ["embed"], **TIE}, "whole:embed"),
    "head-adapted": ("llama gpt2", {"target_modules": ["q", "head"]}, "lora:head base:head"),
    "embed-adapted": ("llama untied", {"target_modules": ["q", "embed"]}, "table:embed base:embed"),
    "wte-adapted": ("gpt2", {"target_modules": ["q", "embed"]}, "table:embed"),
    "both-adapted": (
        "llama gpt2",
        {"target_modules": ["q", "embed", "head"], "use_rslora": True, "alpha_pattern": {"lm_head": 5}},
        "table:embed lora:head base:embed base:head",
    ),
    "adapted-alike": (
        "llama",
        {"target_modules": ["q", "embed"], **TIE},
        "table:embed transposed:head base:embed base:head",
    ),
    "saved-and-adapted": (
        "llama gpt2",
        {"target_modules": ["q", "head"], "modules_to_save": ["embed"]},
        "lora:head base:head whole:embed",
    ),
    "dora-head": ("llama", {"target_modules": ["q", "head"], "use_dora": True}, "dora:head base:head"),
    "tokens": ("llama gpt2 untied", {ROWS: [3, 7]}, "rows:embed:2"),
    "tokens-apart": ("llama", {ROWS: {"embed": [3, 7], "head": [1]}}, "rows:embed:2 rows:head:1"),
    "tokens-of-the-head": ("llama", {ROWS: {"head": [4, 1]}}, "rows:head:2"),
    "bias": ("llama gpt2", {"lora_bias": True}, "bias"),
    "bias-rslora": ("gpt2", {"lora_bias": True, "use_rslora": True}, "bias"),
    "pissa": ("llama gpt2", {"init_lora_weights": "pissa"}, ""),
    "pissa-rslora": ("gpt2", {"init_lora_weights": "pissa", "use_rslora": True}, ""),
    "olora": ("llama", {"init_lora_weights": "olora"}, ""),
    "parameters": (
        "llama",
        {"target_modules": ["v_proj"], "target_parameters": ["q_proj.weight"]},
        "lora:model.layers.0.self_attn.v_proj lora:model.layers.1.self_attn.v_proj",
    ),
}


def cases():
    """(name, base)."""
    for name, (bases, _, _) in CASES.items():
        for base in bases.split():
            yield name, base


def config_of(name, base):
    """adapter_config.json."""
    modules = {key: value.rpartition(".")[2] for key, value in NAMES["gpt2" if base == "gpt2" else "llama"].items()}

    def named(value):
        if isinstance(value, dict):
            return {modules.get(k, k): named(v) for k, v in value.items()}
        return [modules.get(v, v) for v in value] if isinstance(value, list) else value

    common = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 3, "inference_mode": True}
    return {**common, "fan_in_fan_out": base == "gpt2", "target_modules": [modules["q"]], **named(CASES[name][1])}


def tensors_of(name, base, stored):
    """The adapter's tensors. `stored`: those of the base."""
    names = NAMES["gpt2" if base == "gpt2" else "llama"]
    wide = 3 * HIDDEN if base == "gpt2" else HIDDEN
    config, found = config_of(name, base), {}

    def add(key, *shape):
        found["base_model.model." + key] = numbers(f"{name}.{key}", shape)

    for layer in range(LAYERS):
        module = names["q"].format(layer)
        add(f"{module}.lora_A.weight", RANK, HIDDEN)
        add(f"{module}.lora_B.weight", wide, RANK)
        if config.get("lora_bias"):
            add(f"{module}.lora_B.bias", wide)
        if config.get("use_dora"):
            add(f"{module}.lora_magnitude_vector", wide)
    for part in CASES[name][2].split():
        kind, _, rest = part.partition(":")
        where, _, count = rest.partition(":")
        module = names.get(where, where)
        outputs = VOCAB if where in names else HIDDEN // 2
        if kind == "whole":
            add(f"{module}.weight", VOCAB, HIDDEN)
        elif kind == "same":
            found[f"base_model.model.{module}.weight"] = found[f"base_model.model.{names['embed']}.weight"]
        elif kind == "base":
            found[f"base_model.model.{module}.base_layer.weight"] = stored[names["embed"] + ".weight"]
        elif kind == "table":
            add(f"{module}.lora_embedding_A", RANK, VOCAB)
            add(f"{module}.lora_embedding_B", HIDDEN, RANK)
        elif kind == "transposed":
            table = f"base_model.model.{names['embed']}.lora_embedding_"
            found[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(found[table + "B"].T)
            found[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(found[table + "A"].T)
        elif kind in ("lora", "dora"):
            add(f"{module}.lora_A.weight", RANK, HIDDEN)
            add(f"{module}.lora_B.weight", outputs, RANK)
            if kind == "dora":
                add(f"{module}.lora_magnitude_vector", outputs)
        elif kind == "rows":
            add(f"{module}.token_adapter.trainable_tokens_delta", int(count), HIDDEN)
    return found


def numbers(key, shape):
    """float32 between -1/2 and 1/2 that depend on the key alone."""
    count = int(np.prod(shape))
    mixed = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))
    return (((mixed >> np.uint64(7)) % np.uint64(65)).astype(np.float32) / 64 - 0.5).reshape(shape)


def write_adapter(folder, name, base, stored):
    """`folder` as peft saves it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config_of(name, base)))
    save_file(tensors_of(name, base, stored), folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def write_all(folder):
    """Every base and every adapter."""
    from safetensors.numpy import load_file

    from tests.interop.peft.interop import exact_base

    for base, changes in BASES.items():
        exact_base(folder / base, "gpt2" if base == "gpt2" else "llama", **changes)
        stored = load_file(folder / base / "model.safetensors")
        for name, where in cases():
            if where == base:
                write_adapter(folder / f"{name} {base}", name, base, stored)


def in_peft(base, adapter):
    """(logits of the last token of both rows, names of the tensors that peft saves for such a config)."""
    import peft
    import torch
    import transformers
    from safetensors.numpy import load_file

    def fresh():
        return transformers.AutoModelForCausalLM.from_pretrained(base)

    model = peft.PeftModel.from_pretrained(fresh(), adapter).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(IDS)).logits[:, -1].numpy()
    with tempfile.TemporaryDirectory() as text:
        peft.get_peft_model(fresh(), peft.LoraConfig.from_pretrained(adapter)).save_pretrained(text)
        saved = set(load_file(Path(text) / "adapter_model.safetensors"))
    return found, saved


def main(folder):
    """Compute and store the logits of every adapter in the folder."""
    import peft
    from safetensors.numpy import load_file

    stored = {}
    for name, base in cases():
        adapter = folder / f"{name} {base}"
        found, saved = in_peft(folder / base, adapter)
        held = set(load_file(adapter / "adapter_model.safetensors"))
        assert saved == held, (name, base, saved ^ held)
        stored[f"{name} {base}"] = [[round(float(value), 5) for value in row] for row in found]
    text = json.dumps({"computed_with": f"peft {peft.__version__}", "logits": stored}, separators=(",", ":"))
    STORED.write_text(text.replace('],"', '],\n"') + "\n")
    print(f"{len(stored)} adapters")


if __name__ == "__main__":
    if __spec__ is None:
        main(Path(sys.argv[1]))
    else:
        write_all(Path(sys.argv[1]))
