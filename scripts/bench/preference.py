"""What preferences teach: the rate of complete answers before and after DPO, three seeds, on the embedded base.

    python scripts/bench/preference.py [--seeds 0,1,2] [--loss dpo]

The embedded task extracts the six fields of an order. First the base is tuned on answers of which each lacks a field, and merged: it
answers, but incompletely. Then it is trained on pairs from other rows, in which the complete answer is chosen and the one that lacks
a field rejected. No answer of those rows is learned by itself (preference.sft_weight 0). Both models answer the 128 held-out
prompts greedily.
complete: the answer has all six fields; exact: it is the held-out answer.
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

from petrun.assets import task_file

Row = dict[str, list[dict[str, str]]]


def petrun(*arguments: object) -> None:
    """Run the program; its output goes to the terminal only where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "petrun", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"petrun {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def rows(name: str) -> list[Row]:
    """The rows of the embedded task."""
    return [json.loads(line) for line in task_file(name).read_text(encoding="utf-8").splitlines()]


def without_a_field(answer: str, chance: random.Random) -> str:
    """The answer with one of its lines left out."""
    lines = answer.split("\n")
    del lines[chance.randrange(len(lines))]
    return "\n".join(lines)


def write(path: Path, content: list[Row] | list[dict[str, object]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def incomplete(source: list[Row], chance: random.Random) -> list[Row]:
    """The rows with a field of each answer left out."""
    found = []
    for row in source:
        asked, answered = row["messages"]
        found.append({"messages": [asked, {**answered, "content": without_a_field(answered["content"], chance)}]})
    return found


def pairs(source: list[Row], chance: random.Random) -> list[dict[str, object]]:
    """The complete answer chosen, one that lacks a field rejected."""
    return [
        {
            "prompt": row["messages"][:1],
            "chosen": row["messages"][1]["content"],
            "rejected": without_a_field(row["messages"][1]["content"], chance),
        }
        for row in source
    ]


def rates(answers: Path) -> tuple[float, float]:
    """(share of answers with all fields, share of exact answers), of predictions on the held-out rows."""
    found = [json.loads(line)["prediction"] for line in answers.read_text(encoding="utf-8").splitlines()]
    wanted = [row["messages"][1]["content"] for row in rows("eval")]
    fields = [[line.partition(":")[0] for line in answer.split("\n")] for answer in wanted]
    complete = [all(f"{field}:" in text for field in names) for text, names in zip(found, fields, strict=True)]
    exact = [text.strip() == answer for text, answer in zip(found, wanted, strict=True)]
    return statistics.mean(complete), statistics.mean(exact)


def main() -> None:
    """Print both rates of every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--loss", default="dpo")
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--lr", default="1e-3")
    args = parser.parse_args()
    train, held_out = rows("train"), task_file("eval")
    print(f"{args.loss}, {args.epochs} epochs of {len(train) // 2} pairs, lr {args.lr}")
    print("| seed | complete before | after | exact before | after |\n|---|---|---|---|---|")
    for seed in map(int, args.seeds.split(",")):
        chance = random.Random(seed)
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            first = write(place / "first.jsonl", incomplete(train[: len(train) // 2], chance))
            second = write(place / "pairs.jsonl", pairs(train[len(train) // 2 :], chance))
            petrun("train", "embedded/lora", "--data", first, "--epochs", 6, "--seed", seed, "--out", place / "sft")
            petrun("merge", "--delta", place / "sft", "--out", place / "base")
            base = ("--base", place / "base")
            petrun("predict", *base, "--data", held_out, "--out", place / "before.jsonl")
            common = ("--loss", args.loss, "--lr", args.lr, "--epochs", args.epochs, "--seed", seed)
            petrun("train", *base, "--algo", "lora", "--data", second, *common, "--out", place / "run")
            petrun("predict", *base, "--delta", place / "run", "--data", held_out, "--out", place / "after.jsonl")
            before, after = (rates(place / f"{when}.jsonl") for when in ("before", "after"))
        print(f"| {seed} | {before[0]:.3f} | {after[0]:.3f} | {before[1]:.3f} | {after[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
