"""`petrun embed`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.data import EmbedSettings


def embed(settings: EmbedSettings) -> None:
    """Write a vector for each row, by a folder of sentence-transformers, whose pooling and dense modules are read.

    petrun embed rows.jsonl --encoder ./labse --part question --out vectors.npy
    """
    from petrun.commands.embed import run

    run(settings)


COMMAND = Command(
    name="embed",
    settings=EmbedSettings,
    run=embed,
    options=(
        "files",
        "encoder",
        "out",
        *("part", "batch_size", "source", "target", "on_bad_row", "device", "compile_cache", "sets"),
    ),
)
