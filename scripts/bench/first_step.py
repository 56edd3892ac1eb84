"""Seconds of a run's first step: with an empty compile cache, with the graph in it, and without the cache.

    python scripts/bench/first_step.py [--layers 8] [--targets q,v all-linear] [--rounds 1]

Makes a Llama of hidden width 64 with random weights and 16 rows of text, and trains LoRA (rank 8) on it with `petrun train`: batches of
4 rows x 32 tokens, two steps, each way in a process of its own, in turn. The first step compiles the training step, or loads it; the
second computes only. Printed for each way: seconds of the first step and of the second, and of the whole process, imports included.
Ratios within one line count; the machine's load stands beside them.
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
from pathlib import Path

import numpy as np
from bases import write_byte_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent),
]

HIDDEN, HEADS, VOCABULARY, TOKENS = 64, 4, 258, 32


def make_base(folder: Path, layers: int, hidden: int = HIDDEN, positions: int = 128) -> None:
    """A Hugging Face folder: config.json, model.safetensors and a tokenizer of one token a byte."""
    from petrun.tensors import Array, array_entries, write_safetensors

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    one = np.ones(hidden, np.float32)
    tensors = {"model.embed_tokens.weight": weight(VOCABULARY, hidden), "model.norm.weight": one}
    tensors["lm_head.weight"] = weight(VOCABULARY, hidden)
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            tensors[f"{start}self_attn.{name}_proj.weight"] = weight(hidden, hidden)
        tensors[f"{start}mlp.gate_proj.weight"] = weight(2 * hidden, hidden)
        tensors[f"{start}mlp.up_proj.weight"] = weight(2 * hidden, hidden)
        tensors[f"{start}mlp.down_proj.weight"] = weight(hidden, 2 * hidden)
        tensors[f"{start}input_layernorm.weight"] = tensors[f"{start}post_attention_layernorm.weight"] = one
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", array_entries(tensors), {"format": "pt"})
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_byte_tokenizer(folder)


def first_step(place: Path, targets: str, name: str, *more: str) -> tuple[float, float, float, float]:
    """Run two steps. Returns seconds of the first, of the second, of the process, and the first loss."""
    line = [
        sys.executable,
        "-m",
        "petrun",
        "train",
        *"--base base --data rows.jsonl --task lm --algo lora --batch-size 4".split(),
    ]
    line += [*f"--seq-len {TOKENS} --steps 2 --no-shuffle --target".split(), targets, "--out", name]
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run(
        [*line, "--set", "eval.samples=0", *more], cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - began
    lines = [json.loads(text) for text in (place / name / "log.jsonl").read_text().splitlines()]
    steps = [one for one in lines if "grad_norm" in one]
    return steps[0]["seconds"], steps[1]["seconds"], seconds, steps[0]["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--targets", nargs="+", default=["q,v", "all-linear"])
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petrun-first-step-") as folder:
        place = Path(folder)
        make_base(place / "base", given.layers)
        text = "0123456789 abcdefghijklmnopqrstuv"[:TOKENS]
        (place / "rows.jsonl").write_text("".join(json.dumps({"text": text[i:] + text[:i]}) + "\n" for i in range(16)))
        for number, targets in [(n, t) for n in range(given.rounds) for t in given.targets]:
            losses = set()
            for way, more in (("cold", ()), ("warm", ()), ("without", ("--no-compile-cache",))):
                name = f"{way}-{number}-{targets.replace(',', '-')}"
                if way == "cold":
                    shutil.rmtree(place / "cache" / "petrun" / "graphs", ignore_errors=True)
                first, second, seconds, loss = first_step(place, targets, name, *more)
                losses.add(loss)
                load = os.getloadavg()[0]
                print(
                    f"{given.layers} layers, {targets:10s} {way:8s} first step {first:6.1f} s, second {second:6.2f} s, "
                    f"process {seconds:6.1f} s, load {load:.1f}",
                    flush=True,
                )
            assert len(losses) == 1, f"the first loss differs: {losses}"


if __name__ == "__main__":
    main()
