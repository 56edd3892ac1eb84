"""`petrun sweep`."""

from __future__ import annotations

from petrun.cli import train
from petrun.cli.command import Command, SchemaKey
from petrun.cli.signals import distinguish_signals
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.commands.train import SweepSettings

_NOT_OURS = {*LAUNCH_FIELDS, "preflight", "resume", "allow", "parallel", "parallel.card_memory", "out.dir"}
"""Options of `petrun train` that start or divide ranks, or go on with one run."""


def sweep(settings: SweepSettings) -> None:
    """Train every combination of some settings, one run after another, and print the table with the best first.

    Runs that differ only in learning rate, warm-up, weight decay, betas, eps, clipping or the last rate share one base and one compiled
    graph; each has the bits that it would have alone. Each has a run folder of its own below --out. The same command goes on with a sweep
    that was stopped; a run that diverges does not stop the others.

        petrun sweep --algo lora --over lr=1e-4,3e-4,1e-3,3e-3 --over seed=0,1 --halving 2
        petrun sweep --algo lora --over lr=1e-4,3e-4,1e-3 --over delta.rank=4,8
        petrun sweep bert/sst2-lora --base ./bert --data train.tsv --over lr=1e-4,3e-4 --over seed=0,1,2 --out sweeps/sst2
    """
    with distinguish_signals():
        # Imported here so that --help does not wait for MindSpore.
        from petrun.commands.sweep import run

        run(settings)


COMMAND = Command(
    name="sweep",
    settings=SweepSettings,
    run=sweep,
    options=(
        "recipe",
        "over",
        "halving",
        *(key for key in train.COMMAND.options if key not in (*_NOT_OURS, "recipe", "sets", "dry_run")),
        SchemaKey(name="out.dir", help="Folder of the sweep, with a folder for each run. Default: sweeps/<algo>-N."),
        "sets",
        "dry_run",
    ),
)
