"""Hold the rule by which `petrun plan --on` computes hours against runs on this machine.

    python scripts/bench/cost.py [--steps 12] [--rounds 3]

One run gives the operations per second, as a user's short run on one card would: LoRA of rank 8 on q and v of a Qwen2 of 26.8 M random
weights, 8 rows of 256 tokens. With them the rule says what a step of other methods, sizes and lengths takes; each is run as well, in turn
in every round. Printed: operations of a step, seconds planned and measured, and planned / measured, median (lowest to highest). Seconds are
medians of the steps after the first two, which compile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bases import QWEN2, write_base, write_qwen2
from sweep import timed, write_rows

_COMPILED = 2
"""Steps at the beginning that compile."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to plan and to measure."""

    name: str
    base: str = "base"
    rows: int = 8
    tokens: int = 256
    options: tuple[str, ...] = ("--algo", "lora", "--rank", "8")

    def arguments(self, steps: int) -> list[str]:
        return [
            *self.options, "--base", self.base, "--data", f"rows-{self.tokens}.jsonl", "--task", "lm", "--seq-len", str(self.tokens),
            "--batch-size", str(self.rows), "--steps", str(steps),
        ]  # fmt: skip


_REFERENCE = Job(name="LoRA on q and v")
_OTHERS = (
    Job(name="LoRA on all linear layers", options=(*_REFERENCE.options, "--target", "all-linear")),
    Job(name="full", options=("--algo", "full")),
    Job(name="LoRA on q and v, 4 x 512", rows=4, tokens=512),
    Job(name="LoRA on q and v, 16 x 128", rows=16, tokens=128),
    Job(name="LoRA on q and v, twice the width", base="wide", rows=4),
    Job(name="full, twice the width", base="wide", rows=4, options=("--algo", "full")),
)


def seconds_of_step(job: Job, steps: int, folder: Path) -> float:
    """Train, and return the median seconds of a step."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    timed(["train", *job.arguments(steps), "--out", str(out)], folder / "cache", folder)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return statistics.median([record["seconds"] for record in records if "loss" in record][_COMPILED:])


def operations_of_step(job: Job, steps: int, folder: Path) -> float:
    """Return the operations of a step by the rule of `petrun plan --on`."""
    line = [sys.executable, "-m", "petrun", "plan", *job.arguments(steps), "--on", "1xcpu", "--peak", "1", "--json"]
    found = json.loads(subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout)
    # The first row is of the run itself.
    return sum(found["cost"]["rows"][0]["work"].values()) / steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_qwen2(folder / "base")
        write_base(
            folder / "wide",
            {**QWEN2, "hidden_size": 1024, "intermediate_size": 2816},
        )
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / "wide" / file).write_bytes((folder / "base" / file).read_bytes())
        jobs = (_REFERENCE, *_OTHERS)
        for tokens in {job.tokens for job in jobs}:
            write_rows(folder / f"rows-{tokens}.jsonl", 64, tokens)
        work = {job.name: operations_of_step(job, given.steps, folder) for job in jobs}
        rates: list[float] = []
        ratios: dict[str, list[float]] = {job.name: [] for job in jobs}
        seconds: dict[str, list[float]] = {job.name: [] for job in jobs}
        for _ in range(given.rounds):
            for job in jobs:
                seconds[job.name].append(seconds_of_step(job, given.steps, folder))
            rate = work[_REFERENCE.name] / seconds[_REFERENCE.name][-1]
            rates.append(rate)
            for job in jobs:
                ratios[job.name].append(work[job.name] / rate / seconds[job.name][-1])
    print(
        f"{given.rounds} rounds of {given.steps} steps; the first run does {statistics.median(rates) / 1e9:.0f} GFLOPS"
    )
    print("| job | operations of a step | planned s | measured s | planned / measured |")
    print("|---|---|---|---|---|")
    for job in jobs:
        took, of = statistics.median(seconds[job.name]), ratios[job.name]
        middle = statistics.median(of)
        print(
            f"| {job.name} | {work[job.name]:.3g} | {took * middle:.2f} | {took:.2f} | {middle:.2f} ({min(of):.2f} to {max(of):.2f}) |"
        )


if __name__ == "__main__":
    main()
