"""`petrun plan`."""

from __future__ import annotations

from petrun.cli import train
from petrun.cli.command import Command
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.commands.train import PlanSettings

_NOT_OURS = {*LAUNCH_FIELDS, "dry_run", "preflight", "resume", "allow", "compile_cache", "memory_check"}
"""Options of `petrun train` that start its ranks, or go on with a run that is there."""


def plan(settings: PlanSettings) -> None:
    """Say all that is known of a run before it starts: model, targets, batches, shapes, memory, layout, files, and every setting.

    Takes what `petrun train` takes, loads no weights and writes nothing. --device ascend needs no card here. Ends with an exit code that is
    not 0 where the run could not work.

        petrun plan --algo lora --rank 8 --base ./llama --data train.jsonl
        petrun plan --algo lora --base ./llama --data train.jsonl --device ascend --cards 8 --fit 32G
        petrun plan --algo lora --base ./llama --data train.jsonl --on 8x910b --utilisation 0.35 --price 2
        petrun plan bert/sst2-lora --base ./bert --data train.tsv --json
    """
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.plan import run

    run(settings)


COMMAND = Command(
    name="plan",
    settings=PlanSettings,
    run=plan,
    options=(
        *(key for key in train.COMMAND.options if key not in _NOT_OURS),
        "cards",
        "fit",
        "on",
        "utilisation",
        "throughput",
        "peak",
        "price",
        "as_json",
    ),
)
