"""Does back-translation help? The embedded task with a few labelled rows, and records without questions.

    python scripts/bench/backtranslation.py [--labelled 64] [--texts 480] [--steps 192] [--seeds 2] [--out FOLDER]

Of the task's rows some are labelled; of others the answers alone are kept, as texts. Then

    backward  LoRA on the labelled rows, question and answer exchanged; petrun data backtranslate makes a question for each text
    forward   LoRA on the labelled rows, which scores what was made: petrun data score --by ifd, and the lower half by petrun data select

and LoRA is trained with the same steps on the labelled rows alone, with all that was made, with the selected half, and, as a bound, with
the texts' own questions. Printed: exact match on the embedded task's evaluation rows, mean and range over the seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from selection import TASK, petrun, read, train, write


def prepare(folder: Path, labelled: int, texts: int, steps: int) -> dict[str, Path]:
    """Make the sets that are compared."""
    lines = (TASK / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(0).sample(lines, labelled + texts)]
    seed, rest = rows[:labelled], rows[labelled:]
    source = write(folder / "labelled.jsonl", seed)
    records = write(folder / "texts.jsonl", [{"text": row["messages"][1]["content"]} for row in rest])
    swapped, asked = folder / "swapped.jsonl", folder / "asked.jsonl"
    petrun("data", "convert", str(source), "--swap", "--out", str(swapped))
    train(swapped, folder / "backward", steps, 0, measure=False)
    petrun(
        "data", "backtranslate", str(records), "--delta", str(folder / "backward"), "--max-new-tokens", "80",
        "--batch-size", "32", "--out", str(asked),
    )  # fmt: skip
    made = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in read(asked)
    ]
    made_file = write(folder / "made.jsonl", made)
    train(source, folder / "forward", steps, 0, measure=False)
    scores, chosen = folder / "scores.jsonl", folder / "chosen.jsonl"
    petrun("data", "score", str(made_file), "--by", "ifd", "--delta", str(folder / "forward"), "--out", str(scores))
    petrun("data", "select", str(made_file), "--scores", str(scores), "--top", "50%", "--lowest", "--out", str(chosen))
    return {
        "labelled": source,
        "with all questions made": write(folder / "with-made.jsonl", [*seed, *made]),
        "with the lower half": write(folder / "with-chosen.jsonl", [*seed, *read(chosen)]),
        "with the own questions": write(folder / "with-own.jsonl", rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labelled", type=int, default=64)
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(given.out or made)
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in prepare(folder, given.labelled, given.texts, given.steps).items():
            scores = [train(path, folder / f"{path.stem}-{seed}", given.steps, seed) for seed in range(given.seeds)]
            print(
                f"{name:24} {len(read(path)):4} rows: exact match {statistics.mean(scores):.3f} "
                f"({min(scores):.3f} to {max(scores):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
