"""Does cleaning and selecting help? The embedded task with noise, through `petrun data`, then training at the same number of steps.

    pip install -e '.[data,metrics]'
    python scripts/bench/selection.py [--rows 2000] [--steps 192] [--seeds 3] [--out FOLDER]
    python scripts/bench/selection.py --shuffled 1000

The second line gives half of so many rows of the task another row's answer, and prints what of them IFD finds. The first:

Of the rows 45 % are the embedded task's own; 35 % have the answer of another row; 10 % are copies of earlier rows, some of them changed a
little; 5 % hold HTML or text decoded in a wrong encoding; 5 % have an answer that breaks off. Then

    clean     petrun data clean
    brief     a delta trained on 200 of the clean rows, which scores: the base itself does not know the task
    ifd       petrun data score --by ifd, and 10 % by petrun data select: as the paper has it, and of the scores up to 0.7; the lowest 10 %
              and a random 10 % as controls

and LoRA is trained on each set with the same steps, rate and batch. Printed: exact match on the embedded task's evaluation rows, mean and
range over the seeds, and how much of each set is noise.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TASK = ROOT / "petrun" / "assets" / "task"
BASE = ROOT / "petrun" / "assets" / "base"
BRIEF_ROWS, BRIEF_STEPS = 200, 60
SETTINGS = [
    word
    for key in ("data.seq_len=96", "data.buckets=1", "eval.batch_size=128", "eval.max_new_tokens=40")
    for word in ("--set", key)
]
"""Those of petrun/assets/default.yaml."""
CAP = 0.7
"""A score in the gap between the two groups of rows that the scores show."""


def noisy_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a column `noise` that says what is wrong with each; training does not read it."""
    draw = random.Random(seed)
    lines = (TASK / "train.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(message["content"] for message in json.loads(line)["messages"]) for line in lines]
    draw.shuffle(pairs)
    rows: list[dict[str, Any]] = []

    def add(question: str, answer: str, noise: str) -> None:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "noise": noise})

    shares = {"": 0.45, "other answer": 0.35, "copy": 0.10, "damaged": 0.05, "cut": 0.05}
    for noise, share in shares.items():
        for _ in range(round(count * share)):
            question, answer = pairs[len(rows) % len(pairs)]
            if noise == "other answer":
                answer = draw.choice(pairs)[1]
            elif noise == "copy":
                question, answer = draw.choice(pairs[: round(count * 0.45)])
                question = question if draw.random() < 0.5 else question + " Thanks."
            elif noise == "damaged":
                answer = f"<div>{answer}</div>" if draw.random() < 0.5 else answer + " schÃ¶n grÃ¼n"
            elif noise == "cut":
                answer = answer[: len(answer) // 3]
            add(question, answer, noise)
    draw.shuffle(rows)
    return rows


def petrun(*line: str) -> None:
    print("petrun", *line, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "petrun", *line], check=True, cwd=ROOT, stdout=sys.stderr)


def train(data: Path, out: Path, steps: int, seed: int, measure: bool = True) -> float:
    """Train LoRA with the settings of the embedded task. Returns the exact match on its evaluation rows."""
    line = ["train", "--algo", "lora", "--rank", "8", "--alpha", "16", "--data", str(data), "--steps", str(steps)]
    if measure:
        line += ["--eval-data", str(TASK / "eval.jsonl"), "--set", "eval.metrics=[loss, exact_match]", *SETTINGS]
    petrun(*line, "--lr", "0.01", "--seed", str(seed), "--out", str(out))
    return float(json.loads((out / "results.json").read_text())["exact_match"]) if measure else 0.0


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(folder: Path, rows: int) -> dict[str, Path]:
    """Make the sets that are compared."""
    noisy = write(folder / "noisy.jsonl", noisy_rows(rows))
    clean = folder / "clean.jsonl"
    petrun("data", "clean", str(noisy), "--against", str(TASK / "eval.jsonl"), "--out", str(clean))
    cleaned = read(clean)
    draw = random.Random(1)
    brief = write(folder / "brief.jsonl", draw.sample(cleaned, BRIEF_ROWS))
    train(brief, folder / "brief", BRIEF_STEPS, 0, measure=False)
    scores = folder / "scores.jsonl"
    petrun("data", "score", str(clean), "--by", "ifd", "--delta", str(folder / "brief"), "--out", str(scores))
    sets = {"all": noisy, "clean": clean}
    for name, more in (("ifd 10 %", []), ("capped 10 %", ["--max-score", str(CAP)]), ("lowest 10 %", ["--lowest"])):
        sets[name] = folder / f"{name.split()[0]}.jsonl"
        petrun("data", "select", str(clean), "--scores", str(scores), "--top", "10%", *more, "--out", str(sets[name]))
    size = len(read(sets["ifd 10 %"]))
    sets["random 10 %"] = write(folder / "random.jsonl", draw.sample(cleaned, size))
    return sets


def shuffled(folder: Path, count: int) -> None:
    """Print how IFD tells the half of the rows that have another row's answer: by the base itself, and after a short training on some."""
    lines = (TASK / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(0).sample(lines, count)]
    half = count // 2
    answers = [row["messages"][1] for row in rows]
    for i in range(half):
        rows[i]["messages"][1] = answers[(i + 1) % half]
    source = write(folder / "shuffled.jsonl", rows)
    brief = write(folder / "brief.jsonl", random.Random(1).sample(rows, BRIEF_ROWS))
    train(brief, folder / "brief", BRIEF_STEPS, 0, measure=False)
    print(f"{count:,} rows, {half:,} with another row's answer")
    by_delta = ["--delta", str(folder / "brief")]
    for name, more in (("the base itself", []), (f"a delta trained on {BRIEF_ROWS} of them", by_delta)):
        scores = folder / "shuffled-scores.jsonl"
        petrun("data", "score", str(source), "--by", "ifd", "--base", str(BASE), *more, "--out", str(scores))
        found = [row["score"] for row in read(scores)[1:]]
        other, own = found[:half], found[half:]
        above, wrong = sum(score > 1 for score in other), sum(score > 1 for score in own)
        pairs = sum(a > b for a in other for b in own) / (len(other) * len(own))
        print(
            f"by {name}: {above} of these are above 1, and {wrong} of the others; they score higher in {pairs:.1%} of pairs"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shuffled", type=int, metavar="ROWS")
    parser.add_argument("--out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(given.out or made)
        folder.mkdir(parents=True, exist_ok=True)
        if given.shuffled:
            shuffled(folder, given.shuffled)
            return
        sets = prepare(folder, given.rows)
        print(f"{given.rows} rows, {given.steps} steps, {given.seeds} seeds")
        for name, path in sets.items():
            found = read(path)
            noise = sum(row["noise"] not in ("", "copy") for row in found) / len(found)
            scores = []
            for seed in range(given.seeds):
                run = folder / f"{path.stem}-{seed}"
                scores.append(train(path, run, given.steps, seed))
            print(
                f"{name:12} {len(found):5} rows, {noise:4.0%} noise: exact match {statistics.mean(scores):.3f} "
                f"({min(scores):.3f} to {max(scores):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
