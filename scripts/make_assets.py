"""Make the embedded default anew: base model, tokenizer and task rows in petrun/assets.

    python scripts/make_assets.py [--out petrun/assets] [--steps N] [--seed N] [--only data|base]

All text is generated here. The tokenizer and the rows are the same bytes for the same seed; the weights depend on the machine's arithmetic
in their last digits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Literal

from assets import words
from assets.bpe import special_tokens_map, tokenizer_config, train_tokenizer
from assets.documents import document
from assets.orders import task_rows
from tokenizers import Tokenizer

HOME = Path(__file__).resolve().parent.parent / "petrun" / "assets"
VOCABULARY, LONGEST = 2048, 1024
ROWS: dict[Literal["train", "eval"], int] = {"train": 1024, "eval": 128}


def train_default_tokenizer(seed: int) -> Tokenizer:
    """From documents, some training records and the closed word lists, so that each word of a value becomes one token."""
    texts = [document(seed, i) for i in range(8000)]
    texts += [row["messages"][1]["content"] for row in task_rows(seed, "train", 600)]
    texts += [f" {word}" for word in words.every_word() for _ in range(50)]
    return train_tokenizer(texts, VOCABULARY)


def make_tokenizer(folder: Path, seed: int) -> Tokenizer:
    tokenizer = train_default_tokenizer(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(LONGEST), indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens_map(), indent=2) + "\n")
    return tokenizer


def make_rows(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in ROWS.items():
        rows = task_rows(seed, part, count)
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HOME, help="folder to fill: base/ and task/")
    parser.add_argument("--steps", type=int, default=1500, help="pretraining steps of 4096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["data", "base"], help="task rows alone, or tokenizer and base alone")
    given = parser.parse_args()
    if given.only != "base":
        make_rows(given.out / "task", given.seed)
    if given.only != "data":
        tokenizer = make_tokenizer(given.out / "base", given.seed)
        # Here, not above: it imports mindspore, which data and tests do not need; and petrun may be a mere clone.
        sys.path.insert(0, str(HOME.parent.parent))
        from assets.pretrain import pretrain

        pretrain(tokenizer, given.out / "base", given.seed, given.steps)


if __name__ == "__main__":
    main()
