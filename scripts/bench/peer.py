"""Virtual tokens, BitFit and LoRA on the embedded task beside peft + PyTorch: the same base, rows, batches, rates and steps.

    python scripts/bench/peer.py --dump FOLDER --methods prefix,prompt      # with petrun's environment
    python scripts/bench/peer.py --train FOLDER                             # where torch, transformers and peft are installed

A frozen base of 0.87 M parameters is small for prompts. Whether a low score is the method's or petrun's is answered by another
implementation: --dump writes the batches of `petrun train embedded/<method> --seed 0` and its settings; --train trains peft's
method on them and prints loss a token and exact match on the same 128 held-out rows, greedily generated. peft's own
initialisation and generator are used, so single figures differ; what counts is where each method ends. Both halves are needed in
one environment or in two, as `pip install -e '.[bench]'` allows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np  # noqa: E402

METHODS = ("prefix", "ptuning2", "prompt", "ptuning", "bitfit", "lora")


def dump(folder: Path, methods: list[str], sets: list[str]) -> None:
    """FOLDER/<method>.npz: every micro-batch in order, the held-out rows and their prompts; <method>.json: the settings."""
    from petrun.assets import base_folder, default_recipe
    from petrun.config.load import load_run_config
    from petrun.data.batches.buckets import plan_batches
    from petrun.delta import find_method
    from petrun.inference.rows import scoring_batches
    from petrun.training.setup.rank_batches import training_batches
    from petrun.training.setup.sources import open_sources, resolve_data

    folder.mkdir(parents=True, exist_ok=True)
    for method in methods:
        resolved = load_run_config(f"embedded/{method}", {}, sets, embedded=default_recipe())
        resolved, base_info = resolve_data(resolved, None)
        config = resolved.config
        sources = open_sources(config, base_info, None)
        rows = sources.train
        assert sources.evaluation is not None and sources.prompts is not None

        def set_layout(lengths: Any, shuffle: bool, size: int, config: Any = config) -> Any:
            return plan_batches(
                lengths,
                batch_size=size,
                seq_len=config.data.seq_len,
                buckets=config.data.buckets,
                order="shuffle" if shuffle else "file",
                seed=config.train.seed,
            )

        batching = set_layout(rows.lengths, config.data.shuffle, config.train.batch_size)
        steps = round((config.train.epochs or 3) * batching.batches_per_epoch)
        inputs = ("input_ids", "segment_ids", "position_ids")
        arrays: dict[str, Any] = {}
        for k, batch in zip(range(steps), training_batches(rows, batching, inputs, 0), strict=False):
            for name in ("input_ids", "segment_ids", "targets"):
                arrays[f"train/{k}/{name}"] = batch[name]
        held = next(
            scoring_batches(
                sources.evaluation,
                set_layout(sources.evaluation.lengths, False, len(sources.evaluation)).epoch(0),
                inputs,
                0,
            )
        )
        for name in ("input_ids", "segment_ids", "targets"):
            arrays[f"held/{name}"] = held[name]
        np.savez(folder / f"{method}.npz", **arrays)
        algorithm = find_method(config.algo)
        settings = {
            "steps": steps,
            "lr": config.optim.lr or algorithm.default_lr,
            "warmup": round((0.06 if config.optim.warmup is None else config.optim.warmup) * steps),
            "weight_decay": config.optim.weight_decay,
            "clip": config.optim.clip,
            "delta": config.delta.model_dump(mode="json"),
            "base": str(base_folder()),
        }
        (folder / f"{method}.json").write_text(json.dumps(settings))
        print(f"{method}: {steps} steps, rate {settings['lr']}")


def adapted(method: str, settings: dict[str, Any], model: Any) -> Any:
    """The base with peft's counterpart of a method; BitFit, which peft has as biases beside LoRA only, by hand."""
    import peft

    delta, task = settings["delta"], "CAUSAL_LM"
    if method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        return model
    if method == "lora":
        config: Any = peft.LoraConfig(
            task_type=task,
            r=delta["rank"],
            lora_alpha=delta["alpha"],
            lora_dropout=0.0,
            target_modules=["q_proj", "v_proj"],
        )
    elif method in ("prefix", "ptuning2"):
        projection = method == "prefix"
        config = peft.PrefixTuningConfig(
            task_type=task,
            num_virtual_tokens=delta["tokens"],
            prefix_projection=projection,
            encoder_hidden_size=delta["middle"] if projection else None,
        )
    elif method == "prompt":
        config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=delta["tokens"])
    else:
        config = peft.PromptEncoderConfig(
            task_type=task, num_virtual_tokens=delta["tokens"], encoder_hidden_size=delta["middle"]
        )
    return peft.get_peft_model(model, config)


def train(folder: Path) -> None:
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    transformers.logging.set_verbosity_error()
    for path in sorted(folder.glob("*.npz"), key=lambda p: METHODS.index(p.stem)):
        settings, data = json.loads(path.with_suffix(".json").read_text()), np.load(path)
        torch.manual_seed(0)
        base = transformers.AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.float32)
        model = adapted(path.stem, settings, base)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=settings["lr"], weight_decay=settings["weight_decay"])
        steps, warmup = settings["steps"], settings["warmup"]

        def rate(k: int, warmup: int = warmup, steps: int = steps) -> float:
            if k < warmup:
                return (k + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (k - warmup) / max(1, steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

        def loss_of(prefix: str, model: Any = model, data: Any = data) -> Any:
            ids = torch.from_numpy(data[f"{prefix}/input_ids"]).long()
            mask = torch.from_numpy((data[f"{prefix}/segment_ids"] != 0).astype(np.int64))
            targets = torch.from_numpy(data[f"{prefix}/targets"]).long()
            # peft puts the virtual tokens' logits first; the last T are the row's.
            logits = model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]
            return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

        model.train()
        for k in range(steps):
            loss = loss_of(f"train/{k}")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings["clip"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        with torch.no_grad():
            held = loss_of("held").item()
            hits = exact(model, data)
        count = sum(p.numel() for p in trained)
        print(f"| {path.stem} | {hits:.3f} | {held:.3f} | {count:,} | {steps} |", flush=True)


def exact(model: Any, data: Any) -> float:
    """Share of held-out rows whose answer, generated greedily up to the end token, is the reference token by token."""
    import torch

    ids, targets = data["held/input_ids"], data["held/targets"]
    hits = 0
    for row, wanted in zip(ids, targets, strict=True):
        places = np.flatnonzero(wanted != -100)
        answer = wanted[places].tolist()
        # Position t predicts t + 1: the prompt ends where the first supervised position stands.
        prompt = torch.from_numpy(row[: places[0] + 1]).long()[None]
        found = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=len(answer),
            do_sample=False,
        )
        hits += found[0, prompt.shape[1] :].tolist()[: len(answer)] == answer
    return hits / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, metavar="FOLDER")
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipes, for --dump")
    args = parser.parse_args()
    if args.dump:
        dump(args.dump, args.methods.split(","), args.set)
    if args.train:
        print("| method | exact match | loss | trained | steps |\n|---|---|---|---|---|")
        train(args.train)
    if not args.dump and not args.train:
        parser.error("give --dump FOLDER, --train FOLDER, or both")


if __name__ == "__main__":
    main()
