#!/usr/bin/env python
"""Merging a LoRA into a large sharded base: time beside `cp` + `sha256sum` of that base, and peak memory; and peft, where installed.

    python scripts/bench/merge.py --gigabytes 4

A synthetic Llama in bfloat16 is written in shards of 1 GB, and a LoRA of rank 16 on all its linear layers, so that nearly every tensor
changes; petrun's copy of the LoRA names its base, whose content is therefore digested and compared first. Then, in the same run: `cp`
and `sha256sum` of the base's files; `petrun merge`; peft's merge_and_unload, saved in shards too.
Every part runs in a process of its own; peak memory is the operating system's figure for it. Files come from a warm cache for all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, WIDE, VOCAB, HEADS, RANK = 2048, 5504, 32000, 16, 16
_PEFT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="1GB")
"""


def layers_for(gigabytes: float) -> int:
    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDE
    return max(1, round((gigabytes * 1e9 / 2 - 2 * VOCAB * HIDDEN) / layer))


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(layers):
        at = f"model.layers.{i}."
        found |= {f"{at}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{at}mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        found |= {f"{at}mlp.down_proj.weight": (HIDDEN, WIDE)}
        found |= {f"{at}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return {**found, "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def write_base(folder: Path, layers: int) -> None:
    import numpy as np

    from petrun.tensors import TensorEntry, write_safetensors_folder

    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 20, np.float32) * 0.02

    def values(shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape))
        start = int(rng.integers(0, 1 << 19))
        repeated = np.resize(noise[start:], count)
        return repeated.reshape(shape)

    entries = [TensorEntry(name, shape, "bfloat16", partial(values, shape)) for name, shape in shapes(layers).items()]
    write_safetensors_folder(folder, entries, {"format": "pt"}, max_shard_bytes=10**9)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": WIDE,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def write_adapter(folder: Path, layers: int) -> None:
    """A peft folder, which petrun and peft read alike."""
    import numpy as np

    from petrun.tensors import array_entries, write_safetensors

    folder.mkdir()
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in shapes(layers).items():
        if "_proj." in name:
            at = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{at}.lora_A.weight"] = rng.standard_normal((RANK, shape[1]), np.float32) * 0.02
            tensors[f"{at}.lora_B.weight"] = rng.standard_normal((shape[0], RANK), np.float32) * 0.02
    write_safetensors(folder / "adapter_model.safetensors", array_entries(tensors), {"format": "pt"})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak resident megabytes of the process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} failed:\n{said.decode(errors='replace')[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument(
        "--folder", type=Path, help="where to work (three times the size is needed); default: the temporary folder"
    )
    parser.add_argument("--no-peft", action="store_true", help="leave peft out: it holds the whole model in memory")
    parser.add_argument("--write-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write_only:
        sys.path.insert(0, str(ROOT))
        write_base(arguments.folder / "base", layers_for(arguments.gigabytes))
        write_adapter(arguments.folder / "adapter", layers_for(arguments.gigabytes))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        run(Path(made), arguments.gigabytes, not arguments.no_peft)


def run(work: Path, gigabytes: float, with_peft: bool) -> None:
    layers = layers_for(gigabytes)
    # Elsewhere: the system counts the memory of whoever started a process as the first of its own.
    timed([sys.executable, __file__, "--write-only", "--folder", str(work), "--gigabytes", str(gigabytes)])
    files = sorted(str(p) for p in (work / "base").iterdir())
    size = sum(os.path.getsize(f) for f in files) / 1e9
    shards = sum(file.endswith(".safetensors") for file in files)
    print(f"base: {size:.2f} GB bfloat16, {shards} shards, {layers} layers; LoRA rank {RANK} on all linear layers")
    (work / "copy").mkdir()
    copying = timed(["cp", *files, str(work / "copy")])[0]
    digesting = timed(["sha256sum", *files])[0]
    shutil.rmtree(work / "copy")
    reference = copying + digesting
    print(f"cp {copying:.1f} s + sha256sum {digesting:.1f} s = {reference:.1f} s")
    petrun = [sys.executable, "-m", "petrun"]
    delta = str(work / "lora.safetensors")
    timed([*petrun, "delta", "convert", str(work / "adapter"), "--base", str(work / "base"), "--out", delta])
    merge = [*petrun, "merge", "--base", str(work / "base"), "--delta", delta]
    seconds, peak = timed([*merge, "--out", str(work / "merged"), "--max-shard-size", "1GB"])
    shutil.rmtree(work / "merged")
    row("petrun merge", seconds, peak, reference)
    if with_peft and has("peft") and has("torch"):
        command = [sys.executable, "-c", _PEFT, str(work / "base"), str(work / "adapter"), str(work / "theirs")]
        row("peft merge_and_unload", *timed(command), reference)
    else:
        print("peft: left out, or not installed")
    print(
        f"petrun algorithms: peak resident {timed([*petrun, 'algorithms'])[1]:.0f} MB (what importing MindSpore takes)"
    )


def row(name: str, seconds: float, peak: float, reference: float) -> None:
    print(f"{name}: {seconds:.1f} s, {seconds / reference:.2f} x (cp + sha256sum), peak resident {peak:.0f} MB")


def has(package: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
