"""One sweep over learning rates against one run of it, and against the runs in processes of their own.

    python scripts/bench/sweep.py [--rates 4] [--steps 14] [--rounds 3] [--rows 8] [--tokens 256]

The base is a Qwen2 of 26.8 M random weights (LoRA of rank 8 on q and v), the rows are text. Each way begins with an empty compile cache, in
turn in every round: one run (`petrun train`), all runs in one process (`petrun sweep`), all runs one after another as processes of their
own, with the cache that each finds. Printed: seconds and the largest resident memory of a whole process, imports included; ratios to
one run of the same round, median (lowest to highest); and whether the deltas of the sweep have the bits of the separate runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bases import write_qwen2

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent),
]
WORDS = (
    "order chair table lamp city Paris Rome seven eight piece price pound euro date May June please send thank".split()
)


def write_rows(path: Path, count: int, tokens: int) -> None:
    """Write rows of words, each longer than `tokens` tokens."""
    draw = random.Random(0)
    path.write_text("".join(json.dumps({"text": " ".join(draw.choices(WORDS, k=tokens))}) + "\n" for _ in range(count)))


def timed(arguments: list[str], cache: Path, folder: Path) -> tuple[float, float]:
    """Run petrun. Returns (seconds, largest resident memory in MB)."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "petrun", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"petrun {' '.join(arguments)} ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def round_of(folder: Path, common: list[str], rates: list[str]) -> dict[str, tuple[float, float]]:
    """Run the three ways once, each with a cache that holds the kernels and no graph."""
    found: dict[str, tuple[float, float]] = {}
    for name in ("runs", "cache", "alone", "sweep"):
        shutil.rmtree(folder / name, ignore_errors=True)

    def empty_graphs() -> None:
        shutil.rmtree(folder / "cache" / "petrun" / "graphs", ignore_errors=True)

    # Kernels are built and rows are tokenised once on a machine.
    timed(["train", *common, "--lr", "1e-5", "--steps", "1", "--out", "warm"], folder / "cache", folder)
    shutil.rmtree(folder / "warm")
    empty_graphs()
    found["one run"] = timed(["train", *common, "--lr", rates[0], "--out", "alone"], folder / "cache", folder)
    empty_graphs()
    over = f"lr={','.join(rates)}"
    found["sweep"] = timed(["sweep", *common, "--over", over, "--out", "sweep"], folder / "cache", folder)
    empty_graphs()
    apart = [
        timed(["train", *common, "--lr", rate, "--out", f"runs/{rate}"], folder / "cache", folder) for rate in rates
    ]
    found["processes"] = (sum(seconds for seconds, _ in apart), max(memory for _, memory in apart))
    for rate in rates:
        own, mine = (folder / place / "lora.ckpt" for place in (f"runs/{rate}", f"sweep/lr={rate}"))
        if own.read_bytes() != mine.read_bytes():
            raise SystemExit(f"lr={rate}: the delta of the sweep has other bits than that of its own run")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, default=4)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--tokens", type=int, default=256)
    given = parser.parse_args()

    rates = [f"{k}e-4" for k in range(1, given.rates + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_qwen2(folder / "base")
        write_rows(folder / "rows.jsonl", given.rows * 8, given.tokens)
        common = f"--algo lora --rank 8 --base base --data rows.jsonl --task lm --seq-len {given.tokens} --batch-size {given.rows}"
        steps = ["--steps", str(given.steps)] if given.steps else []
        rounds = [round_of(folder, [*common.split(), *steps], rates) for _ in range(given.rounds)]
    print(f"{given.rates} learning rates, {given.steps} steps of {given.rows} x {given.tokens} tokens")
    for way in rounds[0]:
        parts = []
        for index, unit in ((0, "s"), (1, "MB")):
            ratios = [found[way][index] / found["one run"][index] for found in rounds]
            median = statistics.median(found[way][index] for found in rounds)
            parts.append(
                f"{median:.0f} {unit}, {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(f"{way:10s} {parts[0]};  {parts[1]}")
    print("every delta of the sweep has the bits of its own run")


if __name__ == "__main__":
    main()
