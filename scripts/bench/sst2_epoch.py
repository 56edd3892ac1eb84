"""One epoch of SST-2 with MiniLM and LoRA as a whole process, petrun beside peft + PyTorch: seconds, peak memory and accuracy.

    python scripts/bench/sst2_epoch.py --sst2 FOLDER [--base MINILM] [--rounds 1] [--rate 3e-3]

FOLDER holds train.tsv and dev.tsv. Real lengths: petrun's own buckets, the peer's batches padded to their longest row. Both read the
rows, train an epoch in batches of 32, score dev.tsv and end; petrun compiles its graphs anew (`--no-compile-cache`), and writes its run
folder. The peer is `peer_sst2.py`, in PyTorch eager: each of a batch's lengths would be a graph of its own to torch.compile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from step_sides import find_minilm

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Run:
    """Figures of a whole process."""

    seconds: float
    peak_bytes: int
    accuracy: float


def measure(command: list[str]) -> tuple[float, int, str]:
    """Run a process. Returns seconds, peak resident bytes, and what it printed. Raises SystemExit where it fails."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GLOG_v": "3"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}\n{text[-2000:]}")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024, text


def ours(options: argparse.Namespace, seed: int) -> Run:
    """`petrun train`, evaluated on dev.tsv."""
    with tempfile.TemporaryDirectory(prefix="petrun-epoch-") as folder:
        out = f"{folder}/run"
        command = [
            sys.executable,
            "-m",
            "petrun",
            "train",
            "bert/sst2-lora",
            "--base",
            options.base,
            "--lr",
            options.rate,
        ]
        command += ["--data", f"{options.sst2}/train.tsv", "--eval-data", f"{options.sst2}/dev.tsv"]
        command += ["--seed", str(seed), "--out", out, "--no-compile-cache"]
        seconds, peak, _ = measure(command)
        accuracy = json.loads(Path(out, "results.json").read_text())["accuracy"]
    return Run(seconds=seconds, peak_bytes=peak, accuracy=accuracy)


def theirs(options: argparse.Namespace, seed: int) -> Run:
    """peer_sst2.py; its last line is a row `| method | rate | seed | accuracy | trained |`."""
    command = [options.peft_python, str(HERE / "peer_sst2.py"), "--base", options.base, "--sst2", options.sst2]
    command += ["--methods", "lora", "--rate", options.rate, "--seeds", str(seed)]
    seconds, peak, text = measure(command)
    return Run(seconds=seconds, peak_bytes=peak, accuracy=float(text.splitlines()[-1].split("|")[4]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sst2", required=True)
    parser.add_argument("--base", default=None)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", default="3e-3")
    parser.add_argument(
        "--peft-python",
        default=os.environ.get("PEER_PYTHON", sys.executable),
        help="interpreter that has torch, transformers and peft; default: $PEER_PYTHON, or this one",
    )
    parser.add_argument("--row", default="sst2-epoch", metavar="NAME")
    options = parser.parse_args()
    options.base = options.base or find_minilm()
    rounds = []
    for seed in range(options.rounds):
        rounds.append((ours(options, seed), theirs(options, seed)))
        for name, run in zip(("petrun", "eager"), rounds[-1], strict=True):
            print(
                f"{name:8s} seed {seed}: {run.seconds:.1f} s, peak {run.peak_bytes / 1e9:.2f} GB, accuracy {run.accuracy:.3f}",
                flush=True,
            )
    ratios = [a.seconds / b.seconds for a, b in rounds]
    mine, peer = (statistics.median(pair[i].seconds for pair in rounds) for i in (0, 1))
    scores = [statistics.mean(pair[i].accuracy for pair in rounds) for i in (0, 1)]
    peaks = [max(pair[i].peak_bytes for pair in rounds) for i in (0, 1)]
    print(
        f"| {options.row} | {mine:.1f} s, accuracy {scores[0]:.3f} | {peer:.1f} s (eager), accuracy {scores[1]:.3f} "
        f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
        f"| {peaks[0] / peaks[1]:.2f} ({peaks[0] / 1e9:.2f} / {peaks[1] / 1e9:.2f} GB) |"
    )


if __name__ == "__main__":
    main()
