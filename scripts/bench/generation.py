"""Greedy generation of petrun against transformers + peft: tokens a second and time to the first token, on the same files, in turn.

    pip install -e '.[bench]'
    python scripts/bench/generation.py [--models embedded qwen2] [--batches 1 16] [--rounds 5] [--peft-python PYTHON]

Both sides load the base and a LoRA (rank 8, query and value) in peft's format, unmerged, and answer prompts of 32 random tokens with
64 tokens each, with a cache of keys and values: petrun as `petrun generate` does, transformers by `generate`. `embedded` is the base
that petrun ships (0.87 M parameters), `qwen2` a Qwen2 of 26.8 M random weights. Each side is a process of its own; after one call to
warm up they take turns. Printed: the medians, of the rounds' ratios too, the share of equal answers, and what petrun compiled, in
seconds beyond those of a later call, without the compile cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bases import write_lora, write_qwen2
from turns import Worker, answer_lines

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

PROMPT, ANSWER = 32, 64


def prompts(batch: int) -> list[list[int]]:
    """The same prompts for both: token ids that each base has."""
    found: list[list[int]] = np.random.default_rng(batch).integers(10, 2000, (batch, PROMPT)).tolist()
    return found


def petrun_side(base: Path, delta: Path) -> Callable[[str], dict[str, Any]]:
    from petrun.config.commands.text import SessionSettings
    from petrun.evaluate.generate import Request, TextGenerator
    from petrun.inference.generation.multi_delta import load_deltas

    settings = SessionSettings(
        base=str(base), deltas={"delta": str(delta)}, batch_size=16, no_compile_cache=True, device="cpu"
    )
    model = load_deltas(settings)
    generator = TextGenerator(
        model.loaded.net,
        eos_ids=(),
        max_positions=model.loaded.max_positions,
        batch_size=16,
        select=model.multi_adapter.select,
        steady=True,
    )

    def one(line: str) -> dict[str, Any]:
        requests = [
            Request(prompt=np.array(ids, np.int32), limit=ANSWER, row=row, adapter=1)
            for row, ids in enumerate(prompts(int(line)))
        ]
        answers: list[list[int]] = [[] for _ in requests]
        begin, first = time.perf_counter(), 0.0
        for steps in generator.stream(requests):
            first = first or time.perf_counter() - begin
            for step in steps:
                if step.token is not None:
                    answers[step.number].append(step.token)
        return {"seconds": time.perf_counter() - begin, "first": first, "answers": answers}

    return one


def peft_side(base: Path, delta: Path) -> Callable[[str], dict[str, Any]]:
    import torch
    import transformers
    from peft import PeftModel

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(delta)).eval()
    model.generation_config.eos_token_id = None

    def generated(ids: Any, count: int) -> Any:
        with torch.no_grad():
            return model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                use_cache=True,
            )

    def one(line: str) -> dict[str, Any]:
        ids = torch.tensor(prompts(int(line)))
        begin = time.perf_counter()
        generated(ids, 1)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        found = generated(ids, ANSWER)
        return {"seconds": time.perf_counter() - begin, "first": first, "answers": found[:, PROMPT:].tolist()}

    return one


def compare(model: str, base: Path, delta: Path, batches: list[int], rounds: int, peft_python: str) -> None:
    """Print the lines of one model."""
    command = [__file__, "--base", str(base), "--delta", str(delta), "--worker"]
    sides = [
        Worker("petrun", [sys.executable, *command, "petrun"]),
        Worker("peft", [peft_python, *command, "peft"]),
    ]
    for batch in batches:
        cold = [side.ask(str(batch)) for side in sides]
        found = [[side.ask(str(batch)) for side in sides] for _ in range(rounds)]
        ours, theirs = zip(*found, strict=True)
        ratios = [t["seconds"] / o["seconds"] for o, t in found]
        same = np.mean([a == b for a, b in zip(ours[-1]["answers"], theirs[-1]["answers"], strict=True)])
        rates = [batch * ANSWER / statistics.median(r["seconds"] for r in side) for side in (ours, theirs)]
        firsts = [1000 * statistics.median(r["first"] for r in side) for side in (ours, theirs)]
        compiled = cold[0]["seconds"] - statistics.median(r["seconds"] for r in ours)
        print(
            f"{model:8s} batch {batch:2d}: petrun {rates[0]:6.0f} tokens/s, peft {rates[1]:6.0f}, ratio "
            f"{statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}); first token {firsts[0]:.1f} ms, "
            f"{firsts[1]:.1f} ms; equal answers {same:.2f}; compiled in {compiled:.1f} s",
            flush=True,
        )
    for side in sides:
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=["embedded", "qwen2"], default=["embedded", "qwen2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peft-python", default=sys.executable, help="interpreter that has torch, transformers and peft"
    )
    parser.add_argument("--worker", choices=["petrun", "peft"], help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--delta", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        answer_lines({"petrun": petrun_side, "peft": peft_side}[a.worker](a.base, a.delta))
        return
    from petrun.assets import base_folder

    for model in a.models:
        with tempfile.TemporaryDirectory() as folder:
            base, delta = base_folder(), Path(folder) / "delta"
            if model == "qwen2":
                base = Path(folder) / "qwen2"
                write_qwen2(base)
            write_lora(delta, base)
            compare(model, base, delta, a.batches, a.rounds, a.peft_python)


if __name__ == "__main__":
    main()
