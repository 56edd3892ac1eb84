"""`petrun vocab train|merge`: more pieces for a base's tokenizer, and rows for them."""

from __future__ import annotations

from typing import Any

import typer

from petrun.cli.command import Command
from petrun.config.commands.vocab import MergeVocabSettings, TrainVocabSettings

app = typer.Typer(help="New pieces for a base's vocabulary.", no_args_is_help=True)


def train(settings: TrainVocabSettings) -> None:
    """Train a tokenizer of the base's kind (BPE, WordPiece or Unigram) on text.

    petrun vocab train chinese.jsonl --base ./llama --size 10000 --out zh
    """
    from petrun.commands.vocab.train import run

    run(settings)


def merge(settings: MergeVocabSettings) -> None:
    """Append a tokenizer's pieces to a base: old ids and tensors stay, new rows are made of the old tokens' rows.

    petrun vocab merge --base ./llama --tokenizer zh --out llama-zh --held-out dev.jsonl
    """
    from petrun.commands.vocab.merge import run

    run(settings)


COMMANDS: tuple[Command[Any], ...] = (
    Command(name="train", settings=TrainVocabSettings, run=train, options=("files", "base", "size", "out")),
    Command(
        name="merge",
        settings=MergeVocabSettings,
        run=merge,
        options=("base", "tokenizer", "out", "init", "held_out", "seed"),
    ),
)
for command in COMMANDS:
    command.add_to(app)
