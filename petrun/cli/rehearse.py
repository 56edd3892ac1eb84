"""`petrun rehearse`."""

from __future__ import annotations

import sys
from dataclasses import replace

from petrun.cli import train
from petrun.cli.command import Command
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.commands.train import RehearseSettings

_NOT_OURS = {
    *LAUNCH_FIELDS,
    *(
        "eval.metrics",
        "dry_run",
        "preflight",
        "resume",
        "allow",
        "out.dir",
        "out.format",
        "device",
        "compile_cache",
        "memory_check",
    ),
    *(key for key in train.SAVING if key != "train.spike_ratio"),
}
"""Options of `petrun train` that start its ranks, say where its results go, and on what it computes."""


def rehearse(settings: RehearseSettings) -> None:
    """Compile the training step of some ranks of a cluster on this machine, without a card: shards, collectives, memory.

    Takes what `petrun train` takes, and needs no weights and no data: a base's config.json is enough. Builds a stub of Ascend's
    software with g++ on first use. Computes nothing, unless --compute says so.

        petrun rehearse --base ./llama --algo lora --cards 64 --parallel tp=4 --ranks 0,63
    """
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.rehearse import run

    run(replace(settings, debug="--debug" in sys.argv))


COMMAND = Command(
    name="rehearse",
    settings=RehearseSettings,
    run=rehearse,
    options=(
        *(key for key in train.COMMAND.options if key not in _NOT_OURS),
        *("cards", "ranks", "level", "json_file", "strategy_folder", "compute", "shrink"),
    ),
)
