"""BitFit, LoRA and full fine-tuning on SST-2 with PyTorch, transformers and peft: what `methods.py --task sst2` is held against.

    python scripts/bench/peer_sst2.py --base MINILM --sst2 FOLDER --methods bitfit,lora,full

One epoch of train.tsv in batches of 32, rows cut at 64 tokens, the base's own dropout, AdamW with a cosine rate after 6 % warm-up: the
settings and rates of methods.py. Order of rows, head and dropout masks are PyTorch's own.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from pathlib import Path
from typing import Any

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

RATES = {"bitfit": 3e-3, "lora": 3e-3, "full": 2e-4}
BATCH, TOKENS = 32, 64


def read(path: Path) -> list[tuple[str, int]]:
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(text, int(label)) for text, label in lines if label.isdigit()]


def adapted(method: str, model: Any) -> Any:
    if method == "lora":
        import peft

        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"]
        )
        return peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(method == "full" or name.endswith("bias") or name.startswith("classifier"))
    return model


def run(method: str, rate: float, seed: int, args: argparse.Namespace) -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.base)
    auto = transformers.AutoModelForSequenceClassification
    model = adapted(method, auto.from_pretrained(args.base, num_labels=2, dtype=torch.float32))
    rows, held = read(args.sst2 / "train.tsv"), read(args.sst2 / "dev.tsv")
    random.Random(seed).shuffle(rows)

    def batch(chosen: list[tuple[str, int]]) -> tuple[Any, Any]:
        texts = [text for text, _ in chosen]
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        return encoded, torch.tensor([label for _, label in chosen])

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    steps = -(-len(rows) // BATCH)
    warmup = round(0.06 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: (k + 1) / warmup if k < warmup else 0.5 * (1 + math.cos(math.pi * (k - warmup) / (steps - warmup))),
    )
    model.train()
    for start in range(0, len(rows), BATCH):
        encoded, labels = batch(rows[start : start + BATCH])
        torch.nn.functional.cross_entropy(model(**encoded).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    hits = 0
    with torch.no_grad():
        for start in range(0, len(held), BATCH):
            encoded, labels = batch(held[start : start + BATCH])
            hits += int((model(**encoded).logits.argmax(-1) == labels).sum())
    print(
        f"| {method} | {rate:g} | {seed} | {hits / len(held):.3f} | {sum(p.numel() for p in trained):,} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--sst2", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(RATES))
    parser.add_argument("--rate", type=float, help="in place of methods.py's")
    parser.add_argument("--seeds", default="0")
    args = parser.parse_args()
    print("| method | rate | seed | accuracy | trained |\n|---|---|---|---|---|")
    for method in args.methods.split(","):
        for seed in map(int, args.seeds.split(",")):
            run(method, args.rate or RATES[method], seed, args)


if __name__ == "__main__":
    main()
